"""What prepared networks make of products, sums and other steps that are written out: fewer steps, the same numbers."""

import math

import numpy as np
import pytest

import fastconv as fc
from fastconv import _core, _numpy_ops, nn
from fastconv import functional as F
from fastconv.nn.graph import whole

RNG = np.random.default_rng(3)
_erf = whole("erf", lambda x: _numpy_ops.activate("erf", (), x)[0])
X = RNG.standard_normal((2, 6, 9, 11)).astype(np.float32)


def reals(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


W, B = reals(6, 6, 3, 3), reals(6)
C, D = reals(6, 1, 1), reals(1, 6, 1, 1)


def conv(x):
    return F.conv2d(x, W, B, 1, 1)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def prepared(function, x=X):
    return Function(function).prepare(x.shape)


def steps(function, x=X):
    """(what it does, is it the engine's) of each step."""
    plan = prepared(function, x)._network.plan(x.shape)
    return [
        (step.op.kind, all(isinstance(piece, _core.Step) for piece in step.pieces))
        for step in plan.steps
    ]


def near(function, x=X, eps=2e-6):
    y, expected = prepared(function, x)(x), function(x)
    assert y.dtype == expected.dtype
    np.testing.assert_allclose(y, expected, rtol=0, atol=eps * np.abs(expected).max())


# Each is one convolution, with all that follows folded or fused.
INTO_THE_CONVOLUTION = {
    "bias": lambda x: conv(x) + D,
    "scale": lambda x: conv(x) * C,
    "both": lambda x: (conv(x) * C + D) / 3 - 1,
    "from the left": lambda x: 2 * conv(x),
    "gelu": lambda x: (lambda y: y * (_erf(y / np.float32(math.sqrt(2))) + 1) * np.float32(0.5))(conv(x)),
    "gelu, half first": lambda x: (
        lambda y: (y * np.float32(0.5)) * (1 + _erf(y * np.float32(math.sqrt(0.5))))
    )(conv(x)),
    "silu": lambda x: (lambda y: y * F.sigmoid(y))(conv(x) + D),
    "hardswish": lambda x: (lambda y: y * np.clip(y + 3, 0, 6) / 6)(conv(x)),
    "hardswish, by sixths": lambda x: (
        lambda y: np.clip(y * np.float32(1 / 6) + np.float32(0.5), 0, 1) * y
    )(conv(x)),
    "clip": lambda x: np.clip(conv(x) * np.float32(0.2) + np.float32(0.5), 0, 1),
    "relu after a sum": lambda x: F.relu(conv(x) * 2 + x),
}  # fmt: skip


@pytest.mark.parametrize("name", INTO_THE_CONVOLUTION)
def test_one_convolution_does_all(name):
    function = INTO_THE_CONVOLUTION[name]
    assert steps(function) == [("conv", True)]
    near(function)


NOT_WHAT_THEY_SEEM = {
    "another point": lambda x: (lambda y: y * np.clip(y + 2, 0, 6) / 6)(conv(x)),
    "another argument": lambda x: (lambda y: y * F.sigmoid(y * 2))(conv(x)),
    "another array": lambda x: x * F.sigmoid(conv(x)),
    "another factor": lambda x: (lambda y: y * (_erf(y * np.float32(0.7)) + 1) * np.float32(0.5))(conv(x)),
    "a constant first": lambda x: 1 - conv(x),
    "used twice": lambda x: (lambda y: y * 2 + F.relu(y))(conv(x)),
    "bounds the wrong way": lambda x: np.clip(conv(x), 1, -1),
    "one a row": lambda x: conv(x) * reals(9, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_WHAT_THEY_SEEM)
def test_what_only_looks_like_it_stays_right(name):
    state = RNG.bit_generator.state
    function = NOT_WHAT_THEY_SEEM[name]

    def same(x):
        RNG.bit_generator.state = state
        return function(x)

    y, expected = prepared(same)(X), same(X)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_without_folding_the_bits_are_those_of_the_steps():
    for function in INTO_THE_CONVOLUTION.values():
        y = Function(function).prepare(X.shape, fold=False)(X)
        np.testing.assert_array_equal(y, function(X))


@pytest.mark.parametrize("batch", [1, 3])
def test_squeeze_and_excitation_is_a_step_of_the_engine(batch):
    x, v = reals(batch, 6, 9, 11), reals(6, 6, 1, 1)

    def gated(x):
        weight = F.sigmoid(F.conv2d(F.global_avg_pool(x), v))
        return x + x * weight

    assert steps(gated, x)[-1] == ("gate", True)
    assert all(engine for _, engine in steps(gated, x))
    near(gated, x)


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize(
    ("size", "batch", "gates"), [((9, 15), 1, 0), ((9, 15), 2, 1), ((7, 7), 1, 1)]
)
def test_a_gate_becomes_the_prologue_of_a_pointwise_convolution(size, batch, gates, rectified):
    """Where the weight is a vector and pixels are many; with the bits of a step of its own."""
    x, v, w = reals(batch, 6, *size), reals(6, 6, 1, 1), reals(5, 6, 1, 1)

    def gated(x):
        wide = x * F.sigmoid(F.conv2d(F.global_avg_pool(x), v))
        return F.conv2d(F.relu(wide) if rectified else wide, w)

    found = [kind for kind, engine in steps(gated, x) if kind == "gate" and engine]
    assert len(found) == gates
    net = prepared(gated, x)
    for each in (x, -x):
        np.testing.assert_array_equal(net(each), gated(each))


@pytest.mark.parametrize("batch", [1, 2])
def test_what_follows_a_linear_layer_goes_by_its_last_axis(batch):
    x, w, b = reals(batch, 7, 6), reals(5, 6), reals(5)

    def function(x):
        return F.linear(x, w) + b

    assert steps(function, x) == [("linear", True)]
    near(function, x)


def test_a_layer_used_twice_has_weights_of_its_own_for_what_follows():
    near(lambda x: conv(x) * 2 + conv(x) * 3 + conv(x))


def test_shapes_that_come_later_are_folded_alike():
    function = INTO_THE_CONVOLUTION["both"]
    net = prepared(function)
    for x in (X, reals(1, 6, 5, 7), X):
        np.testing.assert_allclose(net(x), function(x), rtol=1e-5, atol=1e-5)


def test_a_shuffle_written_as_reshapes_is_copied_by_the_engine():
    def function(x):
        n, c, h, w = x.shape
        return F.relu(conv(x).reshape(n, 2, c // 2, h, w).swapaxes(1, 2).reshape(n, c, h, w))

    assert all(engine for _, engine in steps(function))
    np.testing.assert_array_equal(prepared(function)(X), function(X))


def test_a_reshape_in_fortran_s_order_stays():
    for function in (
        lambda x: conv(x).reshape(2, -1, order="F"),
        lambda x: conv(x).ravel("F"),
        lambda x: np.reshape(conv(x), (3, -1), order="F"),
    ):
        np.testing.assert_array_equal(prepared(function)(X), function(X))


def normalised(x, eps=1e-5, power=2):
    d = x - np.mean(x, axis=-1, keepdims=True)
    return d / np.sqrt(np.mean(d**power, axis=-1, keepdims=True) + np.float32(eps))


LAYER_NORMS = {
    "with scale and shift": lambda x: normalised(x) * D.reshape(-1) + B,
    "with a shift": lambda x: normalised(x, 1e-3) + B,
    "alone": normalised,
    "of a transposed array": lambda x: normalised(x.swapaxes(-1, -2).copy().swapaxes(-1, -2)) * B,
    "of a view": lambda x: normalised(F.relu(x)[..., ::-1]),
}


@pytest.mark.parametrize("function", LAYER_NORMS.values(), ids=LAYER_NORMS)
@pytest.mark.parametrize("shape", [(9, 6), (2, 7, 6), (2, 3, 5, 6)])
def test_layer_normalisation_written_out_is_one_step(shape, function):
    x = reals(*shape) * 3 + 100
    assert [kind for kind, _ in steps(function, x) if kind != "activation"][-1] == "norm"
    assert len(steps(function, x)) <= 3
    near(function, x, 1e-5)


def test_what_only_looks_like_layer_normalisation_stays():
    x = reals(2, 7, 6) + 9
    for function in (
        lambda x: normalised(x, power=4),
        lambda x: (x - x.mean(-1, keepdims=True)) / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1),
        lambda x: (x - x.mean(1, keepdims=True)) / np.sqrt(np.mean(x**2, 1, keepdims=True) + 1),
    ):
        assert all(kind != "norm" for kind, _ in steps(function, x))
        near(function, x)


def test_softmax_of_rows_is_the_engine_s_in_both():
    x = reals(3, 4, 50)
    for dim in (-1, 2):
        assert steps(lambda x, dim=dim: F.softmax(x, dim), x) == [("norm", True)]
        y = prepared(lambda x, dim=dim: F.softmax(x, dim), x)(x)
        np.testing.assert_array_equal(y, fc.softmax(x, dim))
    near(lambda x: F.softmax(x.swapaxes(1, 2), -1), x)
    near(lambda x: np.concatenate([F.softmax(x, -1), x], 1), x)
