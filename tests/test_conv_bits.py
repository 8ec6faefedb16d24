"""The same bits from every algorithm, instruction set with FMA, number of threads, split of the
batch, layout and place in memory: those of one scalar chain of fused multiply-adds.

On random reals, where any other order of summation would show. A machine without FMA is outside of
the promise, so the baseline is left to test_conv_bounds.py.
"""

import os

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import cases
import fastconv as fc
import harness
from cases import DTYPES, FUSED, parse

pytestmark = pytest.mark.skipif(not FUSED, reason="this machine has no fused multiply-add")

REAL = cases.chosen(cases.NASTY, cases.generated(150, seed=2, most_work=100_000), cases.BLOCKED)
#: Least and greatest exponent of the inputs, by the type's size in bytes.
RANGES = {
    "denormal products that lose bits": {4: (-75, -65), 8: (-537, -527)},
    "sums beyond the largest number, and infinities that meet": {4: (60, 66), 8: (508, 514)},
    "denormal inputs": {4: (-127, -120), 8: (-1023, -1016)},
}
WIDE = [case._replace(bias=False) for case in REAL if case.work < 20_000][::4]


@pytest.fixture(autouse=True)
def fused():
    """Where the environment caps calls at the baseline, those made here are not."""
    capped = os.environ.get("FASTCONV_ISA") == "baseline"
    with fc.using(isa=FUSED[0] if capped else None):
        yield


def same_bits(a, b, line):
    """Equal as numbers, signs of zeros included; any NaN equals any other."""
    assert_array_equal(a, b, line)
    numbers = ~np.isnan(a)
    assert_array_equal(np.signbit(a)[numbers], np.signbit(b)[numbers], line)


@pytest.mark.parametrize("case", REAL, ids=str)
def test_all_engines_give_the_same_bits(case):
    threads = (1, 2, 3, 4, 5, 6, 7, 8) if case.work < 300_000 else (1, 3, 8)
    for dtype in DTYPES:
        x, w, b = case.reals(dtype)
        expected = case.run(x, w, b)
        for engine, y in cases.results(case, x, w, b, FUSED, threads):
            same_bits(y, expected, engine)


def chains(selected, dtype, low=-8, high=0):
    """(case, the scalar chain's result) for each case."""
    lines = [harness.chain_line(case, dtype, low=low, high=high) for case in selected]
    for case, answer in zip(selected, harness.run("native", lines), strict=True):
        yield case, harness.values(answer, dtype).reshape(case.y_shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_they_are_those_of_a_scalar_chain_of_fused_multiply_adds(dtype):
    for case, expected in chains(REAL, dtype):
        same_bits(case.run(*case.reals(dtype)), expected, f"{case} {np.dtype(dtype).name}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exponents", RANGES)
def test_so_they_are_where_numbers_end(exponents, dtype):
    low, high = RANGES[exponents][np.dtype(dtype).itemsize]
    tiny, odd = np.finfo(dtype).tiny, 0
    for case, expected in chains(WIDE, dtype, low, high):
        x, w, b = case.reals(dtype, low, high)
        for engine, y in cases.results(case, x, w, b, FUSED, threads=(1, 2)):
            same_bits(y, expected, f"{engine} {exponents}")
        odd += np.sum(~np.isfinite(expected) | (abs(expected) < tiny))
    assert odd > 100 or len(WIDE) == 1


def test_twins_of_the_harness_draw_the_same_inputs():
    """A 1x1 kernel and no bias give one product an output, so the inputs show."""
    case = parse("conv1d i100 k1 nobias")
    for dtype in DTYPES:
        for low, high in ((-8, 0), (-70, -60)):
            x, w, _ = case.reals(dtype, low, high)
            line = harness.chain_line(case, dtype, low=low, high=high)
            (answer,) = harness.run("native", [line])
            expected = (x.astype(np.longdouble) * w.ravel().astype(np.longdouble)).astype(dtype)
            assert_array_equal(harness.values(answer, dtype), expected.ravel())
            assert len(np.unique(x)) > 90


SPLIT = [case for case in REAL if case.batch > 1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_batch_gives_what_its_images_give(dtype):
    for case in SPLIT:
        x, w, b = case.reals(dtype)
        for engine, y in cases.results(case, x, w, b, FUSED):
            one = case._replace(batch=1)
            parts = [one.run(image[None], w, b) for image in x]
            same_bits(y, np.concatenate(parts), engine)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_and_views_of_them_give_the_same_bits(dtype):
    for case in REAL:
        if case.work > 100_000:
            continue
        x, w, b = case.reals(dtype)
        expected = case._replace(last=False).run(x, w, b)
        for engine, y in cases.results(case._replace(last=True), x, w, b, FUSED):
            same_bits(y, expected, engine)
        seen_first = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
        for engine, y in cases.results(case._replace(last=False), seen_first, w, b, FUSED):
            same_bits(y, expected, f"{engine} a view of channels last")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "line", ("conv2d c5-9 i9x23 k3 p1", "conv2d c5-9 i9x23 k1", "conv2d c4-4 g4 i9x40 k3 p1")
)
def test_bits_do_not_depend_on_where_in_memory_the_arrays_begin(line, dtype):
    case = parse(line)
    arrays = case.reals(dtype)
    expected = case.run(*arrays)
    room = [np.empty(a.size + 64, dtype) for a in (*arrays, expected)]
    for start in range(64 // np.dtype(dtype).itemsize + 1):
        shifted = [
            place[start : start + a.size].reshape(a.shape)
            for place, a in zip(room, (*arrays, expected), strict=True)
        ]
        for place, a in zip(shifted, arrays, strict=False):
            place[...] = a
        x, w, b, out = shifted
        for engine, y in cases.results(case, x, w, b, FUSED, out=out):
            assert y is out
            same_bits(y, expected, f"{engine} from element {start} on")


def test_bits_do_not_depend_on_earlier_calls():
    """Workspaces are used again, by calls of other sizes and types, and never read before written."""
    some = REAL[::5]
    first = [case.run(*case.reals(dtype)) for case in some for dtype in DTYPES]
    fc.free_memory()
    jobs = [(case, dtype, y) for case in some for dtype in DTYPES for y in [first.pop(0)]]
    for case, dtype, y in reversed(jobs):
        same_bits(case.run(*case.reals(dtype)), y, f"{case} {np.dtype(dtype).name}")
