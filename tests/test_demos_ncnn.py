"""fastconv.demos._ncnn: the layers it knows, and files that are not what they say."""

import struct

import numpy as np
import pytest

import fastconv
from fastconv.checkpoints import CheckpointError
from fastconv.demos._ncnn import load
from helpers import assert_same_bits

RNG = np.random.default_rng(3)
HALF = struct.pack("<I", 0x01306B47)

# A small network with a layer of every kind.
PARAM = """7767517
10 13
Input         input    0 1 data 0=12 1=12 2=3
Split         fork     1 2 data left right
Convolution   conv     1 1 left maps 0=5 1=3 11=2 4=1 14=0 5=1 6=90 9=2 -23310=1,0.25
Pooling       mean     1 1 maps means 0=1 4=1
InnerProduct  squeeze  1 1 means few 0=3 1=1 2=15 9=1
InnerProduct  excite   1 1 few many 0=5 2=15 9=4
Scale         scale    2 1 maps many scaled 0=-233
Deconvolution up       1 1 scaled large 0=3 1=2 3=2 5=1 6=60
Crop          crop     2 1 large right part 0=3 1=2
Eltwise       sum      2 1 part right result 0=1
"""


def weights():
    """(array, how it is stored) in the order of the file."""
    shapes = [(5, 3, 2, 3), (5,), (3, 5), (3,), (5, 3), (3, 5, 2, 2), (3,)]
    values = [RNG.integers(-8, 9, shape).astype(np.float32) / 4 for shape in shapes]
    return list(zip(values, [HALF, b"", bytes(4), b"", HALF, HALF, b""], strict=True))


def stored(array, tag):
    """Matrices begin with their type; those of float16 are padded to four bytes; vectors are plain."""
    if tag != HALF:
        return tag + array.astype("<f4").tobytes()
    return tag + array.astype("<f2").tobytes() + bytes(2 * array.size % 4)


@pytest.fixture
def write(tmp_path):
    def written(param, data):
        (tmp_path / "net.bin").write_bytes(data)
        path = tmp_path / "net.param"
        path.write_bytes(param if isinstance(param, bytes) else param.encode())
        return path

    return written


WEIGHTS = weights()
DATA = b"".join(stored(*pair) for pair in WEIGHTS)


def expected(x):
    w, b, squeeze, squeeze_b, excite, up, up_b = (array for array, _ in WEIGHTS)
    maps = fastconv.leaky_relu(fastconv.conv2d(x, w, b, padding=(0, 1)), 0.25)
    means = fastconv.adaptive_avg_pool2d(maps, 1).reshape(len(x), -1)
    few = fastconv.relu(fastconv.linear(means, squeeze, squeeze_b))
    many = fastconv.sigmoid(fastconv.linear(few, excite))
    scaled = maps * many[:, :, None, None]
    large = fastconv.conv_transpose2d(scaled, up.swapaxes(0, 1), up_b, stride=2)
    return large[:, :, 2 : 2 + x.shape[2], 3 : 3 + x.shape[3]] + x


def test_every_layer_does_what_ncnn_says(write):
    net = load(write(PARAM, DATA))
    assert not net.training
    x = RNG.standard_normal((2, 3, 12, 10)).astype(np.float32)
    assert_same_bits(net(x), expected(x))
    net.summary((3, 12, 10))
    assert fastconv.nn.graph.record(net, (1, 3, 12, 12)).outputs.shape == (1, 3, 12, 12)


def test_a_copy_of_another_type_runs_by_itself(write):
    net = load(write(PARAM, DATA)).astype(np.float64)
    x = RNG.standard_normal((1, 3, 9, 9))
    assert net(x).dtype == np.float64
    np.testing.assert_allclose(net(x), expected(x), rtol=1e-5, atol=1e-5)


CHANGES = {
    "the magic number": ("7767517", "7767518", "7767518"),
    "the number of layers": ("10 13", "11 13", "10 layers"),
    "a type": ("Pooling  ", "Poolings ", "Poolings mean: layers of this type"),
    "the number of names": ("1 2 data", "1 200 data", "layer 2, Split fork"),
    "a number": ("0=5 1=3 11=2", "0=5 1=x 11=2", "'x' is no number"),
    "a setting twice": ("0=5 1=3 11=2", "0=5 1=3 1=2", "twice"),
    "a setting that is not known": ("0=5 1=3 11=2", "0=5 1=3 11=2 77=1", "77"),
    "another padding at the end": ("4=1 14=0", "4=1 14=0 15=2", "15"),
    "no size": ("0=5 1=3 11=2", "0=5 1=0 11=2", "setting 1 is 0"),
    "a size too large": ("0=5 1=3 11=2", "0=5 1=70000 11=2", "70000"),
    "a fraction": ("0=5 1=3 11=2", "0=5.0 1=3 11=2", "setting 0 is 5.0"),
    "infinity": ("0.25", "1e999", "no number"),
    "too few values": ("-23310=1,0.25", "-23310=2,0.25", "1 values for 2"),
    "several for one": ("9=2 -23310=1,0.25", "9=2,3", "several"),
    "an activation": ("9=2 -23310", "9=6 -23310", "activation 6"),
    "weights that make no kernel": ("5=1 6=90", "5=1 6=91", "91 weights"),
    "too many weights": ("0=3 1=1 2=15", "0=3 1=1 2=15000", "bytes, of which"),
    "other weights": ("0=3 1=1 2=15", "0=3 1=1 2=12", "are not read|bytes that belong to no layer"),
    "other pooling": ("means 0=1 4=1", "means 0=0 4=1", "mean of the whole image"),
    "other sums": ("result 0=1", "result 0=0", "setting 0 is 0"),
    "other scales": ("0=-233", "0=5", "setting 0 is 5"),
    "an array that is not there": ("left maps", "nowhere maps", "nowhere"),
    "an array that is not there yet": ("left maps", "means maps", "means"),
    "an array twice": ("left right", "left left", "twice"),
    "a name twice": ("InnerProduct  excite", "InnerProduct  squeeze", "taken"),
    "a name of Python's": ("InnerProduct  excite", "InnerProduct  __dict__", "taken"),
    "a name that hides": ("InnerProduct  excite", "InnerProduct  forward", "taken"),
    "a name with a dot": ("InnerProduct  excite", "InnerProduct  a.b", "dot"),
    "two inputs": ("Split         fork     1 2 data left right", "Input i 0 1 left", "first layer"),
    "one input of two": ("2 1 part right", "1 1 part", "takes 2"),
    "no text": ("Pooling", "P\u00f6\u00f6ling", "ascii"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_text_that_is_not_right_is_named(change, write):
    old, new, message = CHANGES[change]
    assert PARAM.count(old) == 1
    with pytest.raises(CheckpointError, match=message) as caught:
        load(write(PARAM.replace(old, new), DATA))
    assert "net.param" in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n\n", "7767517", "7767517\n0 0\n", "7767517\n1 1\nInput\n"])
def test_a_text_that_ends_too_soon_is_none(text, write):
    with pytest.raises(CheckpointError):
        load(write(text, b""))


@pytest.mark.parametrize("length", range(0, len(DATA), 7))
def test_weights_that_end_too_soon_are_none(length, write):
    with pytest.raises(CheckpointError, match="bytes, of which"):
        load(write(PARAM, DATA[:length]))


def test_weights_that_go_on_are_none(write):
    with pytest.raises(CheckpointError, match="4 bytes that belong to no layer"):
        load(write(PARAM, DATA + bytes(4)))


def test_weights_of_a_type_that_is_not_read_are_named(write):
    with pytest.raises(CheckpointError, match="0x000d4b38"):
        load(write(PARAM, struct.pack("<I", 0x000D4B38) + DATA[4:]))


def test_a_file_that_is_not_there_is_an_oserror(tmp_path, write):
    with pytest.raises(OSError):
        load(tmp_path / "other.param")
    write(PARAM, DATA).with_suffix(".bin").unlink()
    with pytest.raises(OSError):
        load(tmp_path / "net.param")


@pytest.mark.parametrize("seed", range(20))
def test_whatever_bytes_come_end_in_a_network_or_a_checkpoint_error(seed, write):
    rng = np.random.default_rng(seed)
    for _ in range(10):
        text = np.frombuffer(PARAM.encode(), np.uint8).copy()
        places = rng.integers(0, len(text), rng.integers(1, 4))
        text[places] = rng.choice(text if seed % 2 else np.arange(256, dtype=np.uint8), len(places))
        try:
            load(write(text.tobytes(), DATA))
        except CheckpointError:
            pass
