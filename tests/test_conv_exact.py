"""On small integers no sum needs rounding, so every engine must give what int64 arithmetic gives.

Every instruction set, algorithm, element type and number of threads this machine has, on every
case; then arrays that lie oddly, all forms of padding, and what a plan says about itself.
"""

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from numpy.testing import assert_array_equal

import cases
import fastconv as fc
from cases import DTYPES, Case, parse

SMALL = cases.chosen(cases.NASTY, cases.generated(400, seed=1))
ALL = cases.chosen(SMALL, cases.BLOCKED)
MOST_ZEROS = 0.7  # of a case's outputs before bias; else a wrong result could look right


def check(case: Case, threads: tuple[int, ...]):
    x, w, b = case.integers()
    sums = cases.integer_conv(case, x, w, None)
    assert np.mean(sums == 0) <= MOST_ZEROS, f"{case}: too many zeros to be a test"
    expected = sums if b is None else sums + b.reshape(-1, *[1] * case.dims)
    engines_met = 0
    for dtype in DTYPES:
        arrays = (None if a is None else a.astype(dtype) for a in (x, w, b))
        for engine, y in cases.results(case, *arrays, threads=threads):
            assert y.dtype == dtype
            assert_array_equal(y, expected, engine)
            engines_met += 1
    # im2col at least, which takes every problem
    assert engines_met >= len(DTYPES) * len(fc.isas()) * len(threads)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_integer_inputs_give_exact_sums(case):
    check(case, threads=(1, 2, 3, 8))


@pytest.mark.parametrize("case", cases.chosen(cases.BLOCKED), ids=str)
def test_chains_worked_off_in_blocks_give_exact_sums(case):
    check(case, threads=(1, 3))


@pytest.mark.parametrize("algorithm", fc._core.algorithms())
def test_every_algorithm_is_reached_by_many_cases_and_forcing_it_takes(algorithm):
    reached = 0
    for case in ALL:
        x, w, b = (None if a is None else a.astype(np.float32) for a in case.integers())
        try:
            case.reference(fc, x, w, b, algorithm=algorithm)
        except ValueError as refusal:
            assert f"algorithm {algorithm!r} cannot do this: " in str(refusal)
            with fc.using(algorithm=algorithm), pytest.raises(ValueError, match="cannot do this"):
                fc.explain(case.op, x, w, b, **case.options())
            continue
        plan = fc.explain(case.op, x, w, b, algorithm=algorithm, **case.options())
        assert plan.algorithm == algorithm, case
        reached += 1
    assert reached >= 15 or len(ALL) == 1


def test_a_plan_names_the_isa_and_the_threads_asked_for_and_stays_below_4_mb_a_thread():
    for number, case in enumerate(ALL):
        for dtype in DTYPES:
            x, w, b = (None if a is None else a.astype(dtype) for a in case.integers())
            for isa, algorithm, threads in cases.engines(threads=(1 + number % 8,)):
                with fc.using(isa=isa, threads=threads):
                    try:
                        plan = fc.explain(case.op, x, w, b, algorithm=algorithm, **case.options())
                    except ValueError:
                        continue
                assert (plan.isa, plan.algorithm, plan.threads) == (isa, algorithm, threads)
                assert plan.dtype == np.dtype(dtype).name
                assert plan.workspace_bytes <= threads * (4 << 20) + 64, (str(case), plan)


# Arrays that lie oddly ------------------------------------------------------------------------------


def reversed_axes(a):
    """Every stride negative."""
    turned = np.ascontiguousarray(np.flip(a))
    return np.flip(turned)


def spaced(a):
    """Every stride twice what it would be."""
    wide = np.full([2 * n for n in a.shape], 77, a.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def turned(a):
    """The axes in memory in reversed order."""
    return np.ascontiguousarray(a.T).T


def channels_last(a):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


def beside(a):
    """Rows with foreign elements between them."""
    wide = np.full((*a.shape[:-1], a.shape[-1] + 3), 77, a.dtype)
    wide[..., 2:-1] = a
    return wide[..., 2:-1]


def unaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)
    view = raw[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def at_odd_distances(a):
    """Aligned to nothing, and no stride a multiple of the element."""
    record = np.zeros(a.shape, [("gap", np.uint8), ("a", a.dtype), ("more", np.uint16)])
    record["a"] = a
    return record["a"]


def swapped(a):
    return a.astype(a.dtype.newbyteorder())


def fortran(a):
    return np.asfortranarray(a)


def read_only(a):
    a = a.copy()
    a.setflags(write=False)
    return a


LYING = (
    reversed_axes, spaced, turned, channels_last, beside, unaligned, at_odd_distances, swapped,
    fortran, read_only,
)  # fmt: skip
WRITABLE = tuple(lie for lie in LYING if lie not in (swapped, read_only))
VIEWED = [
    parse(line)
    for line in (
        "conv2d c5-9 i9x23 k3 p1 n2",
        "conv2d c5-9 i9x23 k1 n2",
        "conv2d c4-8 g4 i7x19 k3 s2 p1",
        "conv2d c4-4 g4 i9x40 k3 p1 n2",
        "conv2d c4-6 g2 i9x8 k3x2 s2x3 d2 p1",
        "conv1d c3-5 i70 k5 s3 p2",
        "conv3d c3-4 i4x5x6 k3 p1",
        "conv_transpose2d c4-6 g2 i5x9 k4 s2 p1",
        "conv_transpose1d c3-4 i9 k1",
    )
]


@pytest.mark.parametrize("lie", LYING, ids=lambda lie: lie.__name__)
@pytest.mark.parametrize("case", VIEWED, ids=str)
def test_inputs_may_lie_anyhow(case, lie):
    x, w, b = case.integers()
    expected = cases.integer_conv(case, x, w, b)
    for dtype in DTYPES:
        odd = [lie(a.astype(dtype)) for a in (x, w)]
        before = [a.copy() for a in odd]
        for engine, y in cases.results(case, *odd, b.astype(dtype), threads=(1, 3)):
            assert_array_equal(y, expected, f"{engine} {lie.__name__}")
        assert_array_equal(odd[0], before[0])
        assert_array_equal(odd[1], before[1])


@pytest.mark.parametrize("lie", WRITABLE, ids=lambda lie: lie.__name__)
@pytest.mark.parametrize("case", VIEWED, ids=str)
def test_results_may_be_written_anywhere(case, lie):
    x, w, b = case.integers()
    expected = cases.integer_conv(case, x, w, b)
    for dtype in DTYPES:
        arrays = [a.astype(dtype) for a in (x, w, b)]
        for isa, algorithm, threads in cases.engines(threads=(1, 3)):
            out = lie(np.full(expected.shape, -1, dtype))
            owner = out if out.base is None else out.base
            outside = foreign(out, owner)
            with fc.using(isa=isa, threads=threads):
                try:
                    y = case.run(*arrays, algorithm=algorithm, out=out)
                except ValueError as refusal:
                    assert "cannot do this" in str(refusal)
                    continue
            line = f"{case} [{isa} {algorithm} threads={threads} {out.dtype} {lie.__name__}]"
            assert y is out, line
            assert_array_equal(out, expected, line)
            assert_array_equal(foreign(out, owner), outside, line)


def foreign(view, owner) -> np.ndarray:
    """The bytes of owner that are not elements of view."""
    raw = np.frombuffer(owner.data if owner.flags.c_contiguous else owner.T.data, np.uint8)
    mine = np.zeros(raw.size, bool)
    at = view.__array_interface__["data"][0] - raw.__array_interface__["data"][0]
    for axis_offsets in offsets(view):
        mine[at + axis_offsets] = True
    return raw[~mine].copy()


def offsets(view):
    """For each byte of an element, where the view has it, relative to its first element."""
    at = np.zeros(1, np.intp)
    for n, stride in zip(view.shape, view.strides, strict=True):
        at = (at[:, None] + np.arange(n) * stride).ravel()
    return [at + byte for byte in range(view.itemsize)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", range(4))
def test_an_input_may_be_one_row_repeated(axis, dtype):
    case = parse("conv2d c4-6 g2 i9x19 k3x2 p1 n3")
    x, w, b = (a.astype(dtype) for a in case.integers())
    one = x[tuple(slice(0, 1) if a == axis else slice(None) for a in range(4))]
    strides = tuple(0 if a == axis else s for a, s in enumerate(x.strides))
    repeated = as_strided(one, x.shape, strides, writeable=False)
    expected = cases.integer_conv(case, repeated.astype(np.int64), w.astype(np.int64), b)
    for engine, y in cases.results(case, repeated, w, b, threads=(1, 3)):
        assert_array_equal(y, expected, engine)
    everywhere = np.broadcast_to(x[:1, :1, :1, :1], x.shape)
    expected = cases.integer_conv(case, everywhere.astype(np.int64), w.astype(np.int64), b)
    for engine, y in cases.results(case, everywhere, w, b):
        assert_array_equal(y, expected, engine)


@pytest.mark.parametrize("op", ("conv2d", "conv_transpose2d"))
def test_weights_may_be_one_number_repeated(op):
    case = parse(f"{op} c4-9 i9x19 k3 p1")
    x, _, b = (a.astype(np.float32) for a in case.integers())
    w = np.broadcast_to(np.float32(3), case.w_shape)
    expected = cases.integer_conv(case, x.astype(np.int64), w.astype(np.int64), b)
    for engine, y in cases.results(case, x, w, b, threads=(1, 2)):
        assert_array_equal(y, expected, engine)


# Forms of padding and of batches --------------------------------------------------------------------

#: Form of `padding`, and what (before, after) it means for each axis: images of 7 x 10 pixels,
#: kernel 4 x 3, stride 2 x 1, dilation 1 x 2; "same" needs 3 and 4 rows and columns of zeros.
PADDINGS = [
    (0, ((0, 0), (0, 0))),
    (2, ((2, 2), (2, 2))),
    ((1, 3), ((1, 1), (3, 3))),
    ([3, 0], ((3, 3), (0, 0))),
    (((1, 2), (3, 0)), ((1, 2), (3, 0))),
    ([[0, 4], [2, 1]], ((0, 4), (2, 1))),
    ("valid", ((0, 0), (0, 0))),
    ("same", ((1, 2), (2, 2))),
    ("same_lower", ((2, 1), (2, 2))),
]


@pytest.mark.parametrize("layout", (None, "NCHW", "NHWC"))
@pytest.mark.parametrize(("padding", "meaning"), PADDINGS, ids=lambda p: str(p).replace(" ", ""))
def test_every_form_of_padding_means_its_zeros(padding, meaning, layout):
    (p0, q0), (p1, q1) = meaning
    case = parse(f"conv2d n2 c3-5 i7x10 k4x3 s2x1 d1x2 p{p0}x{p1} q{q0}x{q1}")
    x, w, b = case.integers()
    expected = cases.integer_conv(case, x, w, b)
    x, w, b = (a.astype(np.float32) for a in (x, w, b))
    if layout == "NHWC":
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
        expected = np.moveaxis(expected, 1, -1)
    options = case.options() | {"padding": padding, "layout": layout}
    for algorithm in ("direct", "im2col", None):
        assert_array_equal(fc.conv2d(x, w, b, **options, algorithm=algorithm), expected)


@pytest.mark.parametrize("op", sorted({case.op for case in cases.NASTY}))
@pytest.mark.parametrize("last", (False, True))
def test_batches_of_none_and_images_without_a_batch(op, last):
    case = parse(f"{op} n2 c4-6 g2 i7 k3 p1 {'last' if last else ''}")
    x, w, b = (a.astype(np.float32) for a in case.integers())
    y = case.run(x, w, b)
    options = case.options() | {"layout": "NHWC" if last else None}
    x, y = (np.moveaxis(a, 1, -1) if last else a for a in (x, y))
    function = getattr(fc, op)
    assert_array_equal(function(x[0], w, b, **options), y[0])
    for algorithm in (None, *fc._core.algorithms()[2:]):
        empty = function(x[:0], w, b, **options, algorithm=algorithm)
        assert empty.shape == y[:0].shape
        assert empty.dtype == y.dtype
