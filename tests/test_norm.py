"""Steps that ONNX models need beside layers: softmax of rows, local response normalisation, erf, clip."""

import math

import numpy as np
import pytest

import fastconv as fc
from cases import DTYPES
from fastconv import _core, _numpy_ops
from fastconv.testing._fences import SIDES, fenced
from helpers import assert_same_bits

RNG = np.random.default_rng(8)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_isa = pytest.mark.parametrize("isa", fc.isas())
FUSING = [isa for isa in fc.isas() if isa != "baseline"]
RESPONSES = [(2, 2, 1e-4 / 5, 1.0), (0, 1, 0.3, 2.0), (9, 3, 0.5, 0.1)]


def reals(*shape, dtype):
    return RNG.standard_normal(shape).astype(dtype)


def engine(name, x, *parameters):
    return _numpy_ops.activate(name, parameters, x)[0]


def response(x, before, after, scale, bias):
    wide, sums = x.astype(np.longdouble), np.zeros(x.shape, np.longdouble)
    for c in range(x.shape[1]):
        sums[:, c] = (wide[:, max(c - before, 0) : c + after + 1] ** 2).sum(1)
    return wide / (bias + scale * sums) ** np.longdouble(0.75)


@every_isa
@every_dtype
@pytest.mark.parametrize("shape", [(3, 1), (2, 5, 17), (4, 16), (1, 1000), (1, 40, 2049)])
def test_softmax_is_right_to_its_roundings(shape, dtype, isa):
    """Those of exp, of the sum's reciprocal, of the product; in float64 also of the sum, in 16 parts."""
    x = reals(*shape, dtype=dtype) * 10
    wide = np.exp(x.astype(np.longdouble) - x.max(-1, keepdims=True))
    expected = wide / wide.sum(-1, keepdims=True)
    with fc.using(isa=isa):
        y = fc.softmax(x, -1)
    assert y.dtype == dtype and y.shape == shape
    units = 3 + (shape[-1] / 16 + 4) / 2 * np.finfo(float).eps / np.finfo(dtype).eps
    assert (np.abs(y - expected) <= units * np.finfo(dtype).eps * expected).all()


def layer_norm(x, scale, shift, eps, y=None):
    y = np.empty_like(x) if y is None else y
    _core.run(_core.layer_norm_step(eps, scale, shift, x, y))
    return y


@every_isa
@every_dtype
@pytest.mark.parametrize("shape", [(3, 1), (2, 5, 17), (4, 16), (1, 1000), (1, 40, 2049)])
def test_layer_norm_is_that_in_float64(shape, dtype, isa):
    """Rounded once, of float32; in place as well."""
    x = reals(*shape, dtype=dtype) * 3 + 20
    scale, shift = reals(shape[-1], dtype=dtype), reals(shape[-1], dtype=dtype)
    with fc.using(isa=isa):
        y, again = layer_norm(x, scale, shift, 1e-5), x.copy()
        layer_norm(again, scale, shift, 1e-5, again)
    wide = x.astype(np.longdouble)
    deviations = wide - wide.mean(-1, keepdims=True)
    root = np.sqrt((deviations**2).mean(-1, keepdims=True) + 1e-5)
    expected = deviations / root * scale + shift
    most = np.abs(deviations / root * scale) + np.abs(shift) + 1
    assert (
        np.abs(y - expected) <= (1 + 99 * (dtype == np.float64)) * np.finfo(dtype).eps * most
    ).all()
    assert_same_bits(y, again, "in place")


@every_isa
@every_dtype
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 7, 5), (1, 5, 23, 29), (2, 12, 3, 5, 37)])
@pytest.mark.parametrize("settings", RESPONSES, ids=str)
def test_local_response_is_right_to_the_units_of_its_roundings(settings, shape, dtype, isa):
    """The sum is off by at most 15 eps / 2, of which 3/4 are left; roots, product and quotient add 4 roundings."""
    x = reals(*shape, dtype=dtype) * 3
    expected = response(x, *settings)
    with fc.using(isa=isa):
        y = _numpy_ops.local_response(x, *settings)
    assert (np.abs(y - expected) <= 8 * np.finfo(dtype).eps * np.abs(expected)).all()


@every_dtype
def test_all_isas_and_numbers_of_threads_give_the_same_bits(dtype):
    rows, image, line = (
        reals(*shape, dtype=dtype) * 3 for shape in ((9, 531), (2, 9, 30, 41), (4001,))
    )
    first = None
    for isa in FUSING:
        for threads in (1, 3):
            with fc.using(isa=isa, threads=threads):
                results = [
                    fc.softmax(rows, -1),
                    layer_norm(rows, rows[0], rows[1], 0.1),
                    _numpy_ops.local_response(image, 2, 1, 0.1, 1.0),
                    engine("erf", line),
                    engine("clip", line, -0.5, 2.0),
                ]
            first = first or results
            for one, other in zip(results, first, strict=True):
                assert_same_bits(one, other)


@every_isa
@every_dtype
def test_erf_is_right_to_four_units(dtype, isa):
    x = np.concatenate([np.linspace(-7, 7, 3001), np.geomspace(1e-30, 1, 500)]).astype(dtype)
    expected = np.array([math.erf(v) for v in x.tolist()])
    with fc.using(isa=isa):
        y = engine("erf", x)
        ends = engine("erf", np.array([-np.inf, np.inf, np.nan, -0.0, 0.0], dtype))
    # math.erf is right to a unit of float64 itself
    assert (np.abs(y - expected) <= 4 * np.finfo(dtype).eps * np.abs(expected)).all()
    np.testing.assert_array_equal(ends, np.array([-1, 1, np.nan, -0.0, 0.0], dtype))
    assert np.signbit(ends[3]) and not np.signbit(ends[4])


@every_isa
@every_dtype
def test_clip_is_numpy_s(dtype, isa):
    x = np.array([-np.inf, -3, -0.5, -0.0, 0.0, 1, 2, 5, np.inf, np.nan] * 5, dtype)
    for bounds in ((-0.5, 2), (0, np.inf), (-np.inf, 1), (3, 3)):
        with fc.using(isa=isa):
            np.testing.assert_array_equal(
                engine("clip", x, *map(float, bounds)), np.clip(x, *bounds)
            )


def test_softmax_of_rows_that_are_not_finite():
    x = np.array([[0, np.nan, 1], [np.inf, 0, 1], [-np.inf, 0, 0], [-np.inf] * 3], np.float32)
    nan = [np.nan] * 3
    np.testing.assert_array_equal(fc.softmax(x, -1), [nan, nan, [0, 0.5, 0.5], nan])


@every_isa
@pytest.mark.parametrize("side", SIDES)
@every_dtype
def test_nothing_beyond_the_arrays_is_touched(dtype, side, isa):
    for shape in ((1, 3, 1), (2, 5, 7), (1, 7, 513)):
        x = reals(*shape, dtype=dtype)
        (_, lying), (_, y) = fenced(x, side), fenced(np.empty_like(x), side)
        with fc.using(isa=isa):
            _core.run(_core.local_response_step(2, 2, 0.1, 1.0, lying, y))
            np.testing.assert_array_equal(y, _numpy_ops.local_response(x, 2, 2, 0.1, 1.0))
            _core.run(_core.softmax_step(lying, y))
            np.testing.assert_array_equal(y, fc.softmax(x, -1))
            (_, scale), (_, shift) = (fenced(x[0, i], side) for i in (0, -1))
            layer_norm(lying, scale, shift, 0.1, y)
            np.testing.assert_array_equal(y, layer_norm(x, x[0, 0], x[0, -1], 0.1))
