"""Random reals: every engine is as near to the true sums as rounding allows, or as infinite.

The bound is Higham's (2002, section 3.1) for any order of summation: with k products and a bias,
|y - exact| <= gamma(k + 2) * (sum of |x||w| + |b|), gamma(n) = n u / (1 - n u), and one smallest
subnormal for each rounding that underflows. Nothing in it is chosen.
"""

import itertools
from functools import lru_cache
from math import prod

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import cases
from cases import DTYPES, Case, parse
from fastconv import reference

MOST_TAPS = 200  # the reference loops over taps in Python
REAL = cases.chosen(
    cases.NASTY,
    cases.generated(120, seed=4, most_work=100_000),
    [case for case in cases.BLOCKED if prod(case.kernel) <= MOST_TAPS],
)
LONG_DOUBLE_IS_WIDER = np.finfo(np.longdouble).eps < np.finfo(np.float64).eps


@lru_cache(maxsize=4)
def _truth(case: Case, dtype, low: int, high: int):
    """The sums in a wider type, and the sums of magnitudes."""
    wide = np.float64 if dtype == np.float32 else np.longdouble
    arrays = [None if a is None else a.astype(wide) for a in case.reals(dtype, low, high)]
    exact = case.reference(reference, *arrays, sum_dtype=wide)
    sizes = (None if a is None else abs(a) for a in arrays)
    return exact, case.reference(reference, *sizes, sum_dtype=wide)


def assert_within_the_bound(case: Case, x, w, b, y, line, low=-8, high=0):
    """y: what some engine made of case.reals(y.dtype, low, high)."""
    kind = np.finfo(y.dtype)
    exact, size = _truth(case, y.dtype.type, low, high)
    n, u = case.chain + 2, kind.eps / 2
    bound = n * u / (1 - n * u) * size + n * float(kind.smallest_subnormal)
    if y.dtype == np.float64 and not LONG_DOUBLE_IS_WIDER:
        bound = 2 * bound  # the reference rounds as much
    error = abs(y - exact)
    assert (error <= bound).all(), f"{line}: off by {np.max(error / bound)} bounds"


@pytest.mark.parametrize("case", REAL, ids=str)
def test_random_reals_are_within_the_bound_of_rounding(case):
    for dtype in DTYPES:
        arrays = case.reals(dtype)
        for engine, y in cases.results(case, *arrays, threads=(1, 3)):
            assert_within_the_bound(case, *arrays, y, engine)


@pytest.mark.parametrize("dtype", DTYPES)
def test_denormal_sums_are_within_the_bound_of_rounding(dtype):
    low, high = {4: (-75, -65), 8: (-537, -527)}[np.dtype(dtype).itemsize]
    for case in REAL:
        case = case._replace(bias=False)
        if case.work > 20_000:
            continue
        arrays = case.reals(dtype, low, high)
        for engine, y in cases.results(case, *arrays, threads=(1, 2)):
            assert_within_the_bound(case, *arrays, y, engine, low, high)


def test_the_bound_notices_a_lost_product():
    """A measure that accepts anything would measure nothing."""
    case = parse("conv2d c3-5 i9x11 k3 p1")
    x, w, b = case.reals(np.float32)
    y = case.run(x, w, b)
    w[2, 1, 1, 1] = 0
    with pytest.raises(AssertionError, match="bounds"):
        assert_within_the_bound(case, x, w, b, case.run(x, w, b), "changed")
    y[0, 4, 8, 10] += np.float32(1e-3)
    with pytest.raises(AssertionError, match="bounds"):
        assert_within_the_bound(case, x, w, b, y, "changed")


# What is not finite ---------------------------------------------------------------------------------

ODD = [case for case in cases.chosen(cases.NASTY) if case.work < 30_000]
ODD_VALUES = (np.nan, np.inf, -np.inf)


def same_where_not_finite(y, expected, line):
    assert_array_equal(np.isnan(y), np.isnan(expected), f"{line}: NaN")
    infinite = np.isinf(expected)
    assert_array_equal(np.isinf(y), infinite, f"{line}: infinite")
    assert_array_equal(y[infinite], expected[infinite], f"{line}: sign of infinity")


@pytest.mark.parametrize("where", ("input", "weight", "bias", "input and weight"))
def test_nan_and_infinity_are_where_the_definition_has_them(where):
    """Also next to the border: a padding of zeros times an infinite weight is NaN, and what a
    transposed convolution does not meet is no zero."""
    for case, dtype, value in itertools.product(ODD, DTYPES, ODD_VALUES):
        if where == "bias" and not case.bias:
            continue
        x, w, b = case.integers(dtype)
        rng = np.random.default_rng(case.seed)
        for array in {"input": [x], "weight": [w], "bias": [b], "input and weight": [x, w]}[where]:
            array.flat[rng.integers(array.size, size=2)] = value
        expected = case.reference(reference, x, w, b)
        assert not np.isfinite(expected).all() or where == "input", case
        for engine, y in cases.results(case, x, w, b):
            same_where_not_finite(y, expected, f"{engine} {value} in {where}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_infinite_weight_on_padding_gives_nan_at_the_border_alone(dtype):
    x, w = np.ones((1, 2, 5, 40), dtype), np.ones((3, 2, 3, 3), dtype)
    w[:, 1, 0, 0] = np.inf
    case = parse("conv2d c2-3 i5x40 k3 p1 nobias")
    for engine, y in cases.results(case, x, w, None, threads=(1, 2)):
        border = np.zeros(y.shape, bool)
        border[:, :, 0] = border[:, :, :, 0] = True
        assert_array_equal(np.isnan(y), border, engine)
        assert np.isposinf(y[~border]).all(), engine


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_transposed_convolution_meets_no_zeros_beside_the_image(dtype):
    x, w = np.ones((1, 2, 3, 20), dtype), np.ones((2, 3, 3, 3), dtype)
    w[1, :, 0, 0] = np.inf
    for stride in (1, 2):
        case = parse(f"conv_transpose2d c2-3 i3x20 k3 s{stride} nobias")
        met = np.zeros(case.y_shape, bool)
        met[:, :, : 3 * stride : stride, : 20 * stride : stride] = True
        for engine, y in cases.results(case, x, w, None, threads=(1, 2)):
            assert not np.isnan(y).any(), engine
            assert_array_equal(np.isposinf(y), met, engine)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_beyond_the_largest_number_are_infinite(dtype):
    huge = np.finfo(dtype).max / 8
    for line in ("conv2d c5-9 i9x23 k3 nobias", "conv2d c17-5 i4x9 k1 nobias",
                 "conv2d c4-4 g4 i9x23 k3 nobias", "conv_transpose2d c5-4 i5x9 k3 p2 nobias"):  # fmt: skip
        case = parse(line)
        x, w = np.full(case.x_shape, huge, dtype), np.ones(case.w_shape, dtype)
        x[:, :, :3] = -huge
        expected = np.sign(case.reference(reference, np.sign(x), w, None))
        for engine, y in cases.results(case, x, w, None, threads=(1, 2)):
            whole = abs(case.reference(reference, np.sign(x), w, None)) == case.chain
            assert_array_equal(y[whole], expected[whole] * dtype(np.inf), engine)
            assert whole.any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sum_of_zeros_is_plus_zero(dtype):
    """Whatever the signs of the zeros in it, a vanishing product or a bias of -0 included."""
    tiny = np.finfo(dtype).smallest_subnormal
    for case in ODD[::3]:
        for value, weight, bias in ((-0.0, 1, -0.0), (0.0, -1, -0.0), (tiny, -0.25, -0.0)):
            x, w = np.full(case.x_shape, value, dtype), np.full(case.w_shape, weight, dtype)
            b = np.full(case.oc, bias, dtype) if case.bias else None
            for engine, y in cases.results(case, x, w, b):
                assert not y.any(), engine
                assert not np.signbit(y).any(), f"{engine} of {value} * {weight} + {bias}"


def test_no_thread_flushes_denormals():
    case = parse("conv2d i64 k1 nobias")
    x, w = np.full(case.x_shape, 1e-30, np.float32), np.full(case.w_shape, 1e-12, np.float32)
    for engine, y in cases.results(case, x, w, None, threads=(1, 8)):
        assert (y == x * w).all() and y.all(), engine
