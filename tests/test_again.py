"""Calls that come again: the door knows them, and nothing differs from the first time but the time."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastconv as fc
from fastconv import _core, nn

RNG = np.random.default_rng(9)


def reals(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def bits(a):
    return a.shape, a.dtype, a.tobytes()


def assert_done_again(call, *arrays):
    """The first, the second and the call after others are the same, on values of any time."""
    first = call(*arrays)
    again = call(*arrays)
    assert again is not first and not np.shares_memory(again, first)
    assert bits(again) == bits(first)
    assert again.strides == first.strides and again.flags.writeable
    others = [np.negative(a) for a in arrays]
    with fc.using(threads=1):  # known by another name, so that it is judged anew
        expected = call(*others)
    assert bits(call(*others)) == bits(expected)


IMAGE, LAST = reals(2, 6, 9, 11), reals(2, 9, 11, 6)
SLOPES = reals(6)
CALLS = {
    "conv2d": (lambda x, w, b: fc.conv2d(x, w, b, 2, 1), IMAGE, reals(4, 6, 3, 3), reals(4)),
    "conv2d, pairs": (
        lambda x, w: fc.conv2d(x, w, None, (2, 1), ((1, 0), (0, 2))), IMAGE, reals(4, 6, 3, 3),
    ),
    "conv2d, words": (
        lambda x, w: fc.conv2d(x, w, padding="same", activation=("elu", 0.5)), IMAGE,
        reals(4, 6, 2, 3),
    ),
    "conv2d, channels last": (
        lambda x, w: fc.conv2d(x, w, layout="NHWC"), LAST, reals(4, 6, 3, 3),
    ),
    "conv2d, a view": (
        lambda x, w: fc.conv2d(x.transpose(0, 3, 1, 2), w), LAST, reals(4, 6, 3, 3),
    ),
    "conv2d, a view of one image": (
        lambda x, w: fc.conv2d(x[0].transpose(2, 0, 1), w), LAST, reals(4, 6, 3, 3),
    ),
    "conv2d, one image": (lambda x, w: fc.conv2d(x[1], w), IMAGE, reals(4, 6, 3, 3)),
    "conv2d, backwards": (lambda x, w: fc.conv2d(x[:, ::-1, ::-2], w), IMAGE, reals(4, 6, 3, 3)),
    "conv_transpose1d": (
        lambda x, w: fc.conv_transpose1d(x, w, None, 2), reals(1, 3, 20), reals(3, 5, 4),
    ),
    "linear": (fc.linear, reals(2, 3, 7), reals(5, 7), reals(5)),
    "max_pool2d": (lambda x: fc.max_pool2d(x, 3, 2, 1), IMAGE),
    "avg_pool2d": (lambda x: fc.avg_pool2d(x, 3, ceil_mode=True), IMAGE.astype(np.float64)),
    "adaptive_avg_pool2d": (lambda x: fc.adaptive_avg_pool2d(x, (None, 4)), IMAGE),
    "global_max_pool": (fc.global_max_pool, reals(2, 3, 2, 3, 2, 3)),
    "gelu": (lambda x: fc.gelu(x, "tanh"), IMAGE),
    "relu of a view": (lambda x: fc.relu(x.transpose(0, 3, 1, 2)), LAST),
    "relu of a strided view": (lambda x: fc.relu(x[:, :, ::2]), LAST),
    "prelu": (fc.prelu, IMAGE, SLOPES),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_the_second_call_is_as_the_first(name):
    assert_done_again(*CALLS[name])


@pytest.mark.parametrize("name", CALLS)
def test_inputs_in_need_of_a_copy_are_copied_each_time(name):
    call, x, *rest = CALLS[name]
    want = call(x, *rest)
    swapped = x.astype(x.dtype.newbyteorder())
    room = np.zeros(x.nbytes + 1, np.uint8)[1:]
    crooked = room.view(x.dtype).reshape(x.shape)
    crooked[...] = x
    for odd in (swapped, crooked, x):
        for _ in range(3):
            assert bits(call(odd, *rest)) == bits(want)


def test_numbers_that_are_equal_but_not_the_same_are_told_apart():
    x = -np.ones((1, 1, 2, 2), np.float32)
    for _ in range(2):
        assert not np.signbit(fc.leaky_relu(x, -0.0)).any()
        assert np.signbit(fc.leaky_relu(x, 0.0)).all()
        assert_array_equal(fc.leaky_relu(x, 1), fc.leaky_relu(x, 1.0))
        with pytest.raises(TypeError, match="negative_slope"):
            fc.leaky_relu(x, True)
        with pytest.raises(TypeError, match="inplace"):
            fc.relu(x, 0)
        fc.relu(x, False)
        fc.global_avg_pool(x)
        assert_array_equal(fc.lp_pool2d(abs(x), 2, 2), [[[[2]]]])
        assert_array_equal(fc.lp_pool2d(abs(x), np.inf, 2), [[[[1]]]])


def test_settings_count_in_every_call():
    x, w = reals(1, 8, 12, 12), reals(8, 8, 3, 3)
    want = fc.conv2d(x, w)
    for _ in range(2):
        with fc.using(algorithm="pointwise"), pytest.raises(ValueError, match="larger than 1"):
            fc.conv2d(x, w)
        with pytest.raises(ValueError, match="larger than 1"):
            fc.conv2d(x, w, algorithm="pointwise")
        for options in ({"threads": 3}, {"algorithm": "im2col"}, {"isa": "baseline"}, {}):
            with fc.using(**options):
                np.testing.assert_allclose(fc.conv2d(x, w), want, 1e-4, 1e-4)


def test_out_and_in_place_are_never_taken_for_a_new_result():
    x, w = reals(1, 3, 8, 8), reals(3, 3, 1, 1)
    want, out = fc.conv2d(x, w), np.empty((1, 3, 8, 8), np.float32)
    for _ in range(3):
        assert fc.conv2d(x, w, out=out) is out
        assert_array_equal(out, want)
        assert fc.relu(out, True) is out
        assert fc.max_pool2d(x, 1, out=out) is out
        values, places = fc.max_pool2d(x, 2, return_indices=True)
        assert_array_equal(values, fc.max_pool2d(x, 2))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_layer_called_again_uses_what_was_assigned_since(dtype):
    layer, x = nn.Conv2d(3, 4, 3, dtype=dtype), reals(1, 3, 8, 8, dtype=dtype)
    other = x.astype(np.float64 if dtype == np.float32 else np.float32)
    for change in (
        {"weight": reals(4, 3, 3, 3)}, {"bias": reals(4)}, {"stride": (2, 1)}, {"padding": (1, 1)},
        {"bias": None}, {"dilation": (2, 2)}, {"padding": "same", "stride": (1, 1)},
    ):  # fmt: skip
        for name, value in change.items():
            setattr(layer, name, value)
        sizes = layer.stride, layer.padding, layer.dilation
        want = fc.conv2d(x, layer.weight, layer.bias, *sizes)
        for _ in range(3):
            assert bits(layer(x)) == bits(want)
            found = layer(other)
            assert found.dtype == dtype
            np.testing.assert_allclose(found, want, 1e-5, 1e-5)


def test_any_number_of_different_calls():
    for n in [*range(1, 2500), *range(1, 5)]:
        x = np.full((1, 1, 1, n), n, np.float32)
        assert fc.max_pool2d(x, 1)[0, 0, 0, -1] == n


def test_weights_packed_for_one_isa_are_not_used_for_another():
    layer, x = nn.Conv2d(5, 9, 3), reals(1, 5, 7, 7)
    want = {isa: None for isa in fc.isas()}
    for _ in range(2):
        for isa in want:
            with fc.using(isa=isa):
                found = layer(x)
            assert want[isa] is None or bits(found) == bits(want[isa])
            np.testing.assert_allclose(found, layer(x), 1e-5, 1e-5)
            want[isa] = found


def test_the_door_knows_a_call_it_was_told_of_and_no_other():
    x, w = reals(1, 2, 5, 5), reals(3, 2, 3, 3)
    given = (1, 0, 0, 1, 1, None, None, None, None)
    fc.conv2d(x, w)
    assert _core.again("conv2d", x, w, None, given) is not None
    assert _core.again("conv1d", x, w, None, given) is None
    assert _core.again("conv2d", x[:, :, ::-1], w, None, given) is None
    assert _core.again("conv2d", x.tolist(), w, None, given) is None
    assert _core.again("conv2d", x, w, None, (1.0, *given[1:])) is None
    assert _core.again("conv2d", x, w, None, (2**70, *given[1:])) is None
    assert _core.again("conv2d", x, w, None, ([1, 1], *given[1:])) is None
    assert _core.again("conv2d", x, w, None, ((1,) * 500, *given[1:])) is None
