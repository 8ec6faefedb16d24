"""fastconv.checkpoints: three formats, nothing run, nothing believed that the file does not bear out."""

import io
import json
import mmap
import pickle
import struct
import warnings
import zipfile

import numpy as np
import pytest

from fastconv import models, nn
from fastconv.checkpoints import CheckpointError, load

RNG = np.random.default_rng(9)


# Writers


def safetensors(arrays, kinds=None, change=lambda header: None):
    """The bytes of a file; `kinds` names the types of arrays that NumPy has no word for."""
    words = {"f8": "F64", "f4": "F32", "f2": "F16", "i8": "I64", "u1": "U8", "b1": "BOOL"}
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        kind = (kinds or {}).get(name) or words[array.dtype.str[1:]]
        ends = [len(body), len(body) + array.nbytes]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": ends}
        body += array.tobytes()
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


class Storage:
    """An array as PyTorch stores it: a type, a key, and its bytes."""

    def __init__(self, key, kind, array, count=None):
        self.key, self.kind, self.data = key, kind, array.tobytes()
        self.count = array.size if count is None else count


class Tensor:
    def __init__(self, storage, offset, shape, strides):
        self.parts = storage, offset, shape, strides


class Call:
    """A call of what a pickle names."""

    def __init__(self, module, name, *arguments):
        self.name, self.arguments = (module, name), arguments


def opcodes(value):
    """A pickle of protocol 2, written opcode by opcode as torch.save has them."""
    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return pickle.dumps(value, 2)[2:-1]
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        case list():
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        case dict():
            items = b"".join(opcodes(part) for item in value.items() for part in item)
            return b"}(" + items + b"u"
        case Call():
            return f"c{value.name[0]}\n{value.name[1]}\n".encode() + opcodes(value.arguments) + b"R"
        case Storage():
            kind = f"ctorch\n{value.kind}\n".encode()
            identity = opcodes("storage") + kind + opcodes(value.key) + opcodes("cpu")
            return b"(" + identity + opcodes(value.count) + b"tQ"
        case Tensor():
            hooks = Call("collections", "OrderedDict")
            rebuild = Call("torch._utils", "_rebuild_tensor_v2", *value.parts, False, hooks)
            return opcodes(rebuild)
        case bytes():
            return value
    raise TypeError(value)


def storages(value):
    if isinstance(value, Storage):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from storages(part)
    elif isinstance(value, Tensor):
        yield from storages(value.parts[0])
    elif isinstance(value, Call):
        for part in value.arguments:
            yield from storages(part)


def torch_zip(content, compression=zipfile.ZIP_STORED, byteorder=None):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("net/data.pkl", b"\x80\x02" + opcodes(content) + b".")
        if byteorder:
            archive.writestr("net/byteorder", byteorder)
        for storage in {s.key: s for s in storages(content)}.values():
            archive.writestr(f"net/data/{storage.key}", storage.data)
        archive.writestr("net/version", "3\n")
    return file.getvalue()


def npz(arrays, write=np.savez):
    file = io.BytesIO()
    write(file, **arrays)
    return file.getvalue()


def whole(array, kind="FloatStorage", key="0"):
    """A contiguous tensor that is its storage."""
    strides = tuple(s // array.itemsize for s in np.empty(array.shape, array.dtype).strides)
    return Tensor(Storage(key, kind, array), 0, array.shape, strides)


@pytest.fixture
def read(tmp_path):
    def read(content):
        path = tmp_path / "weights.bin"
        path.write_bytes(content)
        return load(path)

    return read


ARRAYS = {
    "a.weight": RNG.standard_normal((3, 4, 2)).astype(np.float32),
    "b": RNG.standard_normal(5),
    "empty": np.zeros((0, 3), np.float32),
    "half": RNG.standard_normal((2, 2)).astype(np.float16),
    "count": np.array(7, np.int64),
    "flags": np.array([True, False]),
}
KINDS = {"f4": "Float", "f8": "Double", "f2": "Half", "i8": "Long", "b1": "Bool", "u1": "Byte"}


def as_tensors(arrays):
    return {
        name: whole(array, f"{KINDS[array.dtype.str[1:]]}Storage", str(i))
        for i, (name, array) in enumerate(arrays.items())
    }


FILES = {
    "safetensors": safetensors(ARRAYS),
    "npz": npz(ARRAYS),
    "npz of columns": npz({name: np.asfortranarray(array) for name, array in ARRAYS.items()}),
    "npz compressed": npz(ARRAYS, np.savez_compressed),
    "torch": torch_zip(as_tensors(ARRAYS)),
    "torch compressed": torch_zip(as_tensors(ARRAYS), zipfile.ZIP_DEFLATED),
    "torch nested": torch_zip({"epoch": 3, "lr": 0.1, "state_dict": as_tensors(ARRAYS)}),
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_arrays_come_back(content, read):
    found = read(content)
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        expected = array.astype(np.float32) if array.dtype == np.float16 else array
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)
        with pytest.raises(ValueError, match="read-only"):
            found[name][...] = 0


def bits_of_bfloat16(values):
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def test_bfloat16_becomes_float32(read):
    values = np.array([1.0, -2.5, 0.0, np.inf, 3.140625], np.float32)
    bits = bits_of_bfloat16(values)
    for content in (
        safetensors({"w": bits}, {"w": "BF16"}),
        torch_zip({"w": whole(bits, "BFloat16Storage")}),
    ):
        found = read(content)["w"]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, values)


def test_tensors_may_be_strided_views_that_share_a_storage(read):
    values = np.arange(24, dtype=np.float32)
    shared = Storage("0", "FloatStorage", values)
    found = read(
        torch_zip(
            {
                "transposed": Tensor(shared, 0, (4, 6), (1, 4)),
                "part": Tensor(shared, 5, (2, 3), (8, 2)),
                "repeated": Tensor(shared, 7, (3, 2), (0, 1)),
                "scalar": Tensor(shared, 23, (), ()),
                "parameter": Call(
                    "torch._utils", "_rebuild_parameter", Tensor(shared, 0, (24,), (1,)), True, {}
                ),
            }
        )
    )
    np.testing.assert_array_equal(found["transposed"], values.reshape(6, 4).T)
    np.testing.assert_array_equal(found["part"], [[5, 7, 9], [13, 15, 17]])
    np.testing.assert_array_equal(found["repeated"], [[7, 8]] * 3)
    assert found["scalar"] == 23 and found["parameter"].shape == (24,)


def test_big_endian_storages_are_read(read):
    values = np.arange(4, dtype=">f4")
    found = read(torch_zip({"w": whole(values)}, byteorder="big"))["w"]
    np.testing.assert_array_equal(found, np.arange(4))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
@pytest.mark.parametrize("write", [safetensors, npz, lambda a: torch_zip(as_tensors(a))])
def test_a_prefix_that_all_names_share_is_taken_off(prefix, write, read):
    arrays = {prefix + name: array for name, array in ARRAYS.items()}
    assert list(read(write(arrays))) == list(ARRAYS)
    arrays["other"] = np.zeros(1)
    assert list(read(write(arrays))) == list(arrays)


def test_arrays_are_parts_of_the_mapped_file(read):
    big = np.zeros(1 << 18, np.float32)
    for content in (safetensors({"w": big}), npz({"w": big}), torch_zip({"w": whole(big)})):
        base = read(content)["w"]
        while isinstance(base, np.ndarray):
            base = base.base
        while isinstance(base, memoryview):
            base = base.obj
        if not isinstance(base, mmap.mmap):  # as_strided puts a holder of its own between
            base = base.base
        assert isinstance(base, (mmap.mmap, np.ndarray))


def test_a_network_takes_a_checkpoint_of_any_kind(tmp_path):
    net = models.lenet5()
    state = dict(net.state_dict())
    x = RNG.standard_normal((2, 1, 28, 28)).astype(np.float32)
    for content in (safetensors(state), npz(state), torch_zip({"model": as_tensors(state)})):
        path = tmp_path / "lenet"
        path.write_bytes(content)
        np.testing.assert_array_equal(models.lenet5(weights=path)(x), net(x))


def test_files_of_torch_save_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.BatchNorm2d(4))
    path = tmp_path / "net.pth"
    expected = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    extra = {"optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}}
    for content in (
        net.state_dict(),
        {"epoch": 9, "state_dict": net.state_dict(), **extra},
        {"model": {f"module.{name}": tensor for name, tensor in net.state_dict().items()}},
        dict(net.named_parameters()) | dict(net.named_buffers()),
    ):
        torch.save(content, path)
        found = load(path)
        assert set(found) == set(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype
        ours = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))
        ours.load_state_dict(found)
    weight = net[0].weight.detach()
    views = {"t": weight.permute(3, 2, 1, 0), "half": weight.half(), "b": weight.bfloat16()}
    torch.save(views, path)
    found = load(path)
    for name, tensor in views.items():
        np.testing.assert_array_equal(found[name], tensor.float().numpy())
    torch.save(net, path)
    with pytest.raises(CheckpointError, match="only tensors are read"):
        load(path)


# What is refused


def test_nothing_in_a_pickle_is_run(read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    w = whole(np.zeros(2, np.float32))
    for evil in (
        Call("os", "system", "touch ran"),
        Call("builtins", "eval", "open('ran', 'w')"),
        Call("builtins", "getattr", Call("collections", "OrderedDict"), "clear"),
        Call("torch._utils", "_rebuild_device_tensor_from_numpy", 1),
        Call("numpy.core.multiarray", "_reconstruct", (), (0,), "b"),
        b"c__builtin__\nobject\n)\x81",  # NEWOBJ
        b"(S'touch ran'\nios\nsystem\n",  # INST
        b"\x82\x01",  # EXT1
    ):
        for content in ({"w": w, "evil": evil}, {"w": evil}, evil):
            with pytest.raises(CheckpointError, match="only tensors are read"):
                read(torch_zip(content))
    assert not (tmp_path / "ran").exists()
    harmless = {"w": w, "os": b"cos\nsystem\n"}  # a name alone is a name
    assert list(read(torch_zip(harmless))) == ["w"]


LAUGHS = b")q\x01" + b"h\x01\x86q\x01" * 60  # 2**60 empty tuples, each stored once
NESTED = b")" + b"\x85" * 30_000


@pytest.mark.parametrize("knot", [LAUGHS, NESTED], ids=["shared", "deep"])
def test_knotted_tuples_are_refused_in_no_time(knot, read):
    for content in (
        knot,
        b"}" + knot + b"Ns",
        b"}(" + knot + b"Nu",
        knot + b")R",
        knot + opcodes("x") + b"\x93",
        knot + b"Q",
        Call("collections", "OrderedDict", [knot]),
        Tensor(STORAGE, knot, (1,), (1,)),
        Tensor(STORAGE, 0, knot, knot),
        Tensor(STORAGE, 0, (knot,), (1,)),
    ):
        with pytest.raises(CheckpointError):
            read(torch_zip({"w": content, "v": b"N"} if content is not knot else content))
    for identity in (
        opcodes("storage") + knot + opcodes("0") + opcodes("cpu") + opcodes(6),
        opcodes("storage") + b"ctorch\nFloatStorage\n" + knot + opcodes("cpu") + opcodes(6),
        opcodes("storage") + b"ctorch\nFloatStorage\n" + opcodes("0") + opcodes("cpu") + knot,
    ):
        with pytest.raises(CheckpointError, match="treats a tuple as what it is not"):
            read(torch_zip({"w": b"(" + identity + b"tQ"}))
    assert list(read(torch_zip({"w": whole(np.zeros(2, np.float32)), "knot": knot}))) == ["w"]


STORAGE = Storage("0", "FloatStorage", np.zeros(6, np.float32))


@pytest.mark.parametrize(
    "content, message",
    [
        (Tensor(STORAGE, 0, (7,), (1,)), "ends outside"),
        (Tensor(STORAGE, 6, (1,), (1,)), "ends outside"),
        (Tensor(STORAGE, 0, (2, 2), (5, 1)), "ends outside"),
        (Tensor(STORAGE, 0, (1 << 40, 1 << 40), (1, 1)), "ends outside"),
        (Tensor(STORAGE, -1, (2,), (1,)), "as many sizes as strides"),
        (Tensor(STORAGE, 3, (2,), (-1,)), "as many sizes as strides"),
        (Tensor(STORAGE, 0, (-2,), (1,)), "as many sizes as strides"),
        (Tensor(STORAGE, 0, (2, 2), (1,)), "as many sizes as strides"),
        (Tensor(STORAGE, 0.0, (2,), (1,)), "as many sizes as strides"),
        (Tensor(STORAGE, 0, (1,) * 40, (1,) * 40), "ends outside"),
        (Tensor(Storage("0", "FloatStorage", np.zeros(6, "f4"), 7), 0, (2,), (1,)), "24 bytes"),
        (Tensor(Storage("0", "FloatStorage", np.zeros(6, "f4"), -1), 0, (2,), (1,)), "no shape"),
        (
            Tensor(Storage("0", "FloatStorage", np.zeros(6, "f4"), 1 << 70), 0, (2,), (1,)),
            "24 bytes",
        ),
        (Tensor(Storage("0", "QInt8Storage", np.zeros(6, "i1")), 0, (2,), (1,)), "QInt8Storage"),
        (Tensor(Storage("0", "ComplexFloatStorage", np.zeros(6)), 0, (2,), (1,)), "are not read"),
        (b"K\x01Q", "damaged"),
        (b"h\x09", "damaged"),
        (b"0", "only tensors are read"),
        (b"(lp0\n", "only tensors are read"),
    ],
)
def test_a_tensor_must_lie_within_its_storage(content, message, read):
    with pytest.raises(CheckpointError, match=message):
        read(torch_zip({"w": content}))


@pytest.mark.parametrize(
    "entry, message",
    [
        (dict(data_offsets=[0, 25]), "bytes 0 to 25 of 24"),
        (dict(data_offsets=[-8, 16]), "bytes -8 to 16"),
        (dict(data_offsets=[24, 0]), "bytes 24 to 0"),
        (dict(data_offsets=[0.0, 24]), "bytes 0.0 to"),
        (dict(data_offsets=[0]), "damaged"),
        (dict(shape=[7]), "24 bytes for an array"),
        (dict(shape=[-6]), "no shape"),
        (dict(shape=[2, True, 3]), "no shape"),
        (dict(shape=[1] * 40), "no shape"),
        (dict(shape=[1 << 62, 1 << 62]), "24 bytes for an array"),
        (dict(shape=None), "damaged"),
        (dict(dtype="F8_E5M2"), "w: arrays of F8_E5M2 are not read"),
        (dict(dtype=["F32"]), "damaged"),
    ],
)
def test_a_safetensors_header_must_fit_its_file(entry, message, read):
    with pytest.raises(CheckpointError, match=message):
        read(safetensors({"w": np.zeros(6, np.float32)}, change=lambda h: h["w"].update(entry)))


def with_header(text, length=None):
    return struct.pack("<Q", len(text) if length is None else length) + text


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "too short"),
        (b"PK\x03\x04", "too short"),
        (b"PK\x03\x04" + bytes(100), "damaged"),
        (b"hello, this is no checkpoint", "neither"),
        (pickle.dumps({"w": 1}), "save it anew"),
        (with_header(b"{}"), "holds no arrays"),
        (with_header(b"{}", 1 << 60), "a header of"),
        (with_header(b"{" * 100_000), "damaged"),
        (with_header(b'{"w":' * 100_000), "damaged"),
        (with_header(b'{"a":{},"a":{}}'), "a name stands twice"),
        (with_header(b'{"a":3}'), "damaged"),
        (with_header(b"{\xff}"), "damaged"),
        (torch_zip({}), "holds no arrays"),
        (torch_zip([1, 2]), "no dictionary of tensors, but list"),
        (torch_zip(whole(np.zeros(2, np.float32))), "no dictionary of tensors, but ndarray"),
        (npz({"a": np.array([{}], object)}), "are not read"),
        (npz({"a": np.zeros(2, complex)}), "are not read"),
        (npz({"a": np.zeros(2, "U3")}), "are not read"),
        (npz({}), "holds no arrays|damaged|neither"),
    ],
)
def test_other_files_are_refused_by_name(content, message, read):
    with pytest.raises(CheckpointError, match=message) as error:
        read(content)
    assert "weights.bin" in str(error.value)


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing.safetensors")
    assert issubclass(CheckpointError, ValueError)


@pytest.mark.parametrize("which", FILES)
def test_damage_is_an_error_or_another_array_and_nothing_else(which, read):
    """Files cut short and with bytes changed: no other exception, no warning, no crash."""
    content, rng = FILES[which], np.random.default_rng(3)
    cut = [content[: int(n)] for n in rng.integers(0, len(content), 40)]
    changed = []
    for _ in range(160):
        data = bytearray(content)
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            data[at] = rng.integers(256)
        changed.append(bytes(data))
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for damaged in [*cut, *changed]:
            try:
                for array in read(damaged).values():
                    array.sum()
            except CheckpointError:
                refused += 1
    assert refused >= 40
