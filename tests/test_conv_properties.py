"""What must hold between convolutions whoever computes them: no reference is asked.

Where both sides are the same chains of products, zeros aside, the bits are the same on random
reals; where sums are rearranged, small integers make both sides exact.
"""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import fastconv as fc
from cases import Case, parse, transposed_as_forward
from test_conv_bits import same_bits

LARGEST = {1: (40, 7), 2: (13, 4), 3: (6, 3)}  # image and kernel, by number of axes

check = settings(derandomize=True, deadline=None, max_examples=60, database=None)


@st.composite
def engines(draw):
    """What `using` takes, and a type."""
    options = {"isa": draw(st.sampled_from(fc.isas())), "threads": draw(st.integers(1, 4))}
    return options, draw(st.sampled_from((np.float32, np.float64)))


@st.composite
def convolutions(draw, transposed=None, symmetric=False):
    dims = draw(st.sampled_from((1, 2, 3)))
    image, kernel = LARGEST[dims]

    def axes(low, high):
        return tuple(draw(st.lists(st.integers(low, high), min_size=dims, max_size=dims)))

    if transposed is None:
        transposed = draw(st.booleans())
    groups = draw(st.sampled_from((1, 1, 2, 3, 5)))
    size, taps, stride, dilation = axes(1, image), axes(1, kernel), axes(1, 4), axes(1, 3)
    before = axes(0, kernel)
    after = before
    if transposed:
        axes_of = zip(before, stride, dilation, strict=True)
        after = tuple(p - draw(st.integers(0, max(s, d) - 1)) for p, s, d in axes_of)
    elif not symmetric:
        after = axes(0, kernel)
    case = Case(
        f"conv{'_transpose' * transposed}{dims}d", size, taps, stride, dilation, before, after,
        batch=draw(st.integers(1, 3)), ic=groups * draw(st.integers(1, 9)),
        oc=groups * draw(st.integers(1, 9)), groups=groups, bias=draw(st.booleans()),
        last=draw(st.booleans()),
    )  # fmt: skip
    assume(min(case.out_size) > 0)
    return case


def spatial(case: Case, slices) -> tuple:
    return (slice(None), slice(None), *slices)


@check
@given(convolutions(), engines())
def test_it_is_linear_in_the_input_and_in_the_weight(case, engine):
    options, dtype = engine
    (x1, w1, _), (x2, w2, _) = case.integers(dtype), case._replace(bias=False).integers(dtype)
    x2, w2 = np.flip(x2), np.flip(w2)
    with fc.using(**options):
        combined = case.run(2 * x1 - 3 * x2, w1, None)
        assert_array_equal(combined, 2 * case.run(x1, w1, None) - 3 * case.run(x2, w1, None))
        combined = case.run(x1, 2 * w1 - 3 * w2, None)
        assert_array_equal(combined, 2 * case.run(x1, w1, None) - 3 * case.run(x1, w2, None))


@check
@given(convolutions(transposed=False, symmetric=True), engines())
def test_the_transposed_convolution_is_the_adjoint(case, engine):
    """<conv(x, w), y> = <x, conv_transpose(y, w)>, with the output_padding that the stride ate."""
    options, dtype = engine
    x, w, _ = case.integers(dtype)
    y, _, _ = case._replace(ic=case.oc, size=case.out_size, groups=1).integers(dtype)
    rest = tuple(
        (n + 2 * p - d * (k - 1) - 1) % s
        for n, k, s, d, p in zip(
            case.size, case.kernel, case.stride, case.dilation, case.before, strict=True
        )
    )
    back = getattr(fc, case.op.replace("conv", "conv_transpose"))
    with fc.using(**options):
        there = case.run(x, w, None)
        again = back(y, w, None, case.stride, case.before, rest, case.groups, case.dilation)
    assert again.shape == x.shape
    assert np.vdot(there.astype(np.int64), y.astype(np.int64)) == np.vdot(
        x.astype(np.int64), again.astype(np.int64)
    )


@check
@given(convolutions(transposed=False), engines(), st.data())
def test_a_shifted_image_gives_a_shifted_result(case, engine, data):
    options, dtype = engine
    case = case._replace(before=(0,) * case.dims, after=(0,) * case.dims)
    assume(min(case.out_size) > 0)
    x, w, b = case.reals(dtype)
    steps = [data.draw(st.integers(0, n - 1)) for n in case.out_size]
    moved = (slice(t * s, None) for t, s in zip(steps, case.stride, strict=True))
    shifted = x[spatial(case, moved)]
    with fc.using(**options):
        expected = case.run(x, w, b)[spatial(case, (slice(t, None) for t in steps))]
        same_bits(case.run(shifted, w, b), expected, str(case))


@check
@given(convolutions(transposed=False), engines())
def test_a_stride_skips_outputs(case, engine):
    options, dtype = engine
    x, w, b = case.reals(dtype)
    with fc.using(**options):
        dense = case._replace(stride=(1,) * case.dims).run(x, w, b)
        sparse = case.run(x, w, b)
    kept = dense[spatial(case, (slice(None, None, s) for s in case.stride))]
    same_bits(sparse, kept, str(case))


@check
@given(convolutions(), engines())
def test_a_dilation_is_a_kernel_with_zeros_between_its_taps(case, engine):
    options, dtype = engine
    x, w, b = case.reals(dtype)
    reach = tuple(d * (k - 1) + 1 for k, d in zip(case.kernel, case.dilation, strict=True))
    spread = np.zeros((*w.shape[:2], *reach), dtype)
    spread[spatial(case, (slice(None, None, d) for d in case.dilation))] = w
    plain = case._replace(kernel=reach, dilation=(1,) * case.dims)
    # output_padding may exceed what a dilation of 1 admits: then there is nothing to compare with
    extra = (p - q for p, q in zip(case.before, case.after, strict=True))
    assume(not case.transposed or all(e < s for e, s in zip(extra, case.stride, strict=True)))
    with fc.using(**options):
        same_bits(case.run(x, w, b), plain.run(x, spread, b), str(case))


@check
@given(convolutions(transposed=False), engines())
def test_padding_is_zeros(case, engine):
    options, dtype = engine
    x, w, b = case.reals(dtype)
    padded = np.pad(x, [(0, 0), (0, 0), *zip(case.before, case.after, strict=True)])
    none = (0,) * case.dims
    with fc.using(**options):
        bare = case._replace(before=none, after=none).run(padded, w, b)
        same_bits(case.run(x, w, b), bare, str(case))


@check
@given(convolutions(transposed=True), engines())
def test_transposed_is_the_convolution_of_a_spread_image_with_the_flipped_kernel(case, engine):
    options, dtype = engine
    x, w, b = case.reals(dtype)
    spread = tuple((n - 1) * s + 1 for n, s in zip(case.size, case.stride, strict=True))
    image = np.zeros((*x.shape[:2], *spread), dtype)
    image[spatial(case, (slice(None, None, s) for s in case.stride))] = x
    stride, before, after = transposed_as_forward(case)
    assume(min(*before, *after) >= 0)
    flipped = w.reshape(case.groups, -1, *w.shape[1:]).swapaxes(1, 2)
    flipped = np.flip(flipped, tuple(range(3, flipped.ndim))).reshape(case.oc, -1, *case.kernel)
    forward = case._replace(
        op=case.op.replace("_transpose", ""), size=spread, stride=stride,
        before=tuple(before), after=tuple(after),
    )  # fmt: skip
    with fc.using(**options):
        same_bits(case.run(x, w, b), forward.run(image, flipped, b), str(case))


@check
@given(convolutions(), engines())
def test_groups_are_convolutions_side_by_side(case, engine):
    options, dtype = engine
    x, w, b = case.reals(dtype)
    one = case._replace(ic=case.ic // case.groups, oc=case.oc // case.groups, groups=1)
    parts = []
    with fc.using(**options):
        together = case.run(x, w, b)
        for g in range(case.groups):
            image = x[:, g * one.ic : (g + 1) * one.ic]
            rows = one.ic if case.transposed else one.oc
            bias = None if b is None else b[g * one.oc : (g + 1) * one.oc]
            parts.append(one.run(image, w[g * rows : (g + 1) * rows], bias))
    same_bits(together, np.concatenate(parts, axis=1), str(case))


@check
@given(convolutions(), engines())
def test_groups_are_one_convolution_with_zeros_off_the_diagonal(case, engine):
    options, dtype = engine
    x, w, b = case.reals(dtype)
    whole = case._replace(groups=1)
    diagonal = np.zeros(whole.w_shape, dtype)
    rows, columns = w.shape[0] // case.groups, w.shape[1]
    for g in range(case.groups):
        block = slice(g * rows, (g + 1) * rows)
        diagonal[block, g * columns : (g + 1) * columns] = w[block]
    with fc.using(**options):
        same_bits(case.run(x, w, b), whole.run(x, diagonal, b), str(case))


@check
@given(convolutions(), engines())
def test_missing_axes_are_axes_of_size_one(case, engine):
    options, dtype = engine
    x, w, b = case.reals(dtype)
    missing = 3 - case.dims
    first = {name: (1,) * missing + getattr(case, name) for name in ("size", "kernel", "stride")}
    first |= {"dilation": (1,) * missing + case.dilation}
    first |= {name: (0,) * missing + getattr(case, name) for name in ("before", "after")}
    solid = case._replace(op=case.op.replace(f"{case.dims}d", "3d"), **first)
    deep = [a.reshape(*a.shape[:2], *(1,) * missing, *a.shape[2:]) for a in (x, w)]
    with fc.using(**options):
        y = case.run(x, w, b)
        same_bits(solid.run(*deep, b).reshape(y.shape), y, str(case))


@check
@given(convolutions(), engines(), st.randoms(use_true_random=False))
def test_output_channels_may_change_places(case, engine, random):
    options, dtype = engine
    case = case._replace(groups=1)
    x, w, b = case.reals(dtype)
    order = random.sample(range(case.oc), case.oc)
    mixed = w[:, order] if case.transposed else w[order]
    with fc.using(**options):
        y = case.run(x, w, b)[:, order]
        same_bits(case.run(x, mixed, None if b is None else b[order]), y, str(case))


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize(
    "line",
    (
        "conv1d c5-5 i40 k5 p2 nobias",
        "conv2d c7-7 i9x21 k1 nobias",
        "conv2d c7-7 i9x21 k3x5 p1x2 nobias",
        "conv2d c7-7 g7 i9x21 k3 p2 d2 nobias",
        "conv3d c3-3 i4x5x6 k3 p1 nobias last",
        "conv_transpose2d c4-4 i9x21 k3 p1 nobias",
    ),
)
def test_a_kernel_of_one_in_the_middle_gives_the_image_back(line, dtype):
    case = parse(line)
    x, w, _ = case.reals(dtype)
    w[...] = 0
    for channel in range(len(w)):
        w[(channel, channel % w.shape[1], *(k // 2 for k in case.kernel))] = 1
    for isa in fc.isas():
        with fc.using(isa=isa):
            same_bits(case.run(x, w, None), x, f"{case} {isa}")


@check
@given(st.integers(1, 9), st.integers(1, 70), st.integers(1, 40), engines())
def test_linear_is_the_convolution_of_one_pixel(batch, ic, oc, engine):
    options, dtype = engine
    case = Case("conv1d", (1,), (1,), (1,), (1,), (0,), (0,), batch, ic, oc)
    x, w, b = case.reals(dtype)
    with fc.using(**options):
        same_bits(fc.linear(x[..., 0], w[..., 0], b), case.run(x, w, b)[..., 0], str(case))
