"""`residual=` of convolutions: what is added on the way has the bits of adding it afterwards.

The measure is three calls: the convolution, NumPy's sum, the activation alone.
"""

import numpy as np
import pytest

import cases
import fastconv as fc
from cases import DTYPES, FUSED, parse
from fastconv import reference
from helpers import assert_same_bits

CASES = cases.chosen(
    cases.NASTY,
    cases.generated(60, seed=11, most_work=50_000),
    [case for case in cases.BLOCKED if case.work < 500_000],
)
#: (activation, the function of it alone)
ACTIVATIONS = ((None, lambda y: y), ("relu", fc.relu), (("elu", 0.5), lambda y: fc.elu(y, 0.5)))


def epilogue(number: int):
    """(options, what they do to a convolution's result and the residual), some other each time."""
    activation, alone = ACTIVATIONS[number % 3]
    if number // 3 % 2:
        return {"activation": activation, "residual_after": True}, lambda y, r: alone(y) + r
    return {"activation": activation}, lambda y, r: alone(y + r)


def residual_of(case, dtype):
    r = cases.random_values(case.seed * 4 + 3, int(np.prod(case.y_shape)), dtype, -3, 3)
    return r.reshape(case.y_shape)


@pytest.mark.skipif(not FUSED, reason="this machine has no fused multiply-add")
@pytest.mark.parametrize("number, case", list(enumerate(CASES)), ids=str)
def test_all_engines_give_the_bits_of_three_calls(number, case):
    for dtype in DTYPES:
        arrays, r = case.reals(dtype), residual_of(case, dtype)
        options, after = epilogue(number)
        with fc.using(isa=FUSED[0]):
            want = after(case.run(*arrays), r)
        for engine, y in cases.results(case, *arrays, FUSED, threads=(1, 3), residual=r, **options):
            assert_same_bits(y, want, engine)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number, case", list(enumerate(CASES[::3])), ids=str)
def test_the_reference_means_the_same(number, case, dtype):
    arrays, r = case.reals(dtype), residual_of(case, dtype)
    if np.prod(case.kernel) > 200:
        pytest.skip("the reference loops over taps")
    options, _ = epilogue(number)
    want = case.reference(reference, *arrays, residual=r, **options)
    np.testing.assert_allclose(case.run(*arrays, residual=r, **options), want, 1e-4, 1e-4)
    if not case.last:
        some = np.arange(0, want.size, max(1, want.size // 5))
        at = case.reference(reference, *arrays, residual=r, positions=some, **options)
        np.testing.assert_allclose(at, want.ravel()[some], 1e-5, 1e-6)


LINES = (
    "conv2d c5-9 i9x23 k3 p1 n2", "conv2d c5-9 i9x24 k1 n2", "conv2d c40-33 i5x6 k3 p1 n2",
    "conv2d c4-8 g4 i7x19 k3 p1 n2", "conv1d c3-5 i70 k5 s2 p2 n2",
    "conv_transpose2d c4-6 g2 i5x9 k4 s2 p1 n2", "conv_transpose2d c4-4 g4 i5x19 k3 s2 p1 n2",
)  # fmt: skip
every_line = pytest.mark.parametrize("line", LINES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


@every_dtype
@every_line
def test_out_may_be_the_residual_or_overlap_it(line, dtype):
    case = parse(line)
    arrays, r = case.reals(dtype), residual_of(case, dtype)
    n = r.size
    for number in range(6):
        options, after = epilogue(number)
        want = after(case.run(*arrays), r)
        for shift in (0, 1, -3, n // 2, n):
            room = np.full(3 * n, 7, dtype)
            added, out = (room[at : at + n].reshape(r.shape) for at in (n, n + shift))
            for _ in range(2):
                added[...] = r
                assert case.run(*arrays, residual=added, out=out, **options) is out
                assert_same_bits(out, want, (line, number, shift))


@every_dtype
@every_line
def test_any_strides_order_and_place_of_residual_and_out(line, dtype):
    case = parse(line)
    arrays, r = case.reals(dtype), residual_of(case, dtype)
    options, after = epilogue(1)
    want = after(case.run(*arrays), r)

    def forms():
        yield r.copy()
        yield np.asfortranarray(r)
        yield np.moveaxis(np.ascontiguousarray(np.moveaxis(r, 1, -1)), -1, 1)
        channels = np.zeros((r.shape[0], r.shape[1] + 3, *r.shape[2:]), dtype)[:, 2:-1]
        for view in (channels, channels[..., ::-1], np.zeros((*r.shape, 2), dtype)[..., 1]):
            view[...] = r
            yield view

    for added in forms():
        for out in (None, *forms()):
            for _ in range(2):
                kept = added.copy()
                given = {} if out is None else {"out": out}
                y = case.run(*arrays, residual=added, **options, **given)
                assert_same_bits(y, want, line)
                assert out is None or y is out
                assert_same_bits(added, kept)
    swapped = r.astype(r.dtype.newbyteorder())
    crooked = np.zeros(r.nbytes + 1, np.uint8)[1:].view(dtype).reshape(r.shape)
    crooked[...] = r
    for odd in (swapped, crooked, [*r]):
        if isinstance(odd, list) and dtype == np.float32:
            odd = np.array(odd)
        assert_same_bits(case.run(*arrays, residual=odd, **options), want, line)
    one = np.broadcast_to(dtype(0.25), r.shape)
    want = after(case.run(*arrays), one)
    assert_same_bits(case.run(*arrays, residual=one, **options), want, line)


@every_dtype
def test_one_image_and_views_of_channels_last(dtype):
    case = parse("conv2d c5-9 i9x23 k3 p1")
    x, w, b = case.reals(dtype)
    r = residual_of(case, dtype)
    want = case.run(x, w, b) + r
    assert_same_bits(fc.conv2d(x[0], w, b, padding=1, residual=r[0]), want[0])
    seen = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    added = np.ascontiguousarray(r.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for image in (x, seen):
        for residual in (r, added):
            for _ in range(2):
                assert_same_bits(fc.conv2d(image, w, b, padding=1, residual=residual), want)


@every_dtype
@every_line
def test_nan_and_infinities_of_the_residual_stay_where_they_are(line, dtype):
    case = parse(line)
    arrays, r = case.reals(dtype), residual_of(case, dtype)
    r.ravel()[::5] = np.nan
    r.ravel()[1::5] = np.inf
    r.ravel()[2::5] = -np.inf
    for number in range(6):
        options, after = epilogue(number)
        with fc.using(isa=FUSED[0] if FUSED else None):
            want = after(case.run(*arrays), r)
        for engine, y in cases.results(case, *arrays, residual=r, **options):
            assert np.isnan(y).sum() == -(-y.size // 5), engine
            if "baseline" not in engine:
                assert_same_bits(y, want, engine)


@every_dtype
@pytest.mark.parametrize("line", [line for line in LINES if "transpose" in line])
def test_transposed_with_weights_that_are_not_finite(line, dtype):
    case = parse(line)
    x, w, b = case.reals(dtype)
    w[1, 0, 1, 1] = np.inf
    r = residual_of(case, dtype)
    options, after = epilogue(4)
    want = after(case.run(x, w, b), r)
    assert_same_bits(case.run(x, w, b, residual=r, **options), want)


def test_calls_are_known_again_by_their_residual():
    case = parse("conv2d c5-9 i9x23 k3 p1 n2")
    x, w, b = case.reals(np.float32)
    y, r = case.run(x, w, b), residual_of(case, np.float32)
    for added in (r, 2 * r, np.asfortranarray(r), r):
        for _ in range(3):
            assert_same_bits(fc.conv2d(x, w, b, padding=1), y)
            assert_same_bits(fc.conv2d(x, w, b, padding=1, residual=added), y + added)
            assert_same_bits(
                fc.conv2d(x, w, b, padding=1, activation="relu", residual=added),
                fc.relu(y + added),
            )
            assert_same_bits(
                fc.conv2d(
                    x, w, b, padding=1, activation="relu", residual=added, residual_after=True
                ),
                fc.relu(y) + added,
            )
            with pytest.raises(ValueError, match="residual_after"):
                fc.conv2d(x, w, b, padding=1, residual_after=True)
            with pytest.raises(TypeError, match="residual_after"):
                fc.conv2d(x, w, b, padding=1, residual=added, residual_after=0)


def test_an_empty_batch_and_no_channels():
    r = np.ones((2, 3, 4, 4), np.float32)
    x, w = np.ones((2, 0, 4, 4), np.float32), np.ones((3, 0, 1, 1), np.float32)
    assert_same_bits(fc.conv2d(x, w, residual=r), r)
    x, w = np.ones((0, 5, 4, 4), np.float32), np.ones((3, 5, 1, 1), np.float32)
    assert fc.conv2d(x, w, residual=r[:0]).shape == (0, 3, 4, 4)


def test_explain_says_when_it_is_added():
    case = parse("conv2d c5-9 i9x23 k3 p1")
    x, w, b = case.reals(np.float32)
    r = residual_of(case, np.float32)
    said = {
        (None, False): ", then + residual\n",
        ("relu", False): ", then + residual, relu\n",
        ("relu", True): ", then relu, + residual\n",
    }
    for (activation, after), words in said.items():
        options = {"padding": 1, "activation": activation}
        plan = fc.explain(fc.conv2d, x, w, b, residual=r, residual_after=after, **options)
        assert words in str(plan)
        assert plan.bytes == fc.explain(fc.conv2d, x, w, b, **options).bytes + r.nbytes
