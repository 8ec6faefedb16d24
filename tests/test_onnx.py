"""fastconv.onnx: what a session does, and that no file can do anything else."""

import concurrent.futures
import contextlib
import os
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import fastconv
import fastconv.onnx as ort
import fuzz_onnx
import onnx_seeds
from fastconv.onnx.model import MOST_NODES
from fastconv.onnx.network import Network
from fastconv.onnx.schema import SCHEMA
from fastconv.onnx.wire import DEEPEST, MOST_MESSAGES, read
from onnx_files import attribute, field, message, model, node, small, tensor, value


def image(batch=2, seed=1):
    return np.random.default_rng(seed).standard_normal((batch, 1, 8, 8)).astype(np.float32)


def run(nodes, inputs, constants=(), outputs=("y",), opset=13):
    """The first model that does these nodes, on inputs by name."""
    data = model(
        nodes,
        [(name, array.dtype, array.shape) for name, array in inputs.items()],
        [(name, "f4", ["?"]) for name in outputs],
        constants,
        opset,
    )
    return ort.InferenceSession(data).run(None, inputs)


def by_hand(x, seed=0):
    """What `small` computes."""
    rng = np.random.default_rng(seed)
    w, b, v, c = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in ((4, 1, 3, 3), (4,), (3, 64), (3,))
    )
    y = fastconv.max_pool2d(fastconv.conv2d(x, w, b, padding=1, activation="relu"), 2)
    return fastconv.linear(y.reshape(len(x), -1), v, c)


def test_a_session_has_the_names_of_onnx_runtime(tmp_path):
    path = tmp_path / "small.onnx"
    path.write_bytes(small())
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (entry,), (exit_,) = session.get_inputs(), session.get_outputs()
    assert (entry.name, entry.type, entry.shape) == ("x", "tensor(float)", ["batch", 1, 8, 8])
    assert (exit_.name, exit_.shape) == ("y", ["batch", 3])
    x = image()
    (y,) = session.run(["y"], {"x": x})
    assert y.dtype == np.float32 and np.array_equal(y, by_hand(x))
    assert np.array_equal(session(x), y)
    assert np.array_equal(ort.InferenceSession(small())(x), y)


def test_other_shapes_are_planned_anew_and_results_belong_to_the_caller():
    session = ort.InferenceSession(small())
    results = {batch: session(image(batch)) for batch in range(1, 12)}
    for batch, y in results.items():
        assert np.array_equal(y, by_hand(image(batch)))
    assert np.array_equal(session(image(3)), results[3])


@pytest.mark.parametrize("prepares", [True, False])
def test_many_threads_may_run_one_session(prepares):
    """All begin at once, with shapes of their own, on a session that has run nothing."""
    session = ort.InferenceSession(small())
    session._prepares = prepares
    images = [image(1 + i % 5, seed=i) for i in range(64)]
    expected, begin = [by_hand(x) for x in images], threading.Barrier(8)

    def caller(first):
        begin.wait()
        return [(i, session(images[i])) for i in range(first, 64, 8)]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = [pair for pairs in pool.map(caller, range(8)) for pair in pairs]
    assert len(results) == 64
    assert all(y.tobytes() == expected[i].tobytes() for i, y in results)


def test_the_network_is_prepared_once_and_few_plans_are_kept(monkeypatch):
    made, prepare = [], Network.prepare
    monkeypatch.setattr(Network, "prepare", lambda *args: made.append(1) or prepare(*args))
    session, begin = ort.InferenceSession(small()), threading.Barrier(8)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: (begin.wait(), session(image(n))), range(1, 9)))
    for batch in range(1, 21):
        session(image(batch))
    assert len(made) == 1
    assert len(session._prepared._network._plans) <= 8


def test_numbers_stay_numbers():
    for op in ("Softplus", "Relu", "Neg"):
        (y,) = run([node(op, ["x"], ["y"])], {"x": np.float32(1)})
        assert y.shape == ()


@pytest.mark.parametrize("file", sorted(fuzz_onnx.CORPUS.iterdir()), ids=lambda file: file.name)
def test_files_that_were_found(file):
    """By fuzz_onnx.py: each of them once crashed, hung, took too much or raised something else."""
    fuzz_onnx.check(file.read_bytes())


def test_the_seeds_of_the_search_run():
    ran = set()
    for name, data in onnx_seeds.seeds().items():
        fuzz_onnx.check(data)
        session = ort.InferenceSession(data)
        with contextlib.suppress(ort.ModelError):
            session.run(None, {each.name: fuzz_onnx.made(each) for each in session.get_inputs()})
            ran.add(name.partition("-")[0])
    assert len(ran) >= 109


@pytest.mark.parametrize(
    ("feed", "error", "says"),
    [
        ({}, ValueError, r"missing \['x'\]"),
        ({"x": image(), "z": image()}, ValueError, r"unknown \['z'\]"),
        ({"x": image().astype(np.float64)}, TypeError, "takes float32, got float64"),
        ({"x": image()[:, :, :7]}, ValueError, r"takes \['batch', 1, 8, 8\]"),
        ({"x": image()[0]}, ValueError, "takes"),
    ],
)
def test_wrong_inputs_are_named(feed, error, says):
    with pytest.raises(error, match=says):
        ort.InferenceSession(small()).run(None, feed)


def test_a_missing_output_is_named():
    with pytest.raises(ValueError, match="no output 'z'"):
        ort.InferenceSession(small()).run(["z"], {"x": image()})


NOT_THERE = [
    "If", "Loop", "Scan", "LSTM", "GRU", "RNN", "NonMaxSuppression", "RoiAlign", "MaxRoiPool",
    "SequenceAt", "SequenceConstruct", "SplitToSequence", "StringNormalizer", "Optional",
]  # fmt: skip


@pytest.mark.parametrize("op", NOT_THERE)
def test_operators_that_are_not_there_are_named_before_anything_runs(op):
    """Before the file's other parts are looked at: a body, or an output that is no tensor."""
    body = message("Attribute", name="body", g=b"\x0a\x00", type=5)
    given = message("Node", input=["a"], output=["b"], op_type=op, name="n", attribute=[body])
    nodes = [node("Tile", ["x", "huge"], ["a"]), given, node("Loop", ["b"], ["y"])]
    nothing = message("ValueInfo", name="y")
    data = model(nodes, [], []) + field(7, message("Graph", node=nodes, output=[nothing]))
    with pytest.raises(ort.ModelError, match=f"not supported: .*{op}"):
        ort.InferenceSession(data)


def test_operators_and_functions_of_others_are_named():
    theirs = node("Conv", ["x"], ["y"], domain="com.other")
    with pytest.raises(ort.ModelError, match=r"not supported: If, LSTM, com\.other\.Conv$"):
        run([node("LSTM", ["x"], ["y"]), theirs, node("If", [], ["y"])], {"x": image()})
    inner = [node("Loop", ["x"], ["y"])]
    for domain, name in (("com.other", "Conv"), ("", "Relu"), ("", "Loop")):
        function = message("Function", name=name, domain=domain)
        function += b"".join(field(7, each) for each in inner)
        data = model([node(name, ["x"], ["y"], domain=domain)], [], [], functions=[function])
        with pytest.raises(ort.ModelError, match=rf"functions .*{domain}\.{name}"):
            ort.load(data)
    many = [node(f"{i:03}" + "x" * 1000, ["x"], ["y"]) for i in range(100)]
    with pytest.raises(ort.ModelError, match="and others$") as caught:
        run(many, {"x": image()})
    assert len(str(caught.value)) < 5000


def test_messages_are_counted_before_they_take_memory():
    nodes = field(7, b"\x0a\x00" * (MOST_MESSAGES + 1))
    with pytest.raises(ort.ModelError, match="more than"):
        ort.load(nodes)
    nodes = field(7, field(1, field(4, "Relu")) * (MOST_NODES + 1))
    with pytest.raises(ort.ModelError, match="more than"):
        ort.load(nodes + message("Model", opset_import=[message("OperatorSet", version=13)]))


def test_numbers_that_come_one_by_one_take_little_memory():
    """As old files have them: two bytes each, of which a hundred must not become."""
    n = 100_000
    data = field(7, field(1, field(5, field(1, "a") + b"\x40\x05" * n)))
    tracemalloc.start()
    (ints,) = read(SCHEMA, "Model", memoryview(data)).graph.node[0].attribute
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert ints.ints.tolist() == [5] * n and peak < 20 * n


def test_shapes_that_depend_on_an_inputs_values():
    x = np.array([4, 2, 0, 0, 0, 0, 0, 0], np.float32)
    shape = [node("Slice", ["x"], ["2"], starts=[0], ends=[2]), node("Cast", ["2"], ["s"], to=7)]
    nodes = [*shape, node("Reshape", ["x", "s"], ["y"])]
    for sizes in ((4, 2), (2, 4)):
        x[:2] = sizes
        assert run(nodes, {"x": x}, opset=9)[0].shape == sizes


def test_weights_in_files_beside_the_model(tmp_path):
    w = np.arange(6, dtype=np.float32)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "w.bin").write_bytes(b"12345678" + w.tobytes())
    (tmp_path / "m.onnx").write_bytes(with_external("inner/w.bin", 8, w.nbytes))
    assert np.array_equal(ort.InferenceSession(tmp_path / "m.onnx")(np.zeros(6, np.float32)), w)


def with_external(location, offset=0, length=24):
    entries = {"location": location, "offset": str(offset), "length": str(length)}
    listed = [message("Entry", key=key, value=text) for key, text in entries.items()]
    w = tensor("w", np.zeros(6, np.float32), external_data=listed, data_location=1)
    nodes = [node("Add", ["x", "w"], ["y"])]
    return model(nodes, [("x", "f4", [6])], [("y", "f4", [6])], [w])


@pytest.mark.parametrize(
    "location",
    ["../secret", "/etc/passwd", "inner/../../secret", "link", "hard", "folder/w", "inner", "", "a\0b",
     "..\\secret", "no such file", "pipe", "."],
)  # fmt: skip
def test_no_file_outside_of_the_models_folder_is_read(tmp_path, location):
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(24))
    (tmp_path / "w").write_bytes(bytes(24))
    (folder / "link").symlink_to(secret)
    (folder / "folder").symlink_to(tmp_path)
    os.link(secret, folder / "hard")
    os.mkfifo(folder / "pipe")
    (folder / "m.onnx").write_bytes(with_external(location))
    with pytest.raises(ort.ModelError):
        ort.InferenceSession(folder / "m.onnx")
    with pytest.raises(ort.ModelError, match="by its path"):
        ort.InferenceSession(with_external("w.bin"))


@pytest.mark.parametrize(
    ("offset", "length"), [(1, 24), (0, 28), (1 << 62, 24), (-1, 24), (0, 1 << 70)]
)
def test_weights_end_within_their_file(tmp_path, offset, length):
    (tmp_path / "w.bin").write_bytes(bytes(24))
    (tmp_path / "m.onnx").write_bytes(with_external("w.bin", offset, length))
    with pytest.raises(ort.ModelError):
        ort.InferenceSession(tmp_path / "m.onnx")


def test_a_file_cut_at_any_byte():
    data = small()
    whole = by_hand(image(1))
    for end in range(len(data)):
        try:
            session = ort.InferenceSession(data[:end])
        except ort.ModelError:
            continue
        with pytest.raises((ValueError, TypeError)):
            assert session(image(1)).shape != whole.shape


def test_a_file_with_any_byte_changed():
    """But those of weights; to the least, the most, its neighbour and another sign."""
    data, weights = small(), ort.load(small()).constants.values()
    inside = {data.index(w.tobytes()) + i for w in weights for i in range(w.nbytes)}
    for at in {*range(len(data))} - inside:
        for byte in (0, 255, data[at] ^ 1, data[at] ^ 128):
            fuzz_onnx.check(data[:at] + bytes([byte]) + data[at + 1 :])


def test_lengths_that_are_not_there_allocate_nothing():
    for claim in (1 << 31, 1 << 62, (1 << 64) - 1):
        with pytest.raises(ort.ModelError):
            ort.load(b"\x3a" + field(1, claim)[1:])
    huge = message("Tensor", dims=[1 << 40, 1 << 40], data_type=1, name="w")
    with pytest.raises(ort.ModelError, match="shape"):
        ort.load(model([], [], [], [huge]))
    large = message("Tensor", dims=[1 << 40], data_type=1, name="w", float_data=[1.0])
    with pytest.raises(ort.ModelError, match="1099511627776 elements"):
        ort.load(model([], [], [], [large]))


def test_messages_that_nest_without_end():
    data = b""
    for _ in range(10_000):
        data = field(6, data)
    with pytest.raises(ort.ModelError):
        ort.load(
            model(
                [
                    message(
                        "Node",
                        op_type="If",
                        attribute=[message("Attribute", name="g", g=data, type=5)],
                    )
                ],
                [],
                [],
            )
        )
    assert DEEPEST < 100


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no graph"),
        (b"not a model at all", "ModelError|field|bytes|wire"),
        (model([], [], [], opset=99), "opset 99"),
        (model([], [("x", "f4", [1]), ("x", "i8", [2])], []), "same name"),
        (model([], [("", "f4", [1])], []), "no name"),
        (model([node("Relu", ["x"], [""])], [("x", "f4", [1])], [("", "f4", [1])]), "no name"),
        (message("Model", ir_version=8, graph=b""), "which opset"),
        (model([node("Relu", ["a"], ["y"])], [], [("y", "f4", [1])]), "takes 'a'"),
        (model([], [], [("y", "f4", [1])]), "made by nothing"),
        (model([node("Relu", ["x"], ["x"])], [("x", "f4", [1])], []), "made twice"),
        (model([node("Relu", ["b"], ["a"]), node("Relu", ["a"], ["b"])], [], []), "takes 'b'"),
        (model([], [], [], [message("Tensor", dims=[2], data_type=1, raw_data=b"123")]), "has 3 bytes"),
        (model([], [], [], [message("Tensor", dims=[-1], data_type=1)]), "shape"),
        (model([], [], [], [message("Tensor", dims=[1] * 40, data_type=1)]), "shape"),
        (model([], [], [], [message("Tensor", dims=[1], data_type=77)]), "type 77"),
        (model([], [], [], functions=[message("Function", name="f", domain="d")]), "functions.*d.f"),
    ],
)  # fmt: skip
def test_files_that_are_no_models(data, says):
    with pytest.raises(ort.ModelError, match=says):
        ort.load(data)


def test_attributes_of_old_files_have_no_type():
    old = message("Attribute", name="axis", i=0)
    joined = message("Node", input=["x", "x"], output=["y"], op_type="Concat", attribute=[old])
    data = model([joined], [("x", "f4", [2, 2])], [("y", "f4", [4, 2])])
    assert ort.InferenceSession(data)(np.ones((2, 2), np.float32)).shape == (4, 2)


def test_large_weights_are_views_of_the_file(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(small())
    constants = ort.load(path).constants
    assert not constants["w"].flags.owndata and not constants["w"].flags.writeable


@pytest.mark.parametrize("shift", range(4))
@pytest.mark.parametrize("trans", [0, 1])
def test_weights_leave_the_file_once_they_are_packed(tmp_path, shift, trans):
    """Whatever address they lie at there."""
    rng = np.random.default_rng(shift)
    w = rng.standard_normal((2048, 1024) if trans else (1024, 2048), np.float32)
    path, x = tmp_path / "m.onnx", rng.standard_normal((2, 1024), np.float32)
    nodes = [node("Gemm", ["x", "w"], ["y"], transB=trans)]
    arguments = [nodes, [("x", "f4", ["n", 1024])], [("y", "f4", ["n", 2048])], [("w", w)]]
    path.write_bytes(model(*arguments, producer_name="n" * shift))
    before = resident_of_files()
    session = ort.InferenceSession(path)
    y = session(x)
    assert resident_of_files() - before < w.nbytes // 4
    assert np.array_equal(y, fastconv.linear(x, w if trans else w.T))
    assert np.array_equal(session(x[:1].repeat(3, 0)), y[:1].repeat(3, 0))


def resident_of_files():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssFile"))


def test_numbers_are_read_from_every_field():
    listed = {
        1: dict(float_data=[1.5, 2.0]),
        2: dict(int32_data=[3, 200]),
        3: dict(int32_data=[-3, 4]),
        7: dict(int64_data=[-(1 << 62), 5]),
        9: dict(int32_data=[0, 1]),
        10: dict(int32_data=[0x3C00, 0xC000]),
    }
    expected = {
        1: [1.5, 2.0], 2: [3, 200], 3: [-3, 4], 7: [-(1 << 62), 5], 9: [False, True], 10: [1.0, -2.0],
    }  # fmt: skip
    for code, data in listed.items():
        given = message("Tensor", dims=[2], data_type=code, name="w", **data)
        assert ort.load(model([], [], [], [given])).constants["w"].tolist() == expected[code]
    bits = message("Tensor", dims=[1], data_type=16, name="w", raw_data=b"\x80\x3f")
    assert ort.load(model([], [], [], [bits])).constants["w"].tolist() == [1.0]


def test_every_operator_can_be_asked_for():
    assert {"Conv", "MaxPool", "Gemm", "Resize"} <= {*ort.operators()}
    assert len(ort.operators()) > 100
    assert attribute("a", 1) != attribute("a", 2) and value("x", "f4", [1])


def command(capsys, *arguments):
    from fastconv.__main__ import main

    main([*map(str, arguments)])
    return capsys.readouterr().out


def test_the_commands_run_and_summary_take_a_file(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx").write_bytes(small())
    np.save(tmp_path / "x.npy", image(1))
    assert "y float32 1x3 -> m.npy" in command(capsys, "run", "m.onnx", "x.npy")
    assert np.array_equal(np.load("m.npy"), by_hand(image(1)))
    assert "2 496 multiply-adds" in command(capsys, "summary", "m.onnx")
    assert "1×4×8×8" in command(capsys, "summary", "m.onnx", "--input", "1x8x8")


@pytest.mark.parametrize(
    "arguments", [["run", "x.npy", "x.npy"], ["run", "m.onnx"], ["summary", "x.onnx"]]
)
def test_the_commands_say_what_is_wrong(tmp_path, monkeypatch, arguments):
    from fastconv.__main__ import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx").write_bytes(small())
    (tmp_path / "x.onnx").write_bytes(b"what")
    np.save(tmp_path / "x.npy", image(1))
    with pytest.raises(SystemExit):
        main(arguments)
