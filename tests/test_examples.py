"""What readers copy first runs as it stands: the README's example, and examples/."""

import contextlib
import io
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

import fastconv

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def photo_filters():
    pytest.importorskip("skimage")
    pytest.importorskip("scipy")
    return runpy.run_path(str(ROOT / "examples" / "photo_filters.py"))


def blocks(language: str) -> list[str]:
    """The README's code blocks in a language; "" for those without one."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [
        code
        for name, code in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
        if name == language
    ]


def test_the_readmes_first_example_prints_what_the_readme_shows():
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(blocks("python")[0], {})
    assert printed.getvalue() == blocks("")[0]


def test_the_readmes_examples_run_in_order(capsys):
    exec("\n".join(blocks("python")), {})
    said = capsys.readouterr().out
    for word in ("conv2d: float32", "workspace", "MFLOP", *fastconv._core.algorithms()):
        assert word in said


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_photo_filters_agree_with_scipy_and_are_drawn(photo_filters, dtype, tmp_path, capsys):
    path = tmp_path / "sheet.png"
    photo_filters["main"](["--dtype", dtype, "--out", str(path)])
    said = capsys.readouterr().out
    assert said.count("% of the bound used") == 7 and "max_pool2d" in said and str(path) in said
    from PIL import Image

    with Image.open(path) as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape == (922, 1376, 3) and len(np.unique(pixels)) > 200


def test_photo_filters_notice_a_wrong_pixel(photo_filters):
    rng = np.random.default_rng(0)
    x = rng.random((1, 1, 20, 20), dtype=np.float32)
    _, weights = photo_filters["filter_bank"](np.float32)
    y = photo_filters["filtered"](x, weights)
    photo_filters["check_filtered"]("filters", x, weights, 1, y)
    y[0, 3, 7, 7] += 1e-3
    with pytest.raises(SystemExit, match="times the bound"):
        photo_filters["check_filtered"]("filters", x, weights, 1, y)


def test_a_prepared_network_shows_its_steps(capsys):
    main = runpy.run_path(str(ROOT / "examples" / "prepared_network.py"))["main"]
    main(["shufflenet_v2", "--size", "64"])
    said = capsys.readouterr().out
    assert "56 batch_norm folded" in said and "as built" in said and "(2, 1000)" in said


@pytest.fixture(scope="module")
def receptive_fields():
    pytest.importorskip("skimage")
    return runpy.run_path(str(ROOT / "examples" / "receptive_fields.py"))


def test_receptive_fields_are_checked_and_drawn(receptive_fields, tmp_path, capsys):
    path = tmp_path / "sheet.png"
    receptive_fields["main"](["lenet5", "--photo", "chelsea", "--out", str(path)])
    said = capsys.readouterr().out
    assert "sees  16, stride  4" in said and "checked with a NaN" in said
    assert re.search(r"ten 3x3 +sees 21, nine tenths of the weight lie within 11", said)
    from PIL import Image

    with Image.open(path) as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape == (757, 882, 3) and len(np.unique(pixels)) > 200


def test_receptive_fields_notice_a_wrong_prediction(receptive_fields):
    net, shape = fastconv.models.lenet5(), (1, 1, 28, 28)
    fields = dict(fastconv.receptive_field(net, shape).layers)
    fields["features.1"] = fastconv.receptive_field(fastconv.nn.Conv2d(1, 1, 3, padding=1), shape)
    with pytest.raises(SystemExit, match=r"features.1: a NaN"):
        receptive_fields["check_with_nans"](net, fields, shape, 3)
