"""Pooling against the reference and against the order of summation that is promised.

On small integers every sum is exact and the one division is rounded alike in float64 and float32
(53 >= 2 * 24 + 2 digits), so results are compared with ==. On reals they are compared with == too:
among ISAs, threads and layouts, and with sums by doubling written out below. That these sums are
near the true ones is one more test, against a bound on their rounding errors.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import fastconv as fc
from fastconv import reference
from helpers import assert_same_bits

TYPES = (np.float32, np.float64)
THREADS = (1, 2, 3, 8)
ANY_TYPE = "? i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 g".split()


@dataclass(frozen=True)
class Case:
    """A call but for its values."""

    op: str
    shape: tuple
    options: dict = field(default_factory=dict)

    def __str__(self):
        options = "-".join(f"{k}{v}" for k, v in self.options.items())
        return f"{self.op}-{self.shape}-{options}".replace(" ", "")

    def of(self, module, x, **more):
        return getattr(module, self.op)(x, **self.options, **more)

    def integers(self, dtype):
        """More positive than negative ones, so that few sums are zero."""
        return np.random.default_rng(1).integers(-5, 16, self.shape).astype(dtype)

    def reals(self, dtype):
        """Of many magnitudes, so that another order of summation rounds otherwise."""
        rng = np.random.default_rng(2)
        return (rng.standard_normal(self.shape) * 2.0 ** rng.integers(-9, 9, self.shape)).astype(
            dtype
        )

    @property
    def dims(self):
        return int(self.op[-2]) if self.op[-1] == "d" else len(self.shape) - 2


def pool(op, shape, kernel_size, stride=None, **options):
    return Case(op, shape, {"kernel_size": kernel_size, "stride": stride, **options})


def adaptive(op, shape, output_size):
    return Case(op, shape, {"output_size": output_size})


MAX = [
    pool("max_pool3d", (2, 129, 2, 1, 4), (2, 1, 4), (3, 4, 4), padding=(1, 0, 0), ceil_mode=True),
    pool("max_pool1d", (1, 1, 1), 1),
    pool("max_pool1d", (2, 3, 70), 3, 2, padding=1),
    pool("max_pool1d", (3, 65), 2, 1, dilation=33, padding=17),
    pool("max_pool1d", (1, 2, 33), 4, 3, ceil_mode=True),
    pool("max_pool1d", (1, 2, 40), 3, 10**12),
    pool("max_pool1d", (1, 2, 6000), 5000, 250, padding=2000),
    pool("max_pool1d", (1, 1, 6000), 3, 100, dilation=1500, padding=1500),
    pool("max_pool2d", (2, 3, 32, 32), 2, 2, padding=1),
    pool("max_pool2d", (2, 3, 17, 31), 3, 2, padding=1, ceil_mode=True),
    pool("max_pool2d", (1, 2, 9, 50), (2, 5), (1, 3), padding=(1, 2)),
    pool("max_pool2d", (1, 2, 11, 37), (3, 2), (2, 1), dilation=(2, 5), padding=(2, 3)),
    pool("max_pool2d", (3, 13, 13), 13, 1, padding=6),
    pool("max_pool2d", (1, 1, 3, 2500), (2, 2049), (1, 50)),
    pool("max_pool2d", (1, 3, 40, 21), (31, 15), 1, padding=(15, 7)),
    pool("max_pool2d", (1, 20, 30, 9), (29, 4), (2, 3), padding=(13, 1)),
    # images whose planes become lanes, a vector of them and a rest
    pool("max_pool2d", (3, 21, 7, 7), 3, 1, padding=1),
    # the same of larger planes
    pool("max_pool2d", (1, 67, 19, 20), 5, 1, padding=2),
    # every third, every fifth element of a row, in whole vectors and a rest
    pool("max_pool2d", (2, 3, 40, 61), 5, 3, padding=2),
    pool("max_pool1d", (2, 3, 301), 5, 5),
    # rows that become lanes
    pool("max_pool2d", (2, 3, 40, 61), 8, 6, padding=2),
    # columns by doubling down the height, the last ones fewer than a vector
    pool("max_pool2d", (1, 1, 300, 355), (150, 3), 1),
    # vectors of channels and a rest, where they lie last
    pool("max_pool2d", (2, 21, 9, 11), 3, 1, padding=1),
    pool("max_pool2d", (1, 37, 12, 8), (5, 2), (2, 3), padding=(2, 1), dilation=(1, 2)),
    pool("max_pool3d", (1, 18, 4, 5, 13), 3, 2, padding=1),
    pool("max_pool3d", (1, 2, 5, 6, 35), 2, 2, padding=1, ceil_mode=True),
    pool("max_pool3d", (1, 2, 7, 8, 19), (3, 1, 2), 1, dilation=(2, 1, 3), padding=(2, 0, 1)),
]
ADAPTIVE_MAX = [
    adaptive("adaptive_max_pool1d", (2, 3, 37), 7),
    adaptive("adaptive_max_pool1d", (1, 2, 5), 9),
    adaptive("adaptive_max_pool1d", (1, 1, 5000), 2),
    adaptive("adaptive_max_pool2d", (1, 3, 15, 33), (4, None)),
    adaptive("adaptive_max_pool2d", (3, 8, 40), 1),
    adaptive("adaptive_max_pool2d", (1, 18, 14, 9), (6, 12)),
    adaptive("adaptive_max_pool2d", (1, 3, 60, 61), (7, 9)),
    adaptive("adaptive_max_pool2d", (1, 21, 29, 9), (2, 4)),
    adaptive("adaptive_max_pool3d", (1, 2, 5, 7, 18), (2, 3, 5)),
]
AVG = [
    pool("avg_pool1d", (1, 1, 1), 1),
    pool("avg_pool1d", (2, 3, 70), 3, 2, padding=1),
    pool("avg_pool1d", (1, 2, 40), 7, 1, padding=3, count_include_pad=False),
    pool("avg_pool1d", (3, 33), 4, 3, ceil_mode=True),
    pool("avg_pool1d", (1, 2, 40), 3, 10**12),
    pool("avg_pool1d", (1, 2, 4300), 2048, 130),
    pool("avg_pool1d", (1, 2, 4300), 2049, 130),
    pool("avg_pool1d", (1, 2, 6000), 5000, 250, padding=2000),
    pool("avg_pool2d", (2, 3, 17, 31), 3, 2, padding=1, ceil_mode=True),
    pool("avg_pool2d", (2, 3, 17, 31), 3, 2, padding=1, ceil_mode=True, count_include_pad=False),
    pool("avg_pool2d", (1, 2, 9, 50), (2, 5), (1, 3), padding=(1, 2), divisor_override=3),
    pool("avg_pool2d", (1, 2, 9, 50), 4, divisor_override=-7),
    pool("avg_pool2d", (3, 13, 13), 13, 1, padding=6),
    pool("avg_pool2d", (3, 21, 9, 8), 3, 2, padding=1, count_include_pad=False),
    pool("avg_pool2d", (2, 3, 40, 61), (2, 5), 3, padding=(1, 2), ceil_mode=True),
    pool("avg_pool1d", (2, 3, 301), 5, 5, ceil_mode=True),
    pool("avg_pool2d", (2, 3, 40, 61), (7, 9), 7, padding=(1, 2)),
    pool("avg_pool2d", (1, 67, 19, 20), 5, 1, padding=2, count_include_pad=False),
    # one output of a window that is less than the image, along one axis
    pool("avg_pool2d", (2, 5, 3, 2), 2),
    pool("avg_pool3d", (1, 3, 3, 2, 4), (2, 2, 4), (3, 2, 1)),
    pool("avg_pool2d", (1, 1, 3, 2500), (2, 2049), (1, 50), padding=(1, 1000)),
    pool("avg_pool2d", (1, 3, 40, 21), (31, 15), 1, padding=(15, 7)),
    pool("avg_pool2d", (1, 20, 30, 9), (29, 4), (2, 3), padding=(13, 1), count_include_pad=False),
    pool("avg_pool2d", (1, 70, 9, 8), (3, 5), (1, 4), padding=(1, 2)),
    # vectors of channels and a rest, where they lie last
    pool("avg_pool1d", (1, 34, 31), 5, padding=2),
    pool("avg_pool2d", (1, 37, 13, 13), (4, 5), 5, ceil_mode=True),
    pool("avg_pool2d", (2, 21, 9, 11), 3, 2, padding=1, ceil_mode=True, count_include_pad=False),
    pool("avg_pool3d", (1, 19, 5, 6, 9), (4, 5, 3), 1, padding=(1, 2, 1), divisor_override=3),
    pool("avg_pool3d", (1, 2, 5, 6, 35), 2, 2, padding=1, ceil_mode=True),
    pool("avg_pool3d", (1, 2, 7, 8, 19), (3, 6, 7), (1, 2, 1), padding=(1, 3, 2)),
    pool("avg_pool3d", (2, 6, 5, 40), (5, 4, 3), 1, divisor_override=11),
]
ADAPTIVE_AVG = [
    adaptive("adaptive_avg_pool1d", (2, 3, 37), 7),
    adaptive("adaptive_avg_pool1d", (1, 2, 5), 9),
    adaptive("adaptive_avg_pool1d", (1, 1, 5000), 2),
    adaptive("adaptive_avg_pool2d", (1, 3, 15, 33), (4, None)),
    adaptive("adaptive_avg_pool2d", (3, 8, 40), 1),
    adaptive("adaptive_avg_pool2d", (1, 18, 14, 9), (6, 12)),
    adaptive("adaptive_avg_pool2d", (1, 3, 60, 61), (7, 9)),
    adaptive("adaptive_avg_pool2d", (1, 21, 29, 9), (2, 4)),
    adaptive("adaptive_avg_pool2d", (2, 37, 30, 40), 1),
    adaptive("adaptive_avg_pool3d", (1, 2, 5, 7, 18), (2, 3, 5)),
]
GLOBAL = [
    Case(f"global_{kind}_pool", shape)
    for kind in ("max", "avg")
    for shape in [(2, 3, 70), (1, 2, 7, 3000), (2, 2, 5, 6, 7), (1, 2, 2, 3, 4, 5)]
]
LP = [
    pool("lp_pool1d", (2, 3, 70), 4, 3),
    pool("lp_pool2d", (1, 3, 17, 31), (2, 4), 2, ceil_mode=True),
    pool("lp_pool3d", (1, 2, 5, 7, 18), 2),
]
INDEXED = MAX + ADAPTIVE_MAX
SUMS = AVG + ADAPTIVE_AVG + GLOBAL[4:7]
ALL = INDEXED + AVG + ADAPTIVE_AVG + GLOBAL

every_case = pytest.mark.parametrize("case", ALL, ids=str)
every_type = pytest.mark.parametrize("dtype", TYPES, ids=["f32", "f64"])


def runs(case, x, **more):
    """The result on every ISA with every number of threads."""
    for isa in fc.isas():
        for threads in THREADS:
            with fc.using(isa=isa, threads=threads):
                yield f"{isa}, {threads} threads", case.of(fc, x, **more)


def levels(case):
    """How many additions an element goes through at most: those of a tree for each axis."""
    size = case.shape[-case.dims :]
    if "kernel_size" in case.options:
        taps = np.broadcast_to(case.options["kernel_size"], case.dims).tolist()
    else:
        out = np.broadcast_to(np.array(case.options.get("output_size", 1), object), case.dims)
        taps = [-(-n // (o or n)) + 1 for n, o in zip(size, out, strict=True)]
    return sum(math.ceil(math.log2(k)) for k in taps), math.prod(taps)


# --- against the reference ----------------------------------------------------------------------


@every_case
def test_integers_give_exactly_the_reference(case):
    want = case.of(reference, case.integers(np.float64))
    assert np.count_nonzero(want) > 0.3 * want.size, "the case tests nothing"
    for dtype in TYPES:
        for where, y in runs(case, case.integers(dtype)):
            assert y.dtype == dtype
            assert_array_equal(y, want.astype(dtype), where)


def gamma(n, dtype):
    """The relative error that n roundings can add up to (Higham 2002, lemma 3.1)."""
    u = np.finfo(dtype).eps / 2
    return n * u / (1 - n * u)


@every_type
@pytest.mark.parametrize("case", SUMS, ids=str)
def test_means_of_reals_lie_within_the_bound_of_sums_by_doubling(case, dtype):
    x = case.reals(dtype)
    wide = x.astype(np.longdouble)
    want, size = case.of(reference, wide, sum_dtype=wide.dtype), abs(wide)
    weight = abs(case.of(reference, size, sum_dtype=wide.dtype))
    depth, terms = levels(case)
    bound = (gamma(depth + 1, dtype) + gamma(terms + 1, np.longdouble)) * weight
    bound += np.finfo(dtype).smallest_subnormal  # the division may leave the normal range
    error = abs(case.of(fc, x) - want)
    assert (error <= bound).all(), (error / bound).max()


@pytest.mark.parametrize("case", INDEXED, ids=str)
def test_indices_are_those_of_the_reference(case):
    x = case.integers(np.float64)  # few values, many ties
    x[x > 12] = np.nan
    x[x < -2] = -np.inf
    want, places = case.of(reference, x, return_indices=True)
    for dtype in TYPES:
        assert_array_equal(case.of(fc, x.astype(dtype)), want)
        for where, (y, found) in runs(case, x.astype(dtype), return_indices=True):
            assert y.dtype == dtype and found.dtype == np.int64
            assert_array_equal(y, want, where)
            assert_array_equal(found, places, where)


@pytest.mark.parametrize("dtype", ANY_TYPE)
@pytest.mark.parametrize("case", [c for c in INDEXED if levels(c)[1] < 200], ids=str)
def test_maxima_keep_any_type(case, dtype):
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(3)
    if dtype.kind in "iu":
        ends = np.iinfo(dtype)
        x = rng.integers(ends.min, ends.max, case.shape, dtype, endpoint=True)
    else:
        x = rng.integers(-9, 9, case.shape).astype(dtype)
    want, places = case.of(reference, x, return_indices=True)
    y, found = case.of(fc, x, return_indices=True)
    assert y.dtype == dtype and case.of(fc, x).dtype == dtype
    assert_array_equal(y, want)
    assert_array_equal(case.of(fc, x), want)
    assert_array_equal(found, places)


@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "i4", "i8", "u8"])
@pytest.mark.parametrize("case", [c for c in SUMS if levels(c)[1] < 200], ids=str)
def test_means_of_integers_are_float64(case, dtype):
    x = case.integers("i8").astype(dtype)
    y = case.of(fc, x)
    assert y.dtype == np.float64
    assert_array_equal(y, case.of(reference, x))


@pytest.mark.parametrize("case", SUMS, ids=str)
def test_means_of_float16_are_those_of_float32_rounded_once(case):
    x = case.reals(np.float16)
    y = case.of(fc, x)
    assert y.dtype == np.float16
    assert_array_equal(y, case.of(fc, x.astype(np.float32)).astype(np.float16))


# --- bits ---------------------------------------------------------------------------------------


@every_type
@every_case
def test_reals_give_equal_bits_on_every_isa_and_thread_count(case, dtype):
    x = case.reals(dtype)
    want = case.of(fc, x)
    for where, y in runs(case, x):
        assert_same_bits(y, want, where)


def tree(terms):
    """S(1) = x, S(k) = S(p) + S(k - p) after it, p the largest power of two below k."""
    if len(terms) == 1:
        return terms[0]
    p = 1 << (len(terms) - 1).bit_length() - 1
    return tree(terms[:p]) + tree(terms[p:])


def windows(case, axis):
    """The positions under each window along an axis of space, and how many of them count."""
    n, at = case.shape[axis], case.dims + axis
    if "kernel_size" not in case.options:
        out = case.options.get("output_size", 1)
        out = (out[at] if isinstance(out, tuple) else out) or n
        spans = [range(o * n // out, -(-(o + 1) * n // out)) for o in range(out)]
        return spans, [len(span) for span in spans]

    def option(name, default):
        value = case.options.get(name) or default
        return value[at] if isinstance(value, tuple) else value

    k, pad = option("kernel_size", 1), option("padding", 0)
    s = option("stride", k)
    include = case.options.get("count_include_pad", True)
    ends = (-pad, n + pad) if include else (0, n)
    starts = range(-pad, n + (0 if case.options.get("ceil_mode") else pad - k + 1), s)
    spans = [range(i, i + k) for i in starts]
    return spans, [sum(ends[0] <= i < ends[1] for i in span) for span in spans]


@every_type
@pytest.mark.parametrize("case", SUMS, ids=str)
def test_sums_go_by_doubling_along_depth_then_height_then_width(case, dtype):
    x, divisor = case.reals(dtype), dtype(1)
    y = case.of(fc, x)
    for axis in range(-case.dims, 0):
        spans, counts = windows(case, axis)
        n, zero = x.shape[axis], np.zeros_like(x.take(0, axis))
        columns = [x.take(i, axis) for i in range(n)]
        sums = [tree([columns[i] if 0 <= i < n else zero for i in span]) for span in spans]
        x = np.stack(sums, axis)
        divisor = divisor * np.reshape(counts, [-1] + [1] * (-1 - axis)).astype(dtype)
    assert_same_bits(y, x / dtype(case.options.get("divisor_override") or divisor))


def disguises(x):
    """The same array in other memory."""
    twice = np.repeat(x, 2, -1)
    yield "every second element", twice[..., ::2]
    yield "backwards", np.flip(np.flip(x).copy())
    yield "transposed", np.asfortranarray(x)
    yield "channels last", np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    yield "byte-swapped", x.astype(x.dtype.newbyteorder())
    room = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    room[...] = x
    yield "unaligned", room
    frozen = x.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen


BATCHED = [case for case in ALL if case.dims + 2 == len(case.shape) < 6]


@pytest.mark.parametrize("case", BATCHED, ids=str)
def test_memory_does_not_matter(case):
    x = case.reals(np.float32)
    want = case.of(fc, x)
    for name, same in disguises(x):
        before = same.copy()
        assert_same_bits(case.of(fc, same), want, name)
        assert_array_equal(same, before, name)
    spread = np.broadcast_to(x[:1, :1], x.shape)
    assert_same_bits(case.of(fc, spread), case.of(fc, spread.copy()), "broadcast")


@pytest.mark.parametrize("case", [c for c in MAX + AVG if c in BATCHED], ids=str)
def test_channels_last_is_the_same_with_axes_moved(case):
    x = case.reals(np.float64)
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    want = np.moveaxis(case.of(fc, x), 1, -1)
    assert_same_bits(case.of(fc, last, layout="NHWC"), want)
    assert_same_bits(case.of(fc, last[0], layout="NHWC"), want[0])
    if case in MAX:
        _, places = case.of(fc, x, return_indices=True)
        _, found = case.of(fc, last, return_indices=True, layout="NHWC")
        assert_array_equal(found, np.moveaxis(places, 1, -1))


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2"])
@pytest.mark.parametrize("case", [c for c in MAX if levels(c)[1] < 200], ids=str)
def test_out_is_filled_and_returned(case, dtype):
    x = case.integers(dtype)
    want = case.of(fc, x)
    room = np.zeros((*want.shape[:-1], 2 * want.shape[-1]), dtype)
    for out in (np.empty_like(want), room[..., ::2], np.flip(np.empty_like(want))):
        assert case.of(fc, x, out=out) is out
        assert_array_equal(out, want)
    assert not room[..., 1::2].any()


@pytest.mark.parametrize("op", ["max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize("dtype", ["f2", "f4"])
def test_out_may_be_the_input(op, dtype):
    case = pool(op, (1, 2, 12, 20), 3, 1, padding=1)
    x = case.reals(dtype)
    want = case.of(fc, x)
    assert_array_equal(case.of(fc, x, out=x), want)
    assert_array_equal(x, want)


# --- values that are not ordinary ---------------------------------------------------------------


@pytest.mark.parametrize("isa", fc.isas())
@every_type
def test_nan_is_the_maximum_wherever_it_stands(isa, dtype):
    with fc.using(isa=isa):
        for stride in (1, 2, 3):
            for place in range(40):
                x = np.arange(40, dtype=dtype)[None, None]
                x[..., place] = np.nan
                y = fc.max_pool1d(x, 5, stride)[0, 0]
                seen = [o * stride <= place < o * stride + 5 for o in range(len(y))]
                assert_array_equal(np.isnan(y), seen)


@pytest.mark.parametrize("isa", fc.isas())
@every_type
def test_infinite_elements_keep_to_their_windows(isa, dtype):
    x = np.ones((1, 1, 9), dtype)
    x[..., 2], x[..., 6], x[..., 8] = np.inf, -np.inf, np.inf
    with fc.using(isa=isa):
        assert_array_equal(fc.avg_pool1d(x, 3)[0, 0], [np.inf, 1, np.nan])
        assert_array_equal(fc.max_pool1d(x, 3)[0, 0], [np.inf, 1, np.inf])
        assert_array_equal(fc.max_pool1d(-x, 3)[0, 0], [-1, -1, np.inf])


@pytest.mark.parametrize("isa", fc.isas())
@every_type
def test_subnormal_numbers_are_added_and_not_flushed(isa, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    with fc.using(isa=isa):
        assert_array_equal(fc.avg_pool1d(np.full((1, 1, 4), tiny), 4), [[[tiny]]])
        assert_array_equal(fc.max_pool1d(np.array([[[-tiny, tiny, 0]]]), 3), [[[tiny]]])


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_the_last_of_several_nans_and_the_first_of_equals_is_named(dtype):
    x = np.array([[[5, 7, 7, np.nan, 1, np.nan], [-np.inf] * 6]], dtype)
    y, places = fc.max_pool1d(x, 3, return_indices=True)
    assert_array_equal(y, [[[7, np.nan], [-np.inf, -np.inf]]])
    assert_array_equal(places, [[[1, 5], [0, 3]]])


@pytest.mark.parametrize("dtype", ["i4", "f2", "f4", "f8"])
def test_a_dilated_window_between_whose_taps_the_image_lies_is_empty(dtype):
    x = np.array([[[3, 4]]], dtype)
    call = pool("max_pool1d", x.shape, 2, 4, padding=3, dilation=5)
    y, places = call.of(fc, x, return_indices=True)
    want, nowhere = call.of(reference, x, return_indices=True)
    assert_array_equal(y, want)
    assert_array_equal(places, nowhere)


# --- known values -------------------------------------------------------------------------------

SIXTEEN, TWENTY_FIVE = (np.arange(1.0, n * n + 1).reshape(1, 1, n, n) for n in (4, 5))
# ceil_mode: what lies beyond the right padding is not counted, pytorch/pytorch issue 183528, to
# four decimals; the others by hand, on the images of the pooling examples of ONNX.
KNOWN = [
    (
        pool("avg_pool2d", (4, 4), 3, 2, padding=1, ceil_mode=True),
        [[1.5556, 3.3333, 2], [6.3333, 11, 6], [4.5, 7.5, 4]],
    ),
    (pool("avg_pool2d", (4, 4), 3, 2, ceil_mode=True), [[6, 7.5], [12, 13.5]]),
    (pool("max_pool2d", (4, 4), 3, 2, ceil_mode=True), [[11, 12], [15, 16]]),
    (pool("max_pool2d", (4, 4), 2, 1, dilation=2), [[11, 12], [15, 16]]),
    (pool("max_pool2d", (5, 5), 2, 2), [[7, 9], [17, 19]]),
    (pool("avg_pool2d", (5, 5), 2, 2), [[4, 6], [14, 16]]),
    (pool("max_pool2d", (4, 4), 1, 3, ceil_mode=True), [[1, 4], [13, 16]]),
    (pool("max_pool2d", (5, 5), 1, 3, ceil_mode=True), [[1, 4], [16, 19]]),
    (
        pool("max_pool2d", (5, 5), 5, 1, padding=2),
        [[13, 14, 15, 15, 15], [18, 19, 20, 20, 20]] + 3 * [[23, 24, 25, 25, 25]],
    ),
    (
        pool("avg_pool2d", (5, 5), 5, 1, padding=2, count_include_pad=False),
        np.add.outer(np.arange(7, 18, 2.5), np.arange(0, 2.5, 0.5)),
    ),
    (adaptive("adaptive_avg_pool2d", (5, 5), 2), [[7, 9], [17, 19]]),
    (adaptive("adaptive_max_pool2d", (4, 4), 3), [[6, 7, 8], [10, 11, 12], [14, 15, 16]]),
]


@pytest.mark.parametrize(("case", "want"), KNOWN, ids=lambda v: str(v) if type(v) is Case else "")
def test_known_values(case, want):
    x = SIXTEEN if case.shape == (4, 4) else TWENTY_FIVE
    assert_array_equal(np.round(case.of(fc, x)[0, 0], 4), want)


def test_known_indices():
    _, places = fc.max_pool2d(TWENTY_FIVE, 5, 1, 2, return_indices=True)
    rows = [[12, 13, 14, 14, 14], [17, 18, 19, 19, 19]] + 3 * [[22, 23, 24, 24, 24]]
    assert_array_equal(places[0, 0], rows)


def test_the_last_window_starts_in_the_image_or_in_the_padding_before_it():
    for n, k, s, pad, out in [(2, 1, 2, 0, 1), (4, 2, 3, 1, 2), (32, 2, 2, 1, 17), (5, 3, 4, 1, 2)]:
        assert fc.max_pool1d(np.ones((1, 1, n)), k, s, pad, ceil_mode=True).shape[-1] == out


# --- powers, unpooling, empty arrays ------------------------------------------------------------


@every_type
@pytest.mark.parametrize("power", [1, 2, 3, 0.5, -1])
@pytest.mark.parametrize("case", LP, ids=str)
def test_power_means_are_roots_of_means_of_powers(case, power, dtype):
    x = abs(case.reals(dtype)) if power != 3 else case.reals(dtype)
    with np.errstate(all="ignore"):
        mean = pool("avg" + case.op[2:], case.shape, **case.options).of(fc, x ** dtype(power))
        taps = np.prod(np.broadcast_to(case.options["kernel_size"], case.dims))
        want = (mean * dtype(taps)) ** dtype(1 / power)
    y = case.of(fc, x, norm_type=power)
    assert_same_bits(y, want)
    assert_array_equal(np.isnan(y), np.isnan(case.of(reference, x, norm_type=power)))
    if power in (1, 2):  # squares and roots are correctly rounded, other powers are NumPy's own
        wide = x.astype(np.longdouble)
        want = case.of(reference, wide, norm_type=power, sum_dtype=wide.dtype)
        depth, terms = levels(case)
        bound = gamma(depth + 4, dtype) + gamma(terms + 4, np.longdouble)
        assert (abs(y - want) <= bound * want).all()


@pytest.mark.parametrize("dtype", ANY_TYPE)
@pytest.mark.parametrize(
    "case",
    [
        pool("max_pool1d", (2, 3, 17), 3, 2),
        pool("max_pool2d", (3, 9, 8), 2),
        pool("max_pool2d", (1, 2, 9, 9), (3, 2), 2, padding=1),
        pool("max_pool3d", (1, 2, 4, 6, 5), 2),
    ],
    ids=str,
)
def test_unpooling_puts_the_maxima_back(case, dtype):
    x = np.random.default_rng(4).permutation(math.prod(case.shape)).reshape(case.shape)
    x = (x % 120).astype(dtype)
    y, places = case.of(fc, x, return_indices=True)
    undo = f"max_unpool{case.dims}d"
    options = {**case.options, "output_size": case.shape[-case.dims :]}
    back = getattr(fc, undo)(y, places, **options)
    assert back.dtype == np.dtype(dtype)
    assert_array_equal(back, getattr(reference, undo)(y, places, **options))
    rows = x.reshape(-1, math.prod(case.shape[-case.dims :]))
    spots = np.zeros_like(rows, bool)
    np.put_along_axis(spots, places.reshape(len(rows), -1), True, 1)
    assert_array_equal(back.reshape(rows.shape), np.where(spots, rows, 0))


def test_unpooling_takes_the_last_of_values_for_one_place():
    x = np.array([[[1.0, 2.0, 3.0]]])
    y = fc.max_unpool1d(x, np.array([[[4, 4, 0]]]), 2)
    assert_array_equal(y, [[[3, 0, 0, 0, 2, 0]]])


@pytest.mark.parametrize("dtype", ["?", "f2", "f4", "f8", "g"])
@pytest.mark.parametrize("place", [-1, 4, 2**31, 2**32, -(2**63)])
def test_a_place_outside_of_its_plane_is_found_where_it_is_used(place, dtype):
    room = np.zeros((4, 4), dtype)
    x, places = np.ones((2, 3), dtype), np.array([[0, 3, 1], [2, place, 0]])
    assert not fc._core.unpool(x, places, room[1:3])
    want = [[0, 0, 0, 0], [1, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert_array_equal(room, np.array(want, dtype))
    with pytest.raises(IndexError, match="from 0 to 3"):
        fc.max_unpool1d(np.ones((1, 2)), np.array([[0, place]]), 2)


@every_case
def test_an_empty_batch_gives_an_empty_result(case):
    if len(case.shape) == case.dims + 1:
        return
    x = np.ones(case.shape, np.float32)
    y = case.of(fc, x[:0])
    assert y.shape == (0, *case.of(fc, x).shape[1:]) and y.dtype == x.dtype
    assert case.of(fc, x[:, :0]).shape[1] == 0


# --- generated problems -------------------------------------------------------------------------


@st.composite
def problems(draw):
    dims = draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["max", "avg"]))
    most = {1: 140, 2: 40, 3: 12}[dims]
    options = {"kernel_size": [], "stride": [], "padding": []}
    dilations, space = [], []
    for _ in range(dims):
        k, d = draw(st.integers(1, 9)), draw(st.integers(1, 3)) if kind == "max" else 1
        reach = d * (k - 1) + 1
        pad = draw(st.integers(0, reach // 2))
        space.append(draw(st.integers(max(1, reach - 2 * pad), max(most, reach))))
        dilations.append(d)
        options["kernel_size"].append(k)
        options["stride"].append(draw(st.integers(1, 6)))
        options["padding"].append(pad)
    options = {name: tuple(values) for name, values in options.items()}
    if kind == "max":
        options["dilation"] = tuple(dilations)
    else:
        options["count_include_pad"] = draw(st.booleans())
    options["ceil_mode"] = draw(st.booleans())
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 3)), *space)
    return Case(f"{kind}_pool{dims}d", shape, options)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(problems(), st.sampled_from(TYPES), st.sampled_from(fc.isas()), st.sampled_from(THREADS))
def test_generated_problems_give_exactly_the_reference(case, dtype, isa, threads):
    x = case.integers(dtype)
    with fc.using(isa=isa, threads=threads):
        assert_array_equal(case.of(fc, x), case.of(reference, x))
        if case.op.startswith("max"):
            found = case.of(fc, x, return_indices=True)
            for got, want in zip(found, case.of(reference, x, return_indices=True), strict=True):
                assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_powers_of_an_array_with_gaps_have_the_same_bits(dtype):
    x = np.random.default_rng(5).random((2, 3, 17, 40)).astype(dtype)
    apart = np.repeat(x, 2, axis=3)[..., ::2]
    backwards = np.flip(np.flip(x).copy())
    for power in (1.5, 3):
        want = fc.lp_pool2d(x, power, (2, 5))
        for view in (apart, backwards, x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)):
            assert_array_equal(fc.lp_pool2d(view, power, (2, 5)), want)
