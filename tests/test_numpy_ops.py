"""The functions that are plain NumPy, against the reference, and against PyTorch where installed.

Functions that move values, compare, or add integers are compared for equality. The others compute
in float64 and round to float32 once, so that float32 inputs give the same float32 as a float64
computation in another order does, or its neighbour: at most one unit in the last place.
"""

import math

import numpy as np
import pytest

import fastconv as fc
from fastconv import reference

try:
    import torch
    import torch.nn.functional as torch_functional
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")
RNG = np.random.default_rng(11)
ANY_TYPE = (
    np.bool_,
    np.int8,
    np.uint8,
    np.int64,
    np.float16,
    np.float32,
    np.float64,
    np.longdouble,
)
ORACLES = [reference] if torch is None else [reference, "torch"]


def reals(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def counted(*shape, dtype=np.float32):
    """Every element its own value, so that one that is moved wrongly shows."""
    return np.arange(math.prod(shape)).reshape(shape).astype(dtype)


def oracle(module, op, arguments, options, wide=False):
    """The same call of the reference, or of PyTorch, in float64 where `wide`."""
    if module != "torch":
        return getattr(module, op)(*arguments, **options)

    def tensor(a):
        if not isinstance(a, np.ndarray):
            return a
        return torch.from_numpy(a.astype(np.float64) if wide and a.dtype.kind == "f" else a.copy())

    found = getattr(torch_functional, op)(
        *map(tensor, arguments), **{n: tensor(v) for n, v in options.items()}
    )
    return found.numpy()


X = counted(2, 4, 6, 9)
WAVES = reals(2, 6, 5, 7)
C6 = [reals(6, dtype=np.float64) for _ in range(4)]

# Functions that move values: op, arguments, options.
MOVES = [
    ("pad", (X, (1, 2)), {}),
    ("pad", (X, (1, 2, 3, 0)), {"value": 5}),
    ("pad", (X, (-1, 2, 3, -2, 1, 1)), {}),
    ("pad", (X, (0, 0, -3, -3)), {}),
    ("pad", (X, (8, 0, 3, 5)), {"mode": "reflect"}),
    ("pad", (X, (20, 3, 0, 1)), {"mode": "replicate"}),
    ("pad", (X, (9, 9, 6, 2)), {"mode": "circular"}),
    ("pad", (X[0, 0], (1, 3)), {"mode": "reflect"}),
    ("pad", (X, (8, -7, -2, 5)), {"mode": "reflect"}),
    ("pad", (X, (12, -10, -6, 0)), {"mode": "replicate"}),
    ("pad", (X, (-3, 6, 2, -4)), {"mode": "circular"}),
    ("pad", (X[0], (1, 3, 2, 2)), {"mode": "replicate"}),
    ("pad", (X[None], (1, 3, 2, 2, 1, 0)), {"mode": "circular"}),
    ("pixel_shuffle", (X, 2), {}),
    ("pixel_shuffle", (counted(1, 18, 1, 2), 3), {}),
    ("pixel_unshuffle", (X, 3), {}),
    ("pixel_unshuffle", (X[0, :, :, :8], 2), {}),
    ("unfold", (X, 1), {}),
    ("unfold", (X, (2, 3)), {}),
    ("unfold", (X, (3, 2), (2, 3), (1, 2), (2, 1)), {}),
    ("unfold", (X[0], 5), {"padding": 4, "stride": 3}),
    ("fold", (counted(2, 12, 35), (6, 8), 2), {}),
    ("fold", (counted(2, 12, 9), (6, 8), (2, 3)), {"stride": 2}),
    ("interpolate", (X, 7), {}),
    ("interpolate", (X, (13, 4)), {}),
    ("interpolate", (X, (13, 4)), {"mode": "nearest-exact"}),
    ("interpolate", (X[0], 31), {"mode": "nearest-exact"}),
    ("interpolate", (X[None],), {"scale_factor": (1.5, 0.4, 2.2)}),
    ("interpolate", (X,), {"scale_factor": 1.7}),
    ("interpolate", (X,), {"scale_factor": 1.7, "recompute_scale_factor": True}),
]

# Functions that compute: the same, in float32.
SUMS = [
    ("batch_norm", (WAVES, C6[0], np.abs(C6[1])), {}),
    ("batch_norm", (WAVES, C6[0], np.abs(C6[1]), C6[2], C6[3]), {"eps": 1e-3}),
    ("batch_norm", (WAVES, None, None, C6[2], C6[3], True), {}),
    ("batch_norm", (WAVES[:, :, 0, 0], None, None), {"training": True}),
    ("batch_norm", (WAVES[:0], None, None), {"training": True}),
    ("instance_norm", (WAVES,), {}),
    ("instance_norm", (WAVES[:, :, 0], None, None, C6[2], C6[3]), {"eps": 1e-2}),
    ("instance_norm", (WAVES, C6[0], np.abs(C6[1])), {"use_input_stats": False}),
    ("group_norm", (WAVES, 1), {}),
    ("group_norm", (WAVES, 3, C6[0], C6[1]), {}),
    ("group_norm", (WAVES[:, :, 0, 0], 2), {}),
    ("layer_norm", (WAVES, (7,)), {}),
    ("layer_norm", (WAVES, (5, 7), reals(5, 7), reals(5, 7)), {"eps": 1e-4}),
    ("local_response_norm", (WAVES, 1), {}),
    ("local_response_norm", (WAVES, 4), {"alpha": 0.3, "beta": 0.5, "k": 2.0}),
    ("local_response_norm", (WAVES[:, :, 0], 99), {}),
    ("softmax", (WAVES, 1), {}),
    ("softmax", (WAVES * 1e4, -1), {}),
    ("softmax", (WAVES[0, 0, 0], 0), {}),
    ("log_softmax", (WAVES, 2), {}),
    ("log_softmax", (WAVES * 1e4, 0), {}),
]


@pytest.mark.parametrize("module", ORACLES, ids=lambda m: getattr(m, "__name__", m))
@pytest.mark.parametrize(("op", "arguments", "options"), MOVES)
def test_functions_that_move_values_are_equal(module, op, arguments, options):
    found = getattr(fc, op)(*arguments, **options)
    np.testing.assert_array_equal(found, oracle(module, op, arguments, options))
    assert found.dtype == arguments[0].dtype and found.flags.c_contiguous


@pytest.mark.parametrize("module", ORACLES, ids=lambda m: getattr(m, "__name__", m))
@pytest.mark.parametrize(("op", "arguments", "options"), SUMS)
def test_functions_that_compute_are_rounded_once(module, op, arguments, options):
    found = getattr(fc, op)(*arguments, **options)
    expected = oracle(module, op, arguments, options, wide=True)
    assert found.dtype == np.float32
    np.testing.assert_array_max_ulp(found, expected.astype(np.float32), maxulp=1)


@pytest.mark.parametrize("dtype", ANY_TYPE)
def test_functions_that_move_values_keep_any_type(dtype):
    x = counted(2, 4, 6, 8, dtype=dtype)
    calls = [
        fc.pad(x, (1, 1)), fc.pad(x, (2, 1), "reflect"), fc.pixel_shuffle(x, 2),
        fc.pixel_unshuffle(x, 2), fc.channel_shuffle(x, 2), fc.unfold(x, 2),
        fc.interpolate(x, 5), fc.from_hwio(x), fc.from_keras_depthwise(x), fc.max_pool2d(x, 2),
        fc.adaptive_max_pool2d(x, 3), fc.max_unpool2d(x, np.zeros(x.shape, int), 2),
    ]  # fmt: skip
    assert [y.dtype for y in calls] == [np.dtype(dtype)] * len(calls)


def test_padding_values_fit_the_type():
    x = np.ones((1, 2), np.int64)
    assert fc.pad(x, (1, 0), value=2**62 + 1).tolist() == [[2**62 + 1, 1, 1]]
    assert fc.pad(x.astype(bool), (1, 0), value=True).all()
    assert fc.pad(x.astype(np.float16), (1, 0), value=-np.inf)[0, 0] == -np.inf


def test_a_padded_array_is_a_copy():
    x = np.ones((2, 3), np.float32)
    for mode in ("constant", "reflect", "replicate", "circular"):
        assert not np.shares_memory(fc.pad(x, (0, 0), mode), x)


@needs_torch
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_nearest_neighbours_are_those_of_pytorch(mode, dtype):
    for n in (1, 2, 3, 5, 7, 10, 13, 29, 60):
        x = counted(1, 1, n, dtype=dtype)
        factors = (0.4, 1 / 3, 0.7, 1.1, 4 / 3, 1.9, 2.3)
        calls = [{"size": o} for o in range(1, 50)]
        calls += [{"scale_factor": f} for f in factors if n * f >= 1]
        for call in calls:
            found, expected = (
                f(a, mode=mode, **call)
                for f, a in (
                    (fc.interpolate, x),
                    (torch_functional.interpolate, torch.from_numpy(x)),
                )
            )
            np.testing.assert_array_equal(found, expected.numpy(), err_msg=f"{n} {call}")


RESIZED = {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}


@pytest.mark.parametrize("module", ORACLES, ids=lambda m: getattr(m, "__name__", m))
@pytest.mark.parametrize("aligned", [None, True])
@pytest.mark.parametrize("mode", RESIZED)
def test_interpolation_computes_what_it_says(mode, aligned, module):
    """Float64 inputs, rounded to float32: weights are positive or the values far from zero."""
    d = RESIZED[mode]
    x = 2 + RNG.random((2, 3, *(5, 8, 6)[:d]))
    size, factor = (9, 3, 6)[:d], (1.7, 0.6, 2.0)[:d]
    for call in (
        {"size": size},
        {"scale_factor": factor},
        {"scale_factor": factor, "recompute_scale_factor": True},
        {"size": 1},
    ):
        options = {"mode": mode, "align_corners": aligned, **call}
        found = fc.interpolate(x, **options)
        expected = oracle(module, "interpolate", (x,), options)
        assert found.dtype == np.float64
        np.testing.assert_array_max_ulp(
            found.astype(np.float32), expected.astype(np.float32), maxulp=1
        )


@pytest.mark.parametrize("module", [fc, reference], ids=lambda m: m.__name__)
@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
def test_softmax_of_another_type_is_that_of_the_array_as_that_type(op, module):
    function = getattr(module, op)
    for x, kind in ((WAVES, np.float64), (WAVES, np.float16), (X.astype(np.int16), "float32")):
        found = function(x, 1, dtype=kind)
        assert found.dtype == kind
        np.testing.assert_array_equal(found, function(x.astype(kind), 1))


@pytest.mark.parametrize("module", ORACLES, ids=lambda m: getattr(m, "__name__", m))
@pytest.mark.parametrize("aligned", [None, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "call",
    [{"size": (5, 40)}, {"size": (1, 23)}, {"scale_factor": (0.3, 0.57)}, {"scale_factor": 1.7}],
    ids=str,
)
def test_antialiased_interpolation_computes_what_it_says(call, mode, aligned, module):
    x = 2 + RNG.random((2, 3, 19, 23))
    options = {"mode": mode, "align_corners": aligned, "antialias": True, **call}
    found = fc.interpolate(x, **options)
    expected = oracle(module, "interpolate", (x,), options)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    single = fc.interpolate(x.astype(np.float32), **options)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, rtol=1e-5)


@pytest.mark.parametrize("mode", RESIZED)
def test_interpolation_in_each_type_is_near_the_widest(mode):
    """Positions of up to 16 are off by 3 roundings of 16, which the slope of a kernel (less than
    2 a tap, 4 taps, an axis at a time) turns into an error of the values."""
    d = RESIZED[mode]
    x = RNG.random((1, 2, *(16,) * d))
    exact = fc.interpolate(x, 23, mode=mode)
    for dtype in (np.float32, np.float16):
        found = fc.interpolate(x.astype(dtype), 23, mode=mode)
        assert found.dtype == dtype
        eps = np.finfo(np.float32).eps
        bound = d * (3 * 16 * 8 * eps + 16 * eps) + 4**d * np.finfo(dtype).eps
        assert np.abs(found.astype(np.float64) - exact).max() <= bound


def test_area_is_adaptive_average_pooling():
    x = reals(2, 3, 7, 9)
    np.testing.assert_array_equal(
        fc.interpolate(x, (3, 4), mode="area"), fc.adaptive_avg_pool2d(x, (3, 4))
    )
    np.testing.assert_array_equal(
        fc.interpolate(x, scale_factor=0.5, mode="area"), fc.adaptive_avg_pool2d(x, (3, 4))
    )


def test_shuffles_undo_each_other():
    np.testing.assert_array_equal(fc.pixel_shuffle(fc.pixel_unshuffle(X, 3), 3), X)
    np.testing.assert_array_equal(fc.channel_shuffle(fc.channel_shuffle(WAVES, 2), 3), WAVES)
    assert fc.channel_shuffle(counted(1, 6, 1), 2).ravel().tolist() == [0, 3, 1, 4, 2, 5]
    np.testing.assert_array_equal(fc.channel_shuffle(WAVES, 3), reference.channel_shuffle(WAVES, 3))


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"dilation": 2, "padding": (2, 1)}])
def test_fold_is_the_adjoint_of_unfold(options):
    x = RNG.integers(-9, 9, (2, 3, 6, 7))
    columns = fc.unfold(x, (2, 3), **options)
    y = RNG.integers(-9, 9, columns.shape)
    assert (columns * y).sum() == (x * fc.fold(y, (6, 7), (2, 3), **options)).sum()


def test_unfold_and_a_matrix_product_are_the_convolution():
    x = RNG.integers(-9, 9, (2, 3, 6, 7)).astype(np.float32)
    w = RNG.integers(-9, 9, (4, 3, 2, 3)).astype(np.float32)
    product = w.reshape(4, -1) @ fc.unfold(x, (2, 3), padding=1, stride=2)
    y = fc.conv2d(x, w, padding=1, stride=2)
    np.testing.assert_array_equal(product.reshape(y.shape), y)


# --- running statistics and dropout --------------------------------------------------------------


@pytest.mark.parametrize("module", ORACLES, ids=lambda m: getattr(m, "__name__", m))
@pytest.mark.parametrize("op", ["batch_norm", "instance_norm"])
def test_running_statistics_are_updated_in_place(op, module):
    mean, var = reals(6, dtype=np.float64), np.abs(reals(6, dtype=np.float64))
    own = mean.copy(), var.copy()
    getattr(fc, op)(WAVES, *own, None, None, True, 0.3)
    if module == "torch":
        theirs = torch.from_numpy(mean.copy()), torch.from_numpy(var.copy())
        wide = torch.from_numpy(WAVES.astype(np.float64))
        getattr(torch_functional, op)(wide, *theirs, None, None, True, 0.3)
    else:
        theirs = mean.copy(), var.copy()
        getattr(module, op)(WAVES, *theirs, None, None, True, 0.3)
    for found, expected in zip(own, theirs, strict=True):
        np.testing.assert_array_max_ulp(np.float32(found), np.float32(expected), maxulp=1)
    before = own[0].copy()
    getattr(fc, op)(WAVES, *own, None, None, False)
    np.testing.assert_array_equal(own[0], before)


def test_dropout_keeps_its_share_and_the_scale():
    x = np.ones(20_000, np.float32)
    for p in (0.1, 0.5, 0.9):
        y = fc.dropout(x, p)
        kept = y != 0
        assert set(np.unique(y)) == {np.float32(0), np.float32(1) / np.float32(1 - p)}
        # Seven standard deviations of a binomial: once in 10**11 runs by chance.
        assert abs(kept.sum() - x.size * (1 - p)) < 7 * math.sqrt(x.size * p * (1 - p))
    assert not np.array_equal(fc.dropout(x), fc.dropout(x))
    assert fc.dropout(x, 1.0).sum() == 0
    for call in ({"p": 0.0}, {"p": 0.7, "training": False}):
        assert fc.dropout(x, **call) is x
    assert fc.dropout(x, 0.5, inplace=True) is x and 0 < (x == 0).sum() < x.size


def test_softmax_of_what_is_not_finite():
    x = np.array([[0, np.inf, 1], [-np.inf, 0, 0], [-np.inf] * 3, [np.nan, 0, 1]], np.float32)
    nan = np.nan
    expected = [[nan] * 3, [0, 0.5, 0.5], [nan] * 3, [nan] * 3]
    np.testing.assert_array_equal(fc.softmax(x, 1), np.float32(expected))
    assert fc.softmax(np.float32(3)) == 1 and fc.log_softmax(np.float32(3)) == 0


@needs_torch
@pytest.mark.filterwarnings("ignore:Implicit dimension")
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4), (2, 3, 4, 5)])
def test_softmax_chooses_the_axis_as_pytorch_does(shape):
    x = reals(*shape)
    expected = torch_functional.softmax(torch.from_numpy(x).double()).numpy()
    np.testing.assert_array_max_ulp(fc.softmax(x), expected.astype(np.float32), maxulp=1)


# --- pooling of other types, and back ------------------------------------------------------------

POOLED = [
    {"kernel_size": 2},
    {"kernel_size": (3, 2), "stride": (2, 1), "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": (1, 0), "ceil_mode": True},
    {"kernel_size": 2, "stride": 1, "padding": 1, "dilation": 2},
    {"kernel_size": 2, "stride": 3, "dilation": (3, 1)},
]


@pytest.mark.parametrize("layout", [None, "NHWC"])
@pytest.mark.parametrize("options", POOLED)
@pytest.mark.parametrize("dtype", ANY_TYPE)
def test_max_pooling_of_any_type_is_that_of_its_values(dtype, options, layout):
    shape = (2, 3, 7, 8) if layout is None else (2, 7, 8, 3)
    wide = RNG.integers(0, 2 if dtype == np.bool_ else 100, shape).astype(np.float64)
    found, places = fc.max_pool2d(wide.astype(dtype), **options, return_indices=True, layout=layout)
    expected, at = fc.max_pool2d(wide, **options, return_indices=True, layout=layout)
    assert found.dtype == dtype and places.dtype == np.int64
    np.testing.assert_array_equal(found.astype(np.float64), expected)
    np.testing.assert_array_equal(places, at)


def test_max_pooling_keeps_integers_that_floats_do_not_have():
    x = np.array([[[2**62 + 1, 2**62, -(2**63), 1 - 2**63]]])
    assert fc.max_pool1d(x, 2).tolist() == [[[2**62 + 1, 1 - 2**63]]]
    assert fc.max_pool1d(-1 - x, 1, padding=0).dtype == np.int64
    assert fc.adaptive_max_pool1d(np.uint8([[[0, 0, 255, 7]]]), 2).tolist() == [[[0, 255]]]
    assert fc.global_max_pool(np.zeros((1, 1, 3, 3), bool)).tolist() == [[[[False]]]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_nan_wins_in_max_pooling_and_the_first_of_equals_is_named(dtype):
    nan = np.nan
    x = np.array([[[1, nan, 3, 3, -np.inf, -np.inf, 2, nan]]], dtype)
    y, places = fc.max_pool1d(x, 2, return_indices=True)
    np.testing.assert_array_equal(y, np.array([[[nan, 3, -np.inf, nan]]], dtype))
    assert places.tolist() == [[[1, 2, 4, 7]]]


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.int64])
def test_averages_of_integers_are_float64(dtype):
    x = RNG.integers(0, 2 if dtype is bool else 100, (2, 3, 6, 8)).astype(dtype)
    wide = x.astype(np.float64)
    for y, expected in (
        (fc.avg_pool2d(x, 2), fc.avg_pool2d(wide, 2)),
        (fc.adaptive_avg_pool2d(x, 3), fc.adaptive_avg_pool2d(wide, 3)),
        (fc.global_avg_pool(x), fc.global_avg_pool(wide)),
    ):
        assert y.dtype == np.float64
        np.testing.assert_array_equal(y, expected)
    assert fc.global_avg_pool(x)[0, 0, 0, 0] == x[0, 0].mean()


def test_averages_of_float16_are_computed_in_float32_and_rounded_once():
    x = reals(2, 3, 6, 8, dtype=np.float16)
    wide = x.astype(np.float32)
    np.testing.assert_array_equal(fc.avg_pool2d(x, 3), fc.avg_pool2d(wide, 3).astype(np.float16))
    out = np.empty((2, 3, 2, 2), np.float16)
    assert fc.avg_pool2d(x, 3, out=out) is out
    many = np.full((1, 1, 100), 60000, np.float16)
    assert fc.global_avg_pool(many)[0, 0, 0] == np.float16(60000), "the sum alone would overflow"


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("norm_type", [1, 2.0, 3, 0.5, math.inf, -math.inf])
def test_power_averages_are_those_of_the_definition(d, norm_type):
    x = 1 + RNG.random((2, 3, *(6, 7, 5)[:d]))
    windows = np.lib.stride_tricks.sliding_window_view(x, (2,) * d, tuple(range(2, 2 + d)))
    windows = windows[(..., *(slice(None, None, 2),) * d, *(slice(None),) * d)]
    axes = tuple(range(-d, 0))
    if math.isinf(norm_type):
        expected = windows.max(axes) if norm_type > 0 else windows.min(axes)
    else:
        expected = (windows**norm_type).sum(axes) ** (1 / norm_type)
    found = getattr(fc, f"lp_pool{d}d")(x, norm_type, 2)
    np.testing.assert_array_max_ulp(np.float32(found), np.float32(expected), maxulp=1)
    narrow = getattr(fc, f"lp_pool{d}d")(x.astype(np.float16), norm_type, 2)
    assert narrow.dtype == np.float16


@needs_torch
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_power_averages_of_cut_windows_are_those_of_pytorch(ceil_mode):
    x = 1 + RNG.random((2, 3, 8, 9))
    for norm_type in (1, 2, 3.5):
        arguments = (norm_type, (3, 2), (2, 2), ceil_mode)
        found = fc.lp_pool2d(x, *arguments)
        expected = torch_functional.lp_pool2d(torch.from_numpy(x), *arguments).numpy()
        np.testing.assert_array_max_ulp(np.float32(found), np.float32(expected), maxulp=1)
    negative = fc.lp_pool1d(-x[0], 3, 2)
    assert np.isnan(negative).all()


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.bool_, np.int16, np.float16, np.float64])
def test_unpooling_puts_the_largest_back(d, dtype):
    pool, unpool = getattr(fc, f"max_pool{d}d"), getattr(fc, f"max_unpool{d}d")
    x = counted(2, 3, *(6, 4, 8)[:d], dtype=dtype)
    y, places = pool(x, 2, return_indices=True)
    back = unpool(y, places, 2)
    assert back.dtype == dtype
    np.testing.assert_array_equal(pool(back, 2), y)
    assert np.count_nonzero(back) == np.count_nonzero(y)
    np.testing.assert_array_equal(back, getattr(reference, f"max_unpool{d}d")(y, places, 2))
    small = places.astype(np.uint16)
    np.testing.assert_array_equal(unpool(y, small, 2), back)
    size = tuple(n + 1 for n in x.shape[2:])
    assert unpool(y, places, 2, output_size=size).shape[2:] == size
    assert unpool(y, places, 2, output_size=(2, 3, *size)).shape[2:] == size
    np.testing.assert_array_equal(unpool(y[0], places[0], 2), back[0])


def test_the_last_of_repeated_indices_stays():
    x = np.array([[[1.0, 2.0, 3.0]]])
    y = fc.max_unpool1d(x, np.array([[[4, 4, 0]]]), 2)
    assert y.tolist() == [[[3.0, 0.0, 0.0, 0.0, 2.0, 0.0]]]


# --- activations: what is done around the engine -------------------------------------------------

ACTIVATIONS = {
    "relu": {}, "relu6": {}, "leaky_relu": {"negative_slope": 0.2}, "elu": {"alpha": 0.5},
    "silu": {}, "gelu": {"approximate": "tanh"}, "sigmoid": {}, "tanh": {}, "hardsigmoid": {},
    "hardswish": {}, "softplus": {"beta": 2.0, "threshold": 1.0},
}  # fmt: skip
INPLACE = ("relu", "relu6", "leaky_relu", "elu", "silu", "hardsigmoid", "hardswish")


@pytest.mark.parametrize("op", ACTIVATIONS)
def test_activations_of_views_are_views_of_activations(op):
    x = reals(3, 4, 5, 6)
    f = getattr(fc, op)
    y = f(x, **ACTIVATIONS[op])
    assert y.dtype == x.dtype and y is not x
    for view in (
        lambda a: a.T,
        lambda a: a[::2, ::-1, :, 1::2],
        lambda a: np.moveaxis(a, 1, -1),
        lambda a: a[1, 2, 3, 4],
        lambda a: a[:0],
        lambda a: np.broadcast_to(a[0], a.shape),
    ):
        np.testing.assert_array_equal(f(view(x), **ACTIVATIONS[op]), view(y))
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    kept = f(np.moveaxis(last, -1, 1), **ACTIVATIONS[op])
    assert np.moveaxis(kept, 1, -1).flags.c_contiguous
    np.testing.assert_array_equal(kept, y)


@pytest.mark.parametrize("op", ACTIVATIONS)
def test_activations_of_float16_are_computed_in_float32(op):
    x = reals(50, dtype=np.float16)
    expected = getattr(fc, op)(x.astype(np.float32), **ACTIVATIONS[op]).astype(np.float16)
    np.testing.assert_array_equal(getattr(fc, op)(x, **ACTIVATIONS[op]), expected)


@pytest.mark.parametrize("op", INPLACE)
def test_activations_in_place_write_into_the_array(op):
    x = reals(3, 8)
    y = getattr(fc, op)(x[:, ::2], **ACTIVATIONS[op])
    rest = x[:, 1::2].copy()
    part = x[:, ::2]
    assert getattr(fc, op)(part, **ACTIVATIONS[op], inplace=True) is part
    np.testing.assert_array_equal(x[:, ::2], y)
    np.testing.assert_array_equal(x[:, 1::2], rest)


@pytest.mark.parametrize("shape", [(), (7,), (3, 4), (2, 4, 5), (2, 4, 5, 6)])
def test_prelu_has_a_slope_a_channel_or_one_for_all(shape):
    x = reals(*shape)
    slope = np.float32(0.25)
    np.testing.assert_array_equal(fc.prelu(x, [slope]), np.where(x > 0, x, x * slope))
    if len(shape) > 1:
        slopes = reals(4)
        along = slopes.reshape(-1, *(1,) * (len(shape) - 2))
        np.testing.assert_array_equal(fc.prelu(x, slopes), np.where(x > 0, x, x * along))


# --- weights of other libraries ------------------------------------------------------------------


def test_hwio_weights_are_oihw():
    w = counted(2, 3, 4, 5)
    y = fc.from_hwio(w)
    assert y.shape == (5, 4, 2, 3) and y.flags.c_contiguous
    assert y[3, 2, 1, 0] == w[1, 0, 2, 3]
    assert fc.from_hwio(counted(3, 4, 5)).shape == (5, 4, 3)


def test_keras_depthwise_weights_multiply_each_channel():
    x, w = reals(1, 3, 6, 6), reals(2, 2, 3, 4)
    y = fc.conv2d(x, fc.from_keras_depthwise(w), groups=3)
    assert y.shape == (1, 12, 5, 5)
    one = fc.conv2d(x[:, 1:2], w[:, :, 1, 2][None, None])
    np.testing.assert_array_equal(y[:, 1 * 4 + 2], one[:, 0])
