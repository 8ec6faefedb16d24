"""The reference against others' definitions: SciPy, PyTorch where it is installed, and by hand.

On small integers every product and sum is exact, so most comparisons are `==`. Where an op
rounds, the tolerance is a bound on its rounding errors, derived beside the test.
"""

import ast
import importlib.util
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from fastconv import reference

EPS = np.finfo(np.float64).eps
RANKS = (1, 2, 3)


def gamma(n):
    """The relative error that n roundings can add up to (Higham 2002, lemma 3.1)."""
    return n * EPS / 2 / (1 - n * EPS / 2)


def integers(*shape, seed=0, high=9):
    return np.random.default_rng(seed).integers(-high, high + 1, shape).astype(np.float64)


def reals(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def op(name, dims):
    return getattr(reference, f"{name}{dims}d")


def assert_within(actual, expected, bound):
    assert actual.shape == expected.shape
    bad = ~((abs(actual - expected) <= bound) | (np.isnan(actual) & np.isnan(expected)))
    assert not bad.any(), (actual[bad], expected[bad], np.broadcast_to(bound, bad.shape)[bad])


@pytest.fixture(scope="session")
def torch_op():
    """torch.nn.functional.<name> on NumPy arrays."""
    torch = pytest.importorskip("torch")
    functional = importlib.import_module("torch.nn.functional")
    torch.set_num_threads(1)

    def tensor(value):
        return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value

    def call(name, *arguments, **options):
        options = {key: tensor(value) for key, value in options.items()}
        result = getattr(functional, name)(*map(tensor, arguments), **options)
        return tuple(r.numpy() for r in result) if isinstance(result, tuple) else result.numpy()

    return call


# The module ---------------------------------------------------------------------------------------


def test_it_imports_numpy_alone_and_needs_no_compiled_core():
    path = Path(reference.__file__)
    imported = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert imported == {"__future__", "numpy", "numpy.typing"}
    spec = importlib.util.spec_from_file_location("reference_alone", path)
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    assert_array_equal(alone.relu([-1.0, 2.0]), [0, 2])


# Convolution --------------------------------------------------------------------------------------

CONV = [  # dims, input, weight, bias, options
    (1, (2, 3, 11), (4, 3, 3), True, {}),
    (1, (2, 3, 11), (4, 3, 4), False, {"stride": 3, "padding": 2, "dilation": 2}),
    (1, (6, 9), (4, 3, 2), True, {"groups": 2, "padding": 1}),
    (1, (0, 3, 7), (4, 3, 3), True, {}),
    (1, (1, 2, 5), (1, 2, 4), True, {"padding": "same"}),
    (2, (2, 3, 7, 6), (4, 3, 3, 3), True, {"padding": 1}),
    (2, (2, 4, 9, 8), (6, 2, 3, 2), True, {"stride": (2, 3), "padding": (1, 2), "groups": 2}),
    (2, (2, 4, 9, 8), (8, 1, 3, 3), False, {"dilation": (2, 1), "groups": 4}),
    (2, (3, 5, 5), (2, 3, 5, 5), True, {}),
    (2, (2, 3, 6, 7), (5, 3, 4, 3), True, {"padding": "same", "dilation": (1, 2)}),
    (2, (2, 3, 6, 7), (5, 3, 2, 3), True, {"padding": "valid"}),
    (2, (2, 3, 1, 1), (5, 3, 1, 1), True, {"padding": 3, "stride": 4}),
    (3, (1, 2, 5, 4, 6), (3, 2, 2, 3, 1), True, {"stride": (2, 1, 2), "padding": (1, 0, 2)}),
    (3, (2, 4, 4, 5), (4, 1, 2, 2, 3), True, {"groups": 2, "dilation": (1, 2, 1)}),
    (3, (1, 2, 4, 4, 4), (3, 2, 3, 2, 4), False, {"padding": "same"}),
]

CONV_TRANSPOSE = [
    (1, (2, 4, 5), (4, 3, 3), True, {}),
    (1, (2, 4, 5), (4, 3, 4), True, {"stride": 3, "padding": 2, "output_padding": 2}),
    (1, (4, 5), (4, 3, 2), False, {"dilation": 3, "groups": 2, "output_padding": 1}),
    (1, (0, 4, 5), (4, 3, 3), True, {}),
    (2, (2, 4, 3, 4), (4, 2, 3, 2), True, {"stride": (2, 3), "padding": (1, 0), "groups": 2}),
    (2, (4, 3, 4), (4, 1, 2, 2), True, {"stride": 2, "groups": 4}),
    (2, (1, 2, 1, 1), (2, 3, 4, 4), True, {"padding": 1, "dilation": 2}),
    (2, (2, 2, 3, 3), (2, 3, 1, 2), True, {"stride": 3, "output_padding": (1, 2)}),
    (3, (1, 2, 2, 3, 2), (2, 3, 2, 1, 3), True, {"stride": (1, 2, 2), "padding": (0, 0, 1)}),
    (3, (2, 2, 3, 2), (2, 2, 2, 2, 2), False, {"dilation": (1, 2, 1), "groups": 2}),
]

EVERY_CONV = [("conv", *case) for case in CONV] + [
    ("conv_transpose", *case) for case in CONV_TRANSPOSE
]


def conv_arrays(name, weight, groups, make):
    oc = weight[0] if name == "conv" else weight[1] * groups
    return make(*weight, seed=1), make(oc, seed=2)


@pytest.mark.parametrize("name, dims, size, weight, biased, options", EVERY_CONV, ids=str)
@pytest.mark.parametrize("make", [integers, reals])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_convolutions_agree_with_torch(torch_op, name, dims, size, weight, biased, options, make):
    x = make(*size)
    w, b = conv_arrays(name, weight, options.get("groups", 1), make)
    b = b if biased else None
    actual = op(name, dims)(x, w, b, **options)
    expected = torch_op(f"{name}{dims}d", x, w, b, **options)
    terms = int(np.prod(weight)) + 2
    magnitude = op(name, dims)(abs(x), abs(w), None if b is None else abs(b), **options)
    bound = 0 if make is integers else 2 * gamma(terms) * magnitude
    assert_within(actual, expected, bound)


@pytest.mark.parametrize("name, dims, size, weight, biased, options", EVERY_CONV, ids=str)
@pytest.mark.parametrize("layout", [None, "NHWC"])
def test_convolutions_at_positions_are_those_of_the_whole(
    name, dims, size, weight, biased, options, layout
):
    x = integers(*size)
    w, b = conv_arrays(name, weight, options.get("groups", 1), integers)
    if layout == "NHWC":
        x = np.moveaxis(x, -dims - 1, -1)
    options = options | {"layout": layout, "activation": ("leaky_relu", 0.25)}
    whole = op(name, dims)(x, w, b if biased else None, **options)
    flat = np.random.default_rng(0).permutation(whole.size)
    at = np.stack(np.unravel_index(flat, whole.shape), axis=1)
    for positions in (flat, flat.tolist(), at, at[:3]):
        values = op(name, dims)(x, w, b if biased else None, **options, positions=positions)
        assert_array_equal(values, whole.ravel()[flat[: len(positions)]])


@pytest.mark.parametrize("dims", RANKS)
def test_conv_is_scipys_correlate_summed_over_channels(dims):
    signal = pytest.importorskip("scipy.signal")
    x, w = integers(2, 3, *(7, 6, 5)[:dims]), integers(4, 3, *(3, 2, 4)[:dims], seed=1)
    for n, oc in itertools.product(range(2), range(4)):
        expected = sum(signal.correlate(x[n, ic], w[oc, ic], "valid", "direct") for ic in range(3))
        assert_array_equal(op("conv", dims)(x, w)[n, oc], expected)


@pytest.mark.parametrize("dims", RANKS)
def test_conv_transpose_is_scipys_full_convolution(dims):
    signal = pytest.importorskip("scipy.signal")
    x, w = integers(1, 1, *(5, 4, 3)[:dims]), integers(1, 1, *(3, 2, 4)[:dims], seed=1)
    expected = signal.convolve(x[0, 0], w[0, 0], "full", "direct")
    assert_array_equal(op("conv_transpose", dims)(x, w)[0, 0], expected)


@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (3, 2)])
def test_same_is_a_centred_filter_of_scipy(stride, dilation):
    ndimage = pytest.importorskip("scipy.ndimage")
    x, w = integers(1, 1, 13, 13), integers(1, 1, 3, 3, seed=1)
    spread = np.kron(w[0, 0], np.eye(dilation)[:1].T @ np.eye(dilation)[:1])
    spread = spread[: 2 * dilation + 1, : 2 * dilation + 1]
    expected = ndimage.correlate(x[0, 0], spread, mode="constant")
    # 13 = 3·4 + 1 = 2·6 + 1, so the first window is centred on the first pixel at these strides.
    actual = reference.conv2d(x, w, None, stride, "same", dilation)[0, 0]
    assert_array_equal(actual, expected[::stride, ::stride])


@pytest.mark.parametrize(
    "size, kernel, stride, dilation, less, more",
    [
        (5, 3, 1, 1, 1, 1),
        (5, 4, 1, 1, 1, 2),
        (5, 2, 1, 3, 1, 2),
        (6, 3, 2, 1, 0, 1),
        (5, 3, 2, 1, 1, 1),
        (7, 5, 3, 1, 2, 2),
        (7, 2, 3, 1, 0, 1),
        (9, 2, 3, 1, 0, 0),
        (8, 3, 3, 2, 1, 2),
        (4, 1, 4, 1, 0, 0),
    ],
)
def test_same_puts_the_odd_zero_after_and_same_lower_before(
    size, kernel, stride, dilation, less, more
):
    x, w = integers(1, 2, size), integers(3, 2, kernel, seed=1)
    for padding, pads in (("same", (less, more)), ("same_lower", (more, less))):
        padded = np.pad(x, [(0, 0), (0, 0), pads])
        expected = reference.conv1d(padded, w, None, stride, 0, dilation)
        assert expected.shape[-1] == math.ceil(size / stride)
        assert_array_equal(reference.conv1d(x, w, None, stride, padding, dilation), expected)
        assert_array_equal(reference.conv1d(x, w, None, stride, (pads,), dilation), expected)


def test_padding_may_differ_on_every_side():
    x, w = integers(2, 2, 5, 6), integers(3, 2, 3, 2, seed=1)
    padded = np.pad(x, [(0, 0), (0, 0), (2, 0), (1, 3)])
    actual = reference.conv2d(x, w, padding=((2, 0), (1, 3)))
    assert_array_equal(actual, reference.conv2d(padded, w))


def test_padding_is_zeros_that_meet_the_weights():
    w = [[[np.inf, 1.0, 1.0]]]
    assert_array_equal(reference.conv1d([[[1.0, 2.0]]], w, padding=1), [[[np.nan, np.inf]]])


def test_a_transposed_convolution_adds_contributing_inputs_only():
    y = reference.conv_transpose1d([[[1.0, 2.0]]], [[[1.0, np.inf, 1.0]]], stride=2)
    assert_array_equal(y, [[[1, np.inf, 3, np.inf, 2]]])


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": (1, 2), "dilation": (2, 1)}])
def test_the_textbooks_im2col_is_the_same_convolution(options):
    x, w, b = integers(2, 3, 8, 7), integers(4, 3, 3, 2, seed=1), integers(4, seed=2)
    expected = reference.conv2d(x, w, b, **options)
    assert_array_equal(reference.conv2d_im2col(x, w, b, **options), expected)


def test_channels_last_is_a_transposed_view_of_channels_first():
    x, w, wt = (integers(2, 4, 5, 6), integers(6, 2, 3, 3, seed=1), integers(4, 3, 3, 3, seed=2))
    last = x.transpose(0, 2, 3, 1)
    for name, *rest in (
        ("conv2d", w, None, 1, "same", 1, 2),
        ("conv_transpose2d", wt, None, 2, 1, 1, 2),
        ("max_pool2d", 2),
        ("avg_pool2d", 3, 2, 1),
        ("lp_pool2d", 2, 2),
        ("adaptive_avg_pool2d", 3),
        ("adaptive_max_pool2d", (2, None)),
        ("global_avg_pool",),
        ("global_max_pool",),
    ):
        expected = getattr(reference, name)(x, *rest).transpose(0, 2, 3, 1)
        actual = getattr(reference, name)(last, *rest, layout="NHWC")
        assert_array_equal(actual, expected, err_msg=name)


def test_result_types_follow_the_floats():
    x, w = integers(1, 2, 5), integers(3, 2, 3, seed=1)
    single, half = np.float32, np.float16
    for first, second, result in (
        (single, single, single),
        (single, np.float64, np.float64),
        (single, np.int64, single),
        (np.dtype(">f4"), ">f4", single),
    ):
        y = reference.conv1d(x.astype(first), w.astype(second))
        assert y.dtype == result and y.dtype.isnative
    assert reference.conv1d(x.astype(single), w.tolist(), [1.0, 2.0, 3.0]).dtype == single
    for given, mean in ((single, single), (half, half), (np.uint8, np.float64)):
        positive = abs(x).astype(given)
        assert reference.avg_pool1d(positive, 2).dtype == mean
        assert reference.max_pool1d(positive, 2).dtype == given
        assert reference.pad(positive, (1, 1)).dtype == given


def test_sums_are_double_and_may_be_longer():
    x = np.array([[[2.0**60, 1.0, -(2.0**60)]]])
    w = np.ones((1, 1, 3))
    tiny = np.array([[[2.0**30, 1.0, -(2.0**30)]]], np.float32)
    assert reference.conv1d(tiny, w.astype(np.float32)).item() == 1
    if np.finfo(np.longdouble).nmant > 60:
        assert reference.conv1d(x, w, sum_dtype=np.longdouble).item() == 1
        assert reference.avg_pool1d(x, 3, sum_dtype=np.longdouble).item() == 1 / 3


def test_linear_agrees_with_torch(torch_op):
    for shape in ((5,), (2, 5), (2, 3, 5), (0, 5)):
        x, w, b = integers(*shape), integers(4, 5, seed=1), integers(4, seed=2)
        assert_array_equal(reference.linear(x, w, b), torch_op("linear", x, w, b))


def test_weights_of_keras_convert():
    w = integers(3, 2, 4, 5)
    for kh, kw, i, o in np.ndindex(w.shape):
        assert reference.from_hwio(w)[o, i, kh, kw] == w[kh, kw, i, o]
        assert reference.from_keras_depthwise(w)[i * 5 + o, 0, kh, kw] == w[kh, kw, i, o]
    assert reference.from_keras_depthwise(w).shape == (20, 1, 3, 2)


# Pooling ------------------------------------------------------------------------------------------

POOL = [  # dims, input, kernel, options
    (1, (2, 3, 11), 3, {}),
    (1, (3, 10), 4, {"stride": 3, "padding": 2}),
    (1, (0, 3, 10), 2, {"ceil_mode": True}),
    (1, (1, 1, 4), 1, {"stride": 3, "ceil_mode": True}),
    (2, (2, 3, 7, 6), 2, {}),
    (2, (1, 2, 32, 32), 2, {"stride": 2, "padding": 1}),
    (2, (2, 3, 7, 6), 3, {"stride": 2, "padding": 1, "ceil_mode": True}),
    (2, (2, 3, 4, 4), 3, {"stride": 2, "padding": 1, "ceil_mode": True}),
    (2, (3, 8, 9), (3, 2), {"stride": (1, 3), "padding": (1, 0), "ceil_mode": True}),
    (2, (1, 1, 2, 2), 1, {"stride": 3, "ceil_mode": True}),
    (3, (2, 2, 5, 4, 6), 2, {"stride": 1}),
    (3, (2, 5, 6, 7), (2, 3, 3), {"stride": (2, 2, 3), "padding": 1, "ceil_mode": True}),
]

DILATED = [
    (1, (2, 3, 13), 3, {"dilation": 2, "stride": 1, "padding": 1}),
    (2, (2, 3, 9, 8), (3, 2), {"dilation": (2, 3), "padding": 1, "ceil_mode": True}),
    (3, (2, 5, 6, 7), 2, {"dilation": (1, 2, 3), "stride": 2, "ceil_mode": True}),
]


@pytest.mark.parametrize("dims, size, kernel, options", POOL + DILATED, ids=str)
@pytest.mark.parametrize("special", [None, np.nan, -np.inf, np.inf])
def test_max_pools_and_their_indices_agree_with_torch(
    torch_op, dims, size, kernel, options, special
):
    x = integers(*size, high=2)
    if special is not None:
        x[np.random.default_rng(3).random(size) < 0.6] = special
    actual = op("max_pool", dims)(x, kernel, **options, return_indices=True)
    expected = torch_op(f"max_pool{dims}d", x, kernel, **options, return_indices=True)
    assert_array_equal(actual[0], expected[0])
    assert_array_equal(actual[1], expected[1])
    assert actual[1].dtype == np.int64


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int16, np.int64, np.float16])
def test_max_pool_of_any_type_never_takes_the_padding(dtype):
    lowest = False if dtype == np.bool_ else -1 if np.dtype(dtype).kind in "if" else 0
    x = np.full((1, 1, 3, 3), lowest, dtype)
    y, index = reference.max_pool2d(x, 3, 2, 1, return_indices=True)
    assert y.dtype == dtype and (y == dtype(lowest)).all()
    assert_array_equal(index, [[[[0, 1], [3, 4]]]])


@pytest.mark.parametrize("dims, size, kernel, options", POOL, ids=str)
@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("divisor", [None, 7])
def test_average_pools_agree_with_torch(
    torch_op, dims, size, kernel, options, count_include_pad, divisor
):
    x = integers(*size)
    options = options | {"count_include_pad": count_include_pad}
    if dims > 1:
        options["divisor_override"] = divisor
    actual = op("avg_pool", dims)(x, kernel, **options)
    assert_array_equal(actual, torch_op(f"avg_pool{dims}d", x, kernel, **options))


def test_the_part_beyond_the_padding_is_not_counted():
    """The example of pytorch issue 183528."""
    x = np.arange(1.0, 17.0).reshape(1, 1, 4, 4)
    expected = [[14 / 9, 30 / 9, 12 / 6], [57 / 9, 99 / 9, 36 / 6], [27 / 6, 45 / 6, 16 / 4]]
    assert_array_equal(reference.avg_pool2d(x, 3, 2, 1, ceil_mode=True)[0, 0], expected)


def test_pools_at_stride_1_are_scipys_filters():
    ndimage = pytest.importorskip("scipy.ndimage")
    x = integers(1, 1, 8, 9)
    largest = ndimage.maximum_filter(x[0, 0], (3, 5), mode="constant", cval=-np.inf)
    assert_array_equal(reference.max_pool2d(x, (3, 5), 1, (1, 2))[0, 0], largest)
    sums = ndimage.correlate(x[0, 0], np.ones((3, 5)), mode="constant")
    assert_array_equal(reference.avg_pool2d(x, (3, 5), 1, (1, 2))[0, 0], sums / 15)


@pytest.mark.parametrize("dims, size, kernel, options", POOL, ids=str)
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_lp_pools_agree_with_torch(torch_op, dims, size, kernel, options, p):
    x = reals(*size)
    options = {key: value for key, value in options.items() if key != "padding"}
    actual = op("lp_pool", dims)(x, p, kernel, **options)
    expected = torch_op(f"lp_pool{dims}d", x, p, kernel, **options)
    # The sum of powers is off by γ times the sum of their magnitudes; the root divides that by p.
    largest = op("lp_pool", dims)(abs(x), p, kernel, **options)
    taps = int(np.prod(np.broadcast_to(kernel, dims)))
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = 2 * gamma(taps + 8) * abs(expected) * (largest / abs(expected)) ** p
    assert_within(actual, expected, bound)


@pytest.mark.parametrize("dims", RANKS)
@pytest.mark.parametrize("output", [1, 2, 5, 7, (3, 8, 2)])
@pytest.mark.parametrize("batched", [True, False])
def test_adaptive_pools_agree_with_torch(torch_op, dims, output, batched):
    x = integers(*(2, 3, 5, 7, 6)[: dims + 2])
    x = x if batched else x[0]
    output = output[:dims] if isinstance(output, tuple) else output
    expected = torch_op(f"adaptive_max_pool{dims}d", x, output, return_indices=True)
    actual = op("adaptive_max_pool", dims)(x, output, return_indices=True)
    assert_array_equal(actual[0], expected[0])
    assert_array_equal(actual[1], expected[1])
    # The sums are exact; PyTorch divides once a dimension, each time with one rounding.
    expected = torch_op(f"adaptive_avg_pool{dims}d", x, output)
    bound = gamma(dims + 1) * abs(expected)
    assert_within(op("adaptive_avg_pool", dims)(x, output), expected, bound)


def test_adaptive_pools_keep_the_size_of_none(torch_op):
    x = integers(2, 3, 5, 7)
    assert_array_equal(
        reference.adaptive_avg_pool2d(x, (None, 1)), torch_op("adaptive_avg_pool2d", x, (None, 1))
    )


def test_global_pools_take_any_number_of_axes():
    for size in ((5,), (4, 3), (2, 3, 4)):
        x = integers(2, 3, *size)
        axes = tuple(range(2, x.ndim))
        assert_array_equal(reference.global_avg_pool(x), x.sum(axes, keepdims=True) / x[0, 0].size)
        assert_array_equal(reference.global_max_pool(x), x.max(axes, keepdims=True))


@pytest.mark.parametrize("dims", RANKS)
def test_max_unpool_agrees_with_torch(torch_op, dims):
    x = integers(*(2, 3, 7, 6, 8)[: dims + 2])
    for kernel, stride, padding in ((2, None, 0), (2, 3, 1)):
        y, index = op("max_pool", dims)(x, kernel, stride, padding, return_indices=True)
        for size in (x.shape[2:], x.shape):
            expected = torch_op(f"max_unpool{dims}d", y, index, kernel, stride, padding, size)
            actual = op("max_unpool", dims)(y, index, kernel, stride, padding, size)
            assert_array_equal(actual, expected)
    y, index = op("max_pool", dims)(x, 2, return_indices=True)
    small = np.minimum(index, 1)
    for batch in (slice(None), 0):
        expected = torch_op(f"max_unpool{dims}d", y[batch, :, ...], index[batch, :, ...] % 3, 2)
        assert expected.shape == op("max_unpool", dims)(y[batch], small[batch], 2).shape


def test_of_repeated_indices_the_last_one_stays():
    y = reference.max_unpool1d([[[5.0, 3.0, 4.0]]], [[[1, 1, 4]]], 2)
    assert_array_equal(y, [[[0, 3, 0, 0, 4, 0]]])


# Moving pixels ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pads", [(1, 2), (0, 3), (2, 1, 3, 0), (-1, 2, 1, -2), (1, 0, 2, 2, 1, 3)], ids=str
)
@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_pad_agrees_with_torch(torch_op, pads, mode):
    x = integers(*(2, 3, 5, 4, 6)[: 2 + len(pads) // 2])
    assert_array_equal(reference.pad(x, pads, mode), torch_op("pad", x, pads, mode))


def test_pad_constant_fills_any_axis_with_any_value(torch_op):
    x = integers(2, 3)
    for pads in ((1, 2, 3, 4), (-2, 1), (0, 0, -1, -1)):
        expected = torch_op("pad", x, pads, "constant", 7.5)
        assert_array_equal(reference.pad(x, pads, value=7.5), expected)
    assert reference.pad(np.ones((1, 3, 32, 32)), (1, 1, 1, 1)).shape == (1, 3, 34, 34)


@pytest.mark.parametrize(
    "mode, scipys", [("reflect", "mirror"), ("replicate", "nearest"), ("circular", "grid-wrap")]
)
def test_pad_modes_are_the_edges_of_scipys_filters(mode, scipys):
    ndimage = pytest.importorskip("scipy.ndimage")
    x, w = integers(1, 1, 6, 5), integers(1, 1, 5, 3, seed=1)
    y = reference.conv2d(reference.pad(x, (1, 1, 2, 2), mode), w)
    assert_array_equal(y[0, 0], ndimage.correlate(x[0, 0], w[0, 0], mode=scipys))


SMOOTH = {"linear": 1, "bilinear": 2, "trilinear": 3, "bicubic": 2}
RESIZE = [
    {"size": 1},
    {"size": 5},
    {"size": 13},
    {"scale_factor": 2},
    {"scale_factor": 0.6},
    {"scale_factor": 2.3},
    {"scale_factor": 2.3, "recompute_scale_factor": True},
]


@pytest.mark.parametrize("mode", SMOOTH)
@pytest.mark.parametrize("options", RESIZE, ids=str)
@pytest.mark.parametrize("align_corners", [None, False, True])
def test_interpolation_agrees_with_torch(torch_op, mode, options, align_corners):
    dims = SMOOTH[mode]
    x = reals(*(2, 3, 5, 7, 6)[: dims + 2])
    options = options | {"mode": mode, "align_corners": align_corners}
    # A coordinate below 32 is off by at most 4·32·ε, a weight (slope below 2) by twice that, and
    # there are at most 4 weights an axis, on both sides.
    bound = 2 * dims * 4 * 2 * 4 * 32 * EPS * abs(x).max()
    assert_within(reference.interpolate(x, **options), torch_op("interpolate", x, **options), bound)


@pytest.mark.parametrize("dims", RANKS)
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("options", RESIZE, ids=str)
def test_nearest_agrees_with_torch(torch_op, dims, mode, options):
    x = integers(*(2, 3, 5, 7, 6)[: dims + 2])
    options = options | {"mode": mode}
    expected = torch_op("interpolate", x, **options)
    assert_array_equal(reference.interpolate(x, **options), expected)
    bytes_ = reference.interpolate(x.astype(np.int8), **options)
    assert bytes_.dtype == np.int8
    assert_array_equal(bytes_, expected)


@pytest.mark.parametrize("options", RESIZE[:3], ids=str)
def test_area_is_the_adaptive_average(torch_op, options):
    x = reals(2, 3, 5, 7)
    # At most 7·7 terms and two divisions on either side.
    bound = 2 * gamma(7 * 7 + 2) * reference.interpolate(abs(x), **options, mode="area")
    actual = reference.interpolate(x, **options, mode="area")
    assert_within(actual, torch_op("interpolate", x, **options, mode="area"), bound)


def test_shuffles_agree_with_torch(torch_op):
    x = integers(2, 12, 4, 6)
    for name, factor in (("pixel_shuffle", 2), ("pixel_unshuffle", 2), ("channel_shuffle", 3)):
        assert_array_equal(getattr(reference, name)(x, factor), torch_op(name, x, factor))
    assert_array_equal(reference.pixel_shuffle(x[0], 2), torch_op("pixel_shuffle", x[0], 2))


@pytest.mark.parametrize(
    "options", [{}, {"dilation": 2, "padding": (1, 2), "stride": (3, 1)}, {"stride": 2}], ids=str
)
def test_unfold_and_fold_agree_with_torch(torch_op, options):
    x = integers(2, 3, 8, 7)
    for image in (x, x[0]):
        columns = reference.unfold(image, (3, 2), **options)
        assert_array_equal(columns, torch_op("unfold", image, (3, 2), **options))
        folded = reference.fold(columns, (8, 7), (3, 2), **options)
        assert_array_equal(folded, torch_op("fold", columns, (8, 7), (3, 2), **options))
        counts = reference.fold(columns.astype(np.int16), (8, 7), (3, 2), **options)
        assert counts.dtype == np.int16
        assert_array_equal(counts, folded)


# Normalisation ------------------------------------------------------------------------------------


def normalising_bound(x, axes, weight, bias, eps=1e-5):
    """Of (x - mean) / √(var + ε) · w + b computed twice from n numbers. All is measured by
    m = |x| + mean |x|: the mean is off by γm, the variance by γ·mean(m²)."""
    m = abs(x) + abs(x).mean(axes, keepdims=True)
    n = x.size // x.mean(axes, keepdims=True).size
    var = x.var(axes, keepdims=True) + eps
    scale = m / np.sqrt(var) * (2 + (m**2).mean(axes, keepdims=True) / var)
    return 2 * gamma(n + 8) * (scale * abs(weight) + abs(bias))


@pytest.mark.parametrize("shape", [(4, 6), (3, 6, 5), (2, 6, 4, 3), (2, 6, 2, 3, 2)], ids=str)
@pytest.mark.parametrize("affine", [True, False])
def test_normalisations_agree_with_torch(torch_op, shape, affine):
    x, w, b = reals(*shape), reals(6, seed=1), reals(6, seed=2)
    column = (-1, *[1] * (x.ndim - 2))
    wide = (w.reshape(column), b.reshape(column)) if affine else (np.ones(()), np.zeros(()))
    named = {"weight": w, "bias": b} if affine else {}

    bound = normalising_bound(x, (0, *range(2, x.ndim)), *wide)
    options = named | {"training": True}
    expected = torch_op("batch_norm", x, None, None, **options)
    assert_within(reference.batch_norm(x, None, None, **options), expected, bound)

    mean, var = reals(6, seed=3), abs(reals(6, seed=4))
    expected = torch_op("batch_norm", x, mean, var, **named)
    size = abs(x) + abs(mean.reshape(column))
    scale = size / np.sqrt(var + 1e-5).reshape(column)
    bound = 2 * gamma(8) * (scale * abs(wide[0]) + abs(wide[1]))
    assert_within(reference.batch_norm(x, mean, var, **named), expected, bound)

    if x.ndim > 2:
        bound = normalising_bound(x, tuple(range(2, x.ndim)), *wide)
        expected = torch_op("instance_norm", x, **named)
        assert_within(reference.instance_norm(x, **named), expected, bound)

    grouped = x.reshape(len(x), 3, -1)
    last = [a.reshape(-1, *column[1:]) * np.ones(shape[1:]) for a in wide]
    last = [np.broadcast_to(a, shape[1:]).reshape(1, 3, -1) for a in last]
    bound = normalising_bound(grouped, (2,), *last).reshape(shape)
    expected = torch_op("group_norm", x, 3, **named)
    assert_within(reference.group_norm(x, 3, **named), expected, bound)


@pytest.mark.parametrize("normalized", [(3,), (4, 3), (6, 4, 3)], ids=str)
def test_layer_norm_agrees_with_torch(torch_op, normalized):
    x, w, b = reals(2, 6, 4, 3), reals(*normalized, seed=1), reals(*normalized, seed=2)
    bound = normalising_bound(x, tuple(range(-len(normalized), 0)), w, b)
    expected = torch_op("layer_norm", x, normalized, w, b)
    assert_within(reference.layer_norm(x, normalized, w, b), expected, bound)


@pytest.mark.parametrize("name", ["batch_norm", "instance_norm"])
def test_running_statistics_move_as_those_of_torch(name):
    torch = pytest.importorskip("torch")
    x, mean, var = reals(3, 4, 5), reals(4, seed=1), abs(reals(4, seed=2))
    theirs = [torch.from_numpy(a.copy()) for a in (mean, var)]
    getattr(torch.nn.functional, name)(torch.from_numpy(x), *theirs, None, None, True, 0.3)
    getattr(reference, name)(x, mean, var, None, None, True, 0.3)
    # 15 terms at most; the magnitudes are those of x, of x² and of what was there.
    bound = 2 * gamma(15 + 8) * (1 + (4 * x**2).max() + abs(theirs[0].numpy()))
    assert_within(mean, theirs[0].numpy(), bound)
    assert_within(var, theirs[1].numpy(), bound + 2 * gamma(8) * theirs[1].numpy())


@pytest.mark.parametrize("size", [1, 2, 5])
def test_local_response_norm_agrees_with_torch(torch_op, size):
    x = reals(2, 7, 4, 3)
    options = {"alpha": 0.5, "beta": 0.75, "k": 2.0}
    expected = torch_op("local_response_norm", x, size, **options)
    # Squares are positive, so nothing cancels: size + 8 roundings, on both sides.
    bound = 2 * gamma(size + 8) * abs(expected)
    assert_within(reference.local_response_norm(x, size, **options), expected, bound)


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4), (2, 3, 4, 5)], ids=str)
@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
def test_softmax_agrees_with_torch(torch_op, shape):
    x = 10 * reals(*shape)
    for dim in (None, *range(len(shape))):
        # x - max is off by ε·(|x| + max), the sum by as many roundings as it has terms.
        roundings = max(shape) + 8 + 4 * abs(x).max()
        expected = torch_op("softmax", x, dim)
        bound = 2 * gamma(roundings) * abs(expected)
        assert_within(reference.softmax(x, dim), expected, bound)
        expected = torch_op("log_softmax", x, dim)
        assert_within(reference.log_softmax(x, dim), expected, 2 * gamma(roundings))


def test_dropout_keeps_scales_or_passes():
    x, keep = reals(4, 5), reals(4, 5, seed=1) > 0
    assert_array_equal(reference.dropout(x, 0.25, keep=keep), np.where(keep, x / 0.75, 0))
    assert_array_equal(reference.dropout(x, 0.25, training=False), x)
    assert_array_equal(reference.dropout(x, 1.0), np.zeros_like(x))
    y = reference.dropout(np.ones(10_000), 0.25)
    assert set(y) == {0, 1 / 0.75}
    # 7500 kept on average, with a standard deviation of 43: eight of them.
    assert abs((y > 0).sum() - 7500) < 8 * 43.3
    z = x.copy()
    assert reference.dropout(z, 1.0, inplace=True) is z and not z.any()


# Activations --------------------------------------------------------------------------------------

ACTIVATIONS = [
    ("relu", ()),
    ("relu6", ()),
    ("leaky_relu", ()),
    ("leaky_relu", (0.3,)),
    ("elu", ()),
    ("elu", (0.7,)),
    ("silu", ()),
    ("gelu", ()),
    ("sigmoid", ()),
    ("tanh", ()),
    ("hardsigmoid", ()),
    ("hardswish", ()),
    ("softplus", ()),
    ("softplus", (2.0, 3.0)),
]
EVERYWHERE = np.concatenate([np.linspace(-40, 40, 999), np.geomspace(1e-300, 1, 99), [0.0]])


@pytest.mark.parametrize("name, parameters", ACTIVATIONS, ids=str)
def test_activations_agree_with_torch(torch_op, name, parameters):
    # At most 16 roundings of numbers no larger than |x| + 1.
    bound = gamma(16) * (abs(EVERYWHERE) + 1)
    expected = torch_op(name, EVERYWHERE, *parameters)
    assert_within(getattr(reference, name)(EVERYWHERE, *parameters), expected, bound)
    special = np.array([np.nan, np.inf, -np.inf, 800.0, -800.0])
    expected = torch_op(name, special, *parameters)
    assert_array_equal(getattr(reference, name)(special, *parameters), expected)


def test_gelu_with_tanh_agrees_with_torch(torch_op):
    bound = gamma(16) * (abs(EVERYWHERE) + 1)
    expected = torch_op("gelu", EVERYWHERE, approximate="tanh")
    assert_within(reference.gelu(EVERYWHERE, "tanh"), expected, bound)


def test_prelu_agrees_with_torch(torch_op):
    for shape in ((4, 3), (2, 3, 5), (2, 3, 4, 5)):
        for slopes in (reals(3, seed=1), reals(1, seed=1)):
            x = reals(*shape)
            assert_array_equal(reference.prelu(x, slopes), torch_op("prelu", x, slopes))


@pytest.mark.parametrize("sum_dtype", [np.float64, np.longdouble])
def test_gelu_is_right_far_out_in_the_tail(sum_dtype):
    x = np.linspace(-36, 36, 1001)
    expected = np.array([v * math.erfc(-v / math.sqrt(2)) / 2 for v in x])
    # Rounding the argument z of erfc changes the tail by about 2z²·ε = x²·ε.
    bound = gamma(16) * (1 + x**2) * abs(expected)
    assert_within(reference.gelu(x, sum_dtype=sum_dtype), expected, bound)


@pytest.mark.parametrize("name, parameters", ACTIVATIONS, ids=str)
def test_an_activation_follows_the_bias(name, parameters):
    x, w, b = integers(2, 3, 6), integers(4, 3, 3, seed=1), integers(4, seed=2)
    for conv, weight in ((reference.conv1d, w), (reference.conv_transpose1d, w.swapaxes(0, 1))):
        expected = getattr(reference, name)(conv(x, weight, b), *parameters)
        assert_array_equal(conv(x, weight, b, activation=(name, *parameters)), expected)
    assert_array_equal(
        reference.linear(x, integers(4, 6), b, activation=(name, *parameters)),
        getattr(reference, name)(reference.linear(x, integers(4, 6), b), *parameters),
    )


def test_the_fused_name_of_gelu_with_tanh():
    x, w = integers(2, 6, high=2), integers(4, 6, seed=1, high=1)
    expected = reference.gelu(reference.linear(x, w), "tanh")
    assert_array_equal(reference.linear(x, w, activation="gelu_tanh"), expected)


@pytest.mark.parametrize(
    "name", ["relu", "relu6", "leaky_relu", "elu", "silu", "hardsigmoid", "hardswish"]
)
def test_an_activation_in_place_writes_to_its_input(name):
    x = reals(5)
    expected = getattr(reference, name)(x)
    assert getattr(reference, name)(x, inplace=True) is x
    assert_array_equal(x, expected)
