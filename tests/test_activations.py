"""Activations: near the true values, the same bits alone and fused, on every ISA and any length.

`src/kernels/activations.inc` states the error: below 4 units in the last place, in the subnormal
range and in the tails too. The true values are the reference's in longdouble; where that is no
wider than float64, only float32 is measured.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastconv as fc
from fastconv import reference
from helpers import assert_same_bits

TYPES = (np.float32, np.float64)
THREADS = (1, 2, 3, 8)
STATED_ULPS = 4
WITH_FMA = [isa for isa in fc.isas() if isa != "baseline"]
INF, NAN = np.inf, np.nan


@dataclass(frozen=True)
class Activation:
    """One with its parameters, as a function and as `activation=` of a convolution."""

    name: str
    parameters: tuple = ()
    ends: tuple = ()  # the limits at minus and plus infinity
    fused: str = ""  # the argument where it is not the function's name and parameters

    def __str__(self):
        return "-".join(map(str, (self.name, *self.parameters)))

    def of(self, module, x, **more):
        return getattr(module, self.name)(x, *self.parameters, **more)

    @property
    def argument(self):
        return self.fused or (self.name, *self.parameters)


ACTIVATIONS = [
    Activation("relu", (), (0, INF)),
    Activation("relu6", (), (0, 6)),
    Activation("leaky_relu", (), (-INF, INF)),
    Activation("leaky_relu", (0.3,), (-INF, INF)),
    Activation("elu", (), (-1, INF)),
    Activation("elu", (-2.5,), (2.5, INF)),
    Activation("silu", (), (0, INF)),
    Activation("gelu", (), (0, INF)),
    Activation("gelu", ("tanh",), (0, INF), "gelu_tanh"),
    Activation("sigmoid", (), (0, 1)),
    Activation("tanh", (), (-1, 1)),
    Activation("hardsigmoid", (), (0, 1)),
    Activation("hardswish", (), (0, INF)),
    Activation("softplus", (), (0, INF)),
    Activation("softplus", (0.25, 1e9), (0, INF)),
    Activation("softplus", (3, 5), (0, INF)),
]
INPLACE = [a for a in ACTIVATIONS if a.name not in ("gelu", "sigmoid", "tanh", "softplus")]

every_activation = pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
every_type = pytest.mark.parametrize("dtype", TYPES, ids=["f32", "f64"])
every_isa = pytest.mark.parametrize("isa", fc.isas())


def points(dtype):
    """Every magnitude the type has, what networks compute, and a close look at the tails."""
    rng = np.random.default_rng(5)
    bits = rng.integers(0, 2 ** (8 * np.dtype(dtype).itemsize), 6000, np.uint64)
    anything = bits.astype(f"u{np.dtype(dtype).itemsize}").view(dtype)
    reach = 800 if dtype == np.float64 else 130
    x = [
        anything[np.isfinite(anything)],
        3 * rng.standard_normal(4000),
        rng.uniform(-reach, reach, 4000),
        rng.uniform(-40, 40, 4000),
        np.arange(-64, 64) / 8,
    ]
    return np.concatenate(x).astype(dtype)


def ulps(actual, true):
    """The error in units in the last place that the true value has in the type of the actual."""
    kind = np.finfo(actual.dtype)
    _, exponent = np.frexp(true)
    unit = np.ldexp(true.dtype.type(1), np.maximum(exponent - 1, kind.minexp) - kind.nmant)
    same = actual == true  # infinities, where a difference would be NaN
    return np.where(same, 0, abs(np.where(same, 0, actual - true)) / unit)


@every_type
@every_activation
def test_the_error_is_what_the_source_states(activation, dtype):
    if np.finfo(np.longdouble).nmant < np.finfo(dtype).nmant + 8:
        pytest.skip("no wider type to compare with")
    x = points(dtype)
    true = activation.of(reference, x.astype(np.longdouble), sum_dtype=np.longdouble)
    most = abs(true) <= np.finfo(dtype).max
    for isa in fc.isas():
        with fc.using(isa=isa):
            y = activation.of(fc, x)
        error = ulps(y[most], true[most])
        worst = error.argmax()
        assert error[worst] < STATED_ULPS, (isa, x[most][worst], y[most][worst], error[worst])
        assert_array_equal(abs(y[~most]), INF, isa)


@every_type
@every_activation
def test_isas_with_fma_and_any_number_of_threads_give_equal_bits(activation, dtype):
    x = np.concatenate([points(dtype), [NAN, INF, -INF, 0.0, -0.0]]).astype(dtype)
    want = {}
    for isa in fc.isas():
        for threads in THREADS:
            with fc.using(isa=isa, threads=threads):
                y = activation.of(fc, x)
            assert_same_bits(y, want.setdefault(isa in WITH_FMA, y), f"{isa}, {threads} threads")


@every_isa
@every_type
@every_activation
def test_limits_zero_and_nan(activation, dtype, isa):
    with fc.using(isa=isa):
        x = np.array([-INF, INF, NAN, -NAN], dtype)
        assert_array_equal(activation.of(fc, x), [*activation.ends, NAN, NAN])
        zeros = activation.of(fc, np.array([0.0, -0.0], dtype))
        assert_array_equal(zeros, activation.of(reference, np.zeros(2, dtype)))


@every_isa
@every_type
@every_activation
def test_an_element_does_not_depend_on_its_place(activation, dtype, isa):
    x = points(dtype)[-5000:][::7]
    with fc.using(isa=isa):
        want = activation.of(fc, x)
        for n in range(71):
            assert_same_bits(activation.of(fc, x[n : 2 * n]), want[n : 2 * n], n)
        assert_same_bits(activation.of(fc, x[::-3]), want[::-3])
        assert_same_bits(activation.of(fc, x[7]), want[7:8].reshape(()))
        for shape in [(1, 5, 7), (5, 1, 7)]:
            image = x[:35].reshape(shape)
            turned = activation.of(fc, image.transpose(2, 0, 1))
            assert_same_bits(turned, want[:35].reshape(shape).transpose(2, 0, 1))
            spread = np.broadcast_to(image[..., :1], shape)
            assert_same_bits(activation.of(fc, spread), activation.of(fc, spread.copy()))


PROBLEMS = [
    ("conv2d", (2, 6, 5, 23), (6, 1, 1, 1), {"groups": 6}),
    ("conv2d", (1, 6, 9, 41), (12, 1, 3, 3), {"groups": 6, "padding": 1}),
    ("conv2d", (2, 7, 6, 19), (9, 7, 1, 1), {}),
    ("conv3d", (1, 4, 3, 6, 17), (5, 4, 2, 3, 3), {"stride": 2}),
    ("conv_transpose1d", (2, 4, 21), (4, 5, 3), {"stride": 2}),
]


def algorithms_for(op, x, w, options):
    choices = fc.explain(op, x, w, **options).choices
    return [name for name, verdict in choices if not verdict.startswith("cannot")]


@every_type
@every_activation
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: f"{p[0]}-{p[2]}".replace(" ", ""))
def test_fused_and_alone_give_equal_bits(problem, activation, dtype):
    op, x_shape, w_shape, options = problem
    options = dict(options)
    rng = np.random.default_rng(6)
    x, w = (3 * rng.standard_normal(s).astype(dtype) for s in (x_shape, w_shape))
    call = getattr(fc, op)
    b = rng.standard_normal(call(x, w, **options).shape[1]).astype(dtype)
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    for array, layout in [(x, "NCHW"), (last, "NHWC")]:
        options["layout"] = layout
        for algorithm in algorithms_for(op, array, w, options):
            for isa in fc.isas():
                with fc.using(isa=isa, algorithm=algorithm):
                    want = activation.of(fc, call(array, w, b, **options))
                    fused = call(array, w, b, **options, activation=activation.argument)
                assert_same_bits(fused, want, f"{isa}, {algorithm}, {layout}")


def test_the_name_alone_takes_the_parameters_of_the_function():
    x, w = points(np.float32)[None, None, -500:], np.ones((1, 1, 1), np.float32)
    for activation in ACTIVATIONS:
        if not activation.parameters:
            fused = fc.conv1d(x, w, activation=activation.name)
            assert_same_bits(fused, activation.of(fc, fc.conv1d(x, w)), activation.name)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("activation", INPLACE, ids=str)
def test_inplace_writes_into_the_input_and_returns_it(activation, dtype):
    rng = np.random.default_rng(7)
    for view in (np.s_[...], np.s_[::-1, 1::2], np.s_[:, :0]):
        room = 4 * rng.standard_normal((5, 9)).astype(dtype)
        want, untouched = activation.of(fc, room[view].copy()), room.copy()
        x = room[view]
        assert activation.of(fc, x, inplace=True) is x
        assert_same_bits(x, want)
        untouched[view] = want
        assert_array_equal(room, untouched)


@every_activation
def test_float16_is_computed_in_float32_and_rounded_once(activation):
    x = np.arange(2**16, dtype=np.uint16).view(np.float16)
    with np.errstate(all="ignore"):
        assert_same_bits(activation.of(fc, x), activation.of(fc, np.float32(x)).astype(np.float16))


@every_isa
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 37), (1, 5, 3, 4500), (3, 5, 0), (0, 5, 2)])
def test_prelu_has_a_slope_for_each_channel(shape, dtype, isa):
    rng = np.random.default_rng(8)
    x = rng.standard_normal(shape).astype(dtype)
    slopes = np.array([0.25, -1.5, 0, 3, 0.1], dtype)
    with fc.using(isa=isa, threads=3):
        y = fc.prelu(x, slopes)
        for channel, slope in enumerate(slopes):
            want = fc.leaky_relu(x[:, channel], float(slope))
            assert_same_bits(y[:, channel], want)
        assert_same_bits(fc.prelu(x, slopes[:1]), fc.leaky_relu(x, 0.25))
    assert_array_equal(fc.prelu(x, slopes), reference.prelu(x, slopes))


@every_type
def test_the_hyperbolic_tangent_is_odd(dtype):
    x = points(dtype)
    assert_same_bits(fc.tanh(-x), -fc.tanh(x))


@pytest.mark.parametrize(
    ("activation", "x", "y"),
    [
        ("relu", [-2, 0, 3], [0, 0, 3]),
        ("relu6", [-2, 3, 7], [0, 3, 6]),
        ("hardsigmoid", [-4, -3, 0, 1.5, 3, 4], [0, 0, 0.5, 0.75, 1, 1]),
        ("hardswish", [-4, -3, -1.5, 0, 3, 4], [0, 0, -0.375, 0, 3, 4]),
        ("sigmoid", [0], [0.5]),
        ("silu", [0], [0]),
        ("gelu", [0, 9], [0, 9]),
        ("softplus", [0, 21], [np.log(2), 21]),
        ("elu", [-1, 2], [np.expm1(-1), 2]),
        ("leaky_relu", [-1, 2], [-0.01, 2]),
        ("tanh", [0.5], [np.tanh(0.5)]),
    ],
)
def test_known_values(activation, x, y):
    found = getattr(fc, activation)(np.array(x, np.float64))
    assert (ulps(found, np.array(y, np.longdouble)) <= STATED_ULPS).all()
