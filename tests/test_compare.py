"""benchmarks/compare.py: what it reads, what it measures, and what it makes of the times."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

import fastconv

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def benchmarks_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)


def module(name):
    return importlib.import_module(f"benchmarks.{name}")


def all_layers():
    problems = module("problems")
    return [layer for name in problems.set_names() for layer in problems.layer_set(name)]


def row(ours, peer, *, count=1, macs=1, threads=1, inexact=False):
    """A row with times; `macs` outputs of a 1x1 convolution of one channel."""
    standings = module("standings")
    entries = {
        "layer": standings.Entry([ours, 2 * ours]),
        "torch": standings.Entry([peer], inexact=inexact),
        "openvino": standings.Entry(why="no"),
    }
    problem = module("problems").Problem.parse(f"conv2d_ic1ih1iw{macs}kw1")
    return standings.Row("some", problem, count, "f32", threads, "FMA", ours / 2, entries)


def test_a_name_is_enough_to_build_its_problem_again():
    problems = module("problems")
    for layer in all_layers():
        again = problems.Problem.parse(str(layer.problem))
        assert (again, again.label) == (layer.problem, layer.problem.label)


def test_the_sets_hold_problems_that_exist():
    for layer in all_layers():
        p = layer.problem
        assert min(p.output_shape) > 0 and p.ic % p.groups == p.oc % p.groups == 0, p
        assert p.op not in module("problems").GLOBAL_POOLS or p.kernel == p.image


def test_other_names_of_columns_and_padding_that_happened_before(tmp_path):
    problems = module("problems")
    path = tmp_path / "found.csv"
    path.write_text(
        "# a comment\n"
        "c,h,w,oc,oh,ow,kh,kw,pad_l,pad_r,pad_t,pad_b,sh,sw,dh,dw,groups,bias,n_uses,example\n"
        "8,14,14,4,14,14,3,3,1,1,1,1,1,1,1,1,1,False,7,net.a\n"
        "3,224,224,16,112,112,3,3,0,0,0,0,2,2,1,1,1,True,2,net.b\n"
    )
    even, same = problems.read(path)
    assert str(even.problem) == "found.net.a:conv2d_ic8ih14oc4kh3ph1" and even.count == 7
    assert same.problem.output_shape == (1, 16, 112, 112) and same.problem.bias == 1


@pytest.mark.parametrize("op", ["conv2d", "conv_transpose2d", "max_pool2d", "avg_pool1d"])
def test_sizes_are_those_of_fastconv(op):
    problems, ours = module("problems"), module("ours")
    sizes = {"kw": 4, "sw": 3, "pw": 2, "dw": 2} if op.startswith("conv") else {"kw": 4, "sw": 3}
    high = {"ih": 11, "kh": 3, "sh": 2, "ph": 1} if op.endswith("2d") else {}
    p = problems.Problem.make(op, ic=2, iw=13, **sizes, **high)
    assert ours.function(p, *problems.arrays(p, "f32"))().shape == p.output_shape


@pytest.mark.parametrize("set_name", ["tiny", "nhwc", "3d", "transposed"])
def test_functions_and_layers_compute_what_the_reference_does(set_name):
    problems, ours, checking = module("problems"), module("ours"), module("checking")
    cheap = sorted(problems.layer_set(set_name), key=lambda layer: layer.problem.flops)[:12]
    for p in (layer.problem for layer in cheap):
        for make in ours.OURS.values():
            y = make(p, *problems.arrays(p, "f32"))()
            checking.compare(p, "f32", checking.at_positions(p, y))


def test_a_sample_is_seeded_and_prefers_what_models_use():
    problems = module("problems")
    rows = [problems.Layer(problems.Problem.parse(f"conv2d_ic{n}"), n) for n in range(1, 101)]
    drawn = problems.draw(rows, 20, seed=1)
    assert drawn == problems.draw(rows, 20, seed=1) != problems.draw(rows, 20, seed=2)
    assert np.mean([layer.count for layer in drawn]) > 50
    assert problems.draw(rows, 200, seed=1) == rows


def test_figures_are_over_the_best_peer_that_is_right():
    standings = module("standings")
    rows = [
        row(1.0, 4.0, count=3),
        row(2.0, 2.0, macs=2_000_000),
        row(1.0, 0.1, inexact=True),
    ]
    found = standings.figures(rows, "layer")
    assert found["layers"] == 2 and found["mean"] == 2 and found["large"] == 1
    assert found["least"] == 1 and found["below_0.9"] == 0 and found["percent"] == 50
    assert found["time"] == (3 * 4 + 2) / (3 * 1 + 2)
    assert found["ceiling"] == 4  # the limit is at half of our time
    assert standings.figures(rows, "function")["mean"] is None


def test_every_network_has_a_line_with_the_peers_times():
    standings = module("standings")
    one = row(0.0074, 0.0080)
    two = row(0.4, 0.3, threads=2)
    one.problem = two.problem = module("networks").Network("squeezenet", 224)
    line = "| squeezenet (some, f32) | 7.4 | 8 | - | 1.08 | 50 | 400 | 300 | - | 0.75 | 50 |"
    assert line in standings.networks_markdown([one, row(1.0, 2.0), two]).splitlines()
    assert standings.networks_markdown([row(1.0, 2.0)]) == ""


def test_threads_are_compared_on_the_large_problems():
    standings = module("standings")
    large = {"macs": 30_000_000}
    rows = [row(4.0, 9.0, **large), row(2.0, 9.0, threads=2, **large), row(1.0, 9.0, threads=2)]
    assert [speed for speed, _ in standings.scaling(rows, "layer")["some", "f32", 2]] == [2]


def test_only_what_is_between_the_marks_of_the_readme_changes(tmp_path):
    standings = module("standings")
    path = tmp_path / "README.md"
    path.write_text("before <!-- measured -->\nso far\n<!-- /measured --> after")
    standings.write_readme(path, [row(1.0, 2.0)], "machine", "how to read")
    text = path.read_text()
    assert text.startswith("before <!--") and text.endswith("--> after") and "so far" not in text
    assert "| some | f32 | 1 | 1 | 2.00 / - |" in text
    path.write_text("no marks")
    with pytest.raises(ValueError, match="no place"):
        standings.write_readme(path, [], "", "")


def test_the_command_measures_writes_and_loads_again(tmp_path, capsys):
    pytest.importorskip("tqdm")
    compare = module("compare")
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    options = ["--set", "tiny", "--quick", "--sample", "2", "--threads", "1", "--peers"]
    compare.main([*options, "--json", str(first)])
    document = json.loads(first.read_text())
    assert document["facts"]["fastconv"] == fastconv.__version__
    assert len(document["rows"]) == 2
    for measured in document["rows"]:
        assert measured["entries"]["function"]["seconds"] > 0
    compare.main(["--load", str(first), "--json", str(second), "--rows"])
    assert json.loads(second.read_text()) == document
    assert document["rows"][0]["problem"].partition(":")[0] in capsys.readouterr().out


def test_a_network_is_built_again_from_its_name():
    networks, parse = module("networks"), module("functions").parse
    for network in networks.all_networks():
        assert parse(str(network)) == network
    small = networks.Network("squeezenet", 64)
    assert small.output_shape == (1, 1000) and small.macs > 10_000_000
    first, second = (small.model("f32")(small.image("f32")) for _ in range(2))
    assert np.array_equal(first, second) and first.std() > 0


@pytest.mark.parametrize(
    "name", ["shufflenet_v2", "densenet121", "mobilenet_v2", "unet", "alexnet"]
)
def test_other_libraries_get_the_same_network(name):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    networks = module("networks")
    network = networks.Network(name, 224 if name == "alexnet" else 64)
    x = network.image("f32")
    session = onnxruntime.InferenceSession(
        network.onnx_model(x.dtype), providers=["CPUExecutionProvider"]
    )
    right, bound = module("checking").expected(network, "f32")
    (y,) = session.run(None, {"x": x})
    assert (np.abs(module("checking").at_positions(network, y) - right) <= bound).all()
