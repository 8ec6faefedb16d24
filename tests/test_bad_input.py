"""Every wrong call raises the right built-in exception, names the argument, and does nothing else.

A case is data: an op, the arguments that are wrong, the exception, a pattern of its message. The
checks are the same for all: type and message, inputs and `out` unchanged, no memory taken, in
under a millisecond. Further down: arrays that are odd but right.
"""

import random
import re
import time
import tracemalloc

import numpy as np
import pytest

import fastconv as fc
from fastconv import _memory, functional, reference

RNG = np.random.default_rng(7)
SPACE = {1: (6,), 2: (6, 7), 3: (5, 6, 7)}
HUGE = 2**30  # HUGE * HUGE elements: more than any memory, in four bytes by broadcasting


def reals(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def right_calls() -> dict:
    """A right call of every op, which the cases spoil one argument at a time."""
    calls = {}
    for d, space in SPACE.items():
        x, k = reals(2, 4, *space), (3,) * d
        b = reals(4)
        calls[f"conv{d}d"] = {"input": x, "weight": reals(4, 4, *k), "bias": b}
        calls[f"conv_transpose{d}d"] = {"input": x, "weight": reals(4, 4, *k), "bias": b}
        calls[f"max_pool{d}d"] = {"input": x, "kernel_size": 2}
        calls[f"avg_pool{d}d"] = {"input": x, "kernel_size": 2}
        calls[f"lp_pool{d}d"] = {"input": x, "norm_type": 2.0, "kernel_size": 2}
        calls[f"adaptive_avg_pool{d}d"] = {"input": x, "output_size": 2}
        calls[f"adaptive_max_pool{d}d"] = {"input": x, "output_size": 2}
        places = np.zeros(x.shape, np.int64)
        calls[f"max_unpool{d}d"] = {"input": x, "indices": places, "kernel_size": 2}
    x, c = reals(2, 4, 6, 8), reals(4)
    calls |= {
        "global_avg_pool": {"input": x},
        "global_max_pool": {"input": x},
        "pad": {"input": x, "pad": (1, 1)},
        "interpolate": {"input": x, "size": 3},
        "pixel_shuffle": {"input": x, "upscale_factor": 2},
        "pixel_unshuffle": {"input": x, "downscale_factor": 2},
        "channel_shuffle": {"input": x, "groups": 2},
        "unfold": {"input": x, "kernel_size": 2},
        "fold": {"input": reals(2, 4, 35), "output_size": (6, 8), "kernel_size": 2},
        "linear": {"input": reals(3, 5), "weight": reals(2, 5), "bias": reals(2)},
        "batch_norm": {"input": x, "running_mean": c, "running_var": np.abs(c), "weight": c},
        "instance_norm": {"input": x, "weight": c, "bias": c},
        "group_norm": {"input": x, "num_groups": 2, "weight": c, "bias": c},
        "layer_norm": {"input": x, "normalized_shape": (6, 8), "weight": reals(6, 8)},
        "local_response_norm": {"input": x, "size": 3},
        "softmax": {"input": x, "dim": 1},
        "log_softmax": {"input": x, "dim": 1},
        "dropout": {"input": x, "p": 0.5},
        "prelu": {"input": x, "weight": c},
        "leaky_relu": {"input": x, "negative_slope": 0.1},
        "elu": {"input": x, "alpha": 1.0},
        "gelu": {"input": x, "approximate": "none"},
        "softplus": {"input": x, "beta": 1.0, "threshold": 20.0},
    }
    plain = ("relu", "relu6", "silu", "sigmoid", "tanh", "hardsigmoid", "hardswish")
    calls |= {name: {"input": x} for name in plain}
    calls["from_hwio"] = {"w": reals(3, 3, 4, 5)}
    calls["from_keras_depthwise"] = {"w": reals(3, 3, 4, 2)}
    return calls


RIGHT = right_calls()
CONVS = [name for name in RIGHT if name.startswith("conv")]
POOLS = [name for name in RIGHT if re.match("(max|avg)_pool", name)]
WINDOWED = CONVS + POOLS

# How an int can be wrong, whatever it is for; what it must be at least is in INTS below.
NOT_INTS = [1.5, "a", b"a", 1j, object(), {1}, {1: 1}, True, np.True_, np.float32(1), slice(1)]
BELOW = [-1, -(2**63), -(2**70)]
BEYOND = [2**63, 2**64, 2**70, 10**5000]

# op names, argument, least value, whether a tuple is taken as well
INTS = [
    (WINDOWED + ["unfold", "fold"], "stride", 1, True),
    (WINDOWED + ["unfold", "fold"], "padding", 0, True),
    (CONVS + POOLS[::2] + ["unfold", "fold"], "dilation", 1, True),
    (CONVS + ["channel_shuffle"], "groups", 1, False),
    (CONVS[1::2], "output_padding", 0, True),
    (POOLS + ["unfold", "fold"], "kernel_size", 1, True),
    ([f"lp_pool{d}d" for d in SPACE], "kernel_size", 1, True),
    ([f"max_unpool{d}d" for d in SPACE], "kernel_size", 1, True),
    ([f"max_unpool{d}d" for d in SPACE], "stride", 1, True),
    ([f"max_unpool{d}d" for d in SPACE], "padding", 0, True),
    ([f"adaptive_{k}_pool{d}d" for d in SPACE for k in ("avg", "max")], "output_size", 0, True),
    (["pixel_shuffle"], "upscale_factor", 1, False),
    (["pixel_unshuffle"], "downscale_factor", 1, False),
    (["group_norm"], "num_groups", 1, False),
    (["local_response_norm"], "size", 1, False),
    (["interpolate"], "size", 1, True),
    (["fold"], "output_size", 1, True),
    (["layer_norm"], "normalized_shape", 0, True),
]
OPTIONAL = {"adaptive": "output_size", "max_unpool": "stride", "interpolate": "size"}

FLAGS = [
    (POOLS + ["lp_pool2d"], "ceil_mode"),
    (POOLS[1::2], "count_include_pad"),
    (POOLS[::2], "return_indices"),
    (["batch_norm", "dropout"], "training"),
    (["instance_norm"], "use_input_stats"),
    (["relu", "elu", "hardswish", "dropout"], "inplace"),
]
NUMBERS = [
    (["batch_norm", "instance_norm"], "momentum"),
    (["batch_norm", "instance_norm", "group_norm", "layer_norm"], "eps"),
    (["local_response_norm"], "alpha"),
    (["local_response_norm"], "beta"),
    (["local_response_norm"], "k"),
    (["leaky_relu"], "negative_slope"),
    (["elu"], "alpha"),
    (["softplus"], "beta"),
    (["softplus"], "threshold"),
    (["dropout"], "p"),
    ([f"lp_pool{d}d" for d in SPACE], "norm_type"),
]
NOT_NUMBERS = ["a", None, 1j, True, [1.0], object()]


def int_cases():
    for ops, name, low, tuples in INTS:
        for op in ops:
            optional = any(op.startswith(o) and name == n for o, n in OPTIONAL.items())
            missing = optional or (op in POOLS and name == "stride")
            for value in NOT_INTS + ([] if missing else [None]):
                a_name = name == "padding" and value == "a" and op in CONVS[::2]
                yield op, {name: value}, ValueError if a_name else TypeError, name
                if tuples:
                    yield op, {name: (value,)}, TypeError, name
            for value in ([0] if low == 1 else []) + BELOW + BEYOND:
                yield op, {name: value}, ValueError, name
                if tuples:
                    yield op, {name: [value]}, ValueError, name
            if tuples and name != "normalized_shape":
                yield op, {name: (1, 1, 1, 1)}, ValueError, name
                yield op, {name: np.ones((2, 2, 2), int)}, (TypeError, ValueError), name
                yield op, {name: np.broadcast_to(np.int8(1), 2**60)}, ValueError, name


def option_cases():
    for ops, name in FLAGS:
        for op in ops:
            for value in ("yes", None, 2, 1.0, [True]):
                yield op, {name: value}, TypeError, name
    for ops, name in NUMBERS:
        for op in ops:
            for value in NOT_NUMBERS:
                yield op, {name: value}, TypeError, name
            yield op, {name: 10**400}, ValueError, name
    for op in CONVS:
        for value in (1, 1.5, object(), b"direct"):
            yield op, {"algorithm": value}, TypeError, "algorithm"
            yield op, {"activation": value}, TypeError, "activation"
            yield op, {"activation": (value,)}, TypeError, "activation"
        yield op, {"algorithm": "fastest"}, ValueError, "algorithm.*direct.*fastest"
        yield op, {"activation": "swoosh"}, ValueError, "activation.*leaky_relu.*swoosh"
        yield op, {"activation": ("relu", 1.0)}, ValueError, "activation"
        yield op, {"activation": ("elu", 1.0, 2.0)}, ValueError, "activation"
        yield op, {"activation": ("elu", "1.0")}, TypeError, "activation"
        yield op, {"activation": ()}, TypeError, "activation"
        yield op, {"padding": "full" * 1000}, (TypeError, ValueError), "padding"
        yield op, {"padding": ((1, 2, 3),)}, ValueError, "padding"
        yield op, {"padding": (((1, 1), (1, 1)),)}, TypeError, "padding"
        yield op, {"padding": ((1, -1),)}, ValueError, "padding"
    for op in WINDOWED:
        for value in (1, True, ["NHWC"]):
            yield op, {"layout": value}, TypeError, "layout"
        yield op, {"layout": "CHWN"}, ValueError, "layout.*NHWC.*CHWN"
    for d in SPACE:
        yield f"conv_transpose{d}d", {"padding": "same"}, TypeError, "padding"
        yield f"max_pool{d}d", {"padding": "same"}, TypeError, "padding"
        yield f"lp_pool{d}d", {"norm_type": 0}, ValueError, "norm_type"
        yield f"lp_pool{d}d", {"norm_type": np.nan}, ValueError, "norm_type"
    for d in (2, 3):
        yield f"avg_pool{d}d", {"divisor_override": 0}, ValueError, "divisor_override"
        yield f"avg_pool{d}d", {"divisor_override": 2.0}, TypeError, "divisor_override"
        yield f"avg_pool{d}d", {"divisor_override": True}, TypeError, "divisor_override"
        yield f"avg_pool{d}d", {"divisor_override": 2**70}, ValueError, "divisor_override"


def shape_cases():
    for d, space in SPACE.items():
        conv, deconv = f"conv{d}d", f"conv_transpose{d}d"
        k = (3,) * d
        for op in (conv, deconv):
            yield op, {"weight": reals(4, 4, *k[1:])}, ValueError, "weight.*axes"
            yield op, {"weight": reals(4, 4, *k, 1)}, ValueError, "weight.*axes"
            yield op, {"weight": reals()}, ValueError, "weight.*axes"
            yield op, {"weight": reals(4, 4, 0, *k[1:])}, ValueError, "weight.*kernel"
            yield op, {"bias": reals(5)}, ValueError, r"bias.*\(4,\).*\(5,\)"
            yield op, {"bias": reals(4, 1)}, ValueError, "bias"
            yield op, {"bias": reals()}, ValueError, "bias"
            yield op, {"bias": 1.0}, ValueError, "bias"
            yield op, {"groups": 3}, ValueError, "groups=3"
            yield op, {"groups": 2**62}, ValueError, "groups"
            yield op, {"input": reals(2, 5, *space)}, ValueError, "weight.*4 channels, got 5"
        yield conv, {"weight": reals(0, 4, *k)}, ValueError, "weight.*output channel"
        yield deconv, {"weight": reals(4, 0, *k)}, ValueError, "weight.*output channel"
        yield conv, {"weight": reals(4, 2, *k)}, ValueError, "weight.*2 channels, got 4"
        yield conv, {"weight": reals(4, 4, *(9,) * d)}, ValueError, "weight.*9.*padded input"
        yield conv, {"dilation": 2**62}, ValueError, "dilation"
        yield conv, {"padding": 2**62}, ValueError, "bytes|elements"
        yield deconv, {"stride": 2**62}, ValueError, "bytes"
        yield deconv, {"dilation": 2**62}, ValueError, "bytes"
        yield deconv, {"padding": 2**62}, ValueError, "padding"
        yield deconv, {"padding": 20}, ValueError, "padding.*output of size"
        yield deconv, {"output_padding": 1}, ValueError, "output_padding.*stride 1.*dilation 1"
        for pool in (f"max_pool{d}d", f"avg_pool{d}d"):
            yield pool, {"kernel_size": 9}, ValueError, "kernel_size.*9"
            yield pool, {"kernel_size": 2**62}, ValueError, "kernel_size"
            yield pool, {"padding": 2}, ValueError, "padding.*half.*2"
            yield pool, {"kernel_size": 2**62, "padding": 2**61}, ValueError, "padding|bytes"
        yield f"max_pool{d}d", {"dilation": 2**62}, ValueError, "kernel_size"
        for op, call in RIGHT.items():
            if op.endswith(f"{d}d"):
                plane, remedy = reals(*space), r"x\[None, None\]$"
                shaped = {"indices": np.zeros(space, int)} if "indices" in call else {}
                yield op, {"input": plane, **shaped}, ValueError, "input.*" + remedy
                yield op, {"input": reals(1, 2, 4, *space)}, ValueError, "input.*axes"
                yield op, {"input": reals()}, ValueError, "input.*axes"
                if "weight" in call or "pool" in op:
                    empty = reals(2, 4, 0, *space[1:])
                    if "indices" in call:
                        shaped = {"indices": np.zeros(empty.shape, int)}
                    yield op, {"input": empty, **shaped}, ValueError, "input.*empty"
        yield f"adaptive_avg_pool{d}d", {"output_size": 2**62}, ValueError, "bytes"
        yield f"adaptive_max_pool{d}d", {"output_size": ()}, ValueError, "output_size"
        yield from unpool_cases(f"max_unpool{d}d", d)


def unpool_cases(op, d):
    right = RIGHT[op]["indices"]
    for wrong in (-1, 2**40, -(2**63)):
        places = right.copy()
        places[-1, -1] = wrong
        yield op, {"indices": places}, IndexError, "indices"
    yield op, {"indices": np.full(right.shape, 2**64 - 1, np.uint64)}, IndexError, "indices"
    yield op, {"indices": right.astype(np.float64)}, TypeError, "indices"
    yield op, {"indices": right.astype(bool)}, TypeError, "indices"
    yield op, {"indices": right[:1]}, ValueError, "indices.*shape"
    yield op, {"output_size": (100,) * d}, ValueError, "output_size"
    yield op, {"output_size": (1,) * (d + 1)}, ValueError, "output_size"
    yield op, {"output_size": 12}, TypeError, "output_size"
    yield op, {"stride": 2**60}, ValueError, "bytes"
    yield op, {"padding": 2**62}, ValueError, "output_size"


def residual_cases():
    for op in CONVS:
        y = getattr(fc, op)(**RIGHT[op])
        for spoil in NO_KIND.values():
            if spoil(y) is not None:
                yield op, {"residual": spoil(y)}, TypeError, "residual"
        yield op, {"residual": y.astype(np.float64)}, TypeError, "residual.*float32.*float64"
        yield op, {"residual": y.astype(np.int32)}, TypeError, "residual.*float32.*int32"
        yield op, {"residual": 1.0}, TypeError, "residual.*float32"
        yield op, {"residual": y[:1]}, ValueError, "residual.*shape"
        yield op, {"residual": y[..., None]}, ValueError, "residual.*shape"
        yield op, {"residual": y[0]}, ValueError, "residual.*shape"
        yield op, {"residual": reals(4)}, ValueError, "residual.*shape"
        yield op, {"residual": y.ravel()}, ValueError, "residual.*shape"
        huge = np.broadcast_to(np.float32(1), (1, 1, HUGE, HUGE))
        yield op, {"residual": huge}, ValueError, "residual .*bytes"
        yield op, {"residual_after": True}, ValueError, "residual_after.*residual"
        for value in ("yes", None, 1, 0.0, [True]):
            yield op, {"residual": y, "residual_after": value}, TypeError, "residual_after"


def plain_cases():
    x = reals(2, 4, 6, 8)
    for pad, error in (
        (1, TypeError), (None, TypeError), ("ab", TypeError), ((1,), ValueError),
        ((1.0, 1), TypeError), ((1, True), TypeError), ((1,) * 10, ValueError),
        ((2**70, 0), ValueError), ((2**62, 0), ValueError), ((-9, 0), ValueError),
        (np.broadcast_to(np.int8(1), 2**60), ValueError),
    ):  # fmt: skip
        yield "pad", {"pad": pad}, error, "pad"
    for mode, pad in (("reflect", 8), ("circular", 9), ("replicate", -9), ("reflect", -9)):
        yield "pad", {"pad": (pad, 0), "mode": mode}, ValueError, f"pad.*{mode}"
    yield "pad", {"mode": "edge"}, ValueError, "mode.*replicate.*edge"
    yield "pad", {"mode": 1}, TypeError, "mode"
    yield "pad", {"mode": "reflect", "value": 1.0}, ValueError, "value.*reflect"
    yield "pad", {"value": "a"}, TypeError, "value"
    yield "pad", {"input": x.astype(np.int8), "value": 128}, ValueError, "value.*int8"
    yield "pad", {"input": x.astype(np.int8), "value": 0.5}, ValueError, "value.*int8"
    yield "pad", {"input": x.astype(np.int8), "value": np.nan}, ValueError, "value.*int8"
    yield "interpolate", {"size": None}, ValueError, "size and scale_factor"
    yield "interpolate", {"scale_factor": 2}, ValueError, "size and scale_factor"
    for factor in (0, -1.0, np.nan, np.inf, 1e-9, 1e300):
        yield "interpolate", {"size": None, "scale_factor": factor}, ValueError, "scale_factor|byt"
    yield "interpolate", {"size": None, "scale_factor": "2"}, TypeError, "scale_factor"
    yield "interpolate", {"size": None, "scale_factor": (1, 2, 3)}, ValueError, "scale_factor"
    yield "interpolate", {"size": 2**62}, ValueError, "bytes"
    yield "interpolate", {"mode": "linear"}, ValueError, "linear"
    yield "interpolate", {"mode": "cubic"}, ValueError, "mode.*bicubic.*cubic"
    yield "interpolate", {"align_corners": True}, ValueError, "align_corners"
    yield "interpolate", {"mode": "bilinear", "align_corners": 1}, TypeError, "align_corners"
    yield "interpolate", {"recompute_scale_factor": True}, ValueError, "recompute_scale_factor"
    yield "interpolate", {"antialias": True}, ValueError, "antialias.*bicubic.*nearest"
    yield "interpolate", {"mode": "bilinear", "antialias": 1}, TypeError, "antialias"
    yield "interpolate", {"input": x[0, 0]}, ValueError, r"input.*x\[None, None\]$"
    yield "interpolate", {"input": x[:, :, :0]}, ValueError, "input.*empty"
    yield "interpolate", {"input": x.astype(int), "mode": "bilinear"}, TypeError, "input"
    yield "pixel_shuffle", {"upscale_factor": 3}, ValueError, "upscale_factor"
    yield "pixel_shuffle", {"upscale_factor": 2**62}, ValueError, "upscale_factor"
    yield "pixel_shuffle", {"input": x[0, 0]}, ValueError, "input.*axes"
    yield "pixel_unshuffle", {"downscale_factor": 4}, ValueError, "downscale_factor"
    yield "channel_shuffle", {"groups": 3}, ValueError, "groups"
    yield "unfold", {"kernel_size": 9}, ValueError, "kernel_size"
    yield "unfold", {"padding": 2**62}, ValueError, "bytes"
    yield "unfold", {"input": x[0, 0]}, ValueError, r"input.*x\[None, None\]$"
    yield "fold", {"kernel_size": 3}, ValueError, "kernel_size"
    yield "fold", {"output_size": (6, 9)}, ValueError, "input.*patches"
    yield "fold", {"padding": 2**40}, ValueError, "bytes|patches"
    yield "fold", {"input": x}, ValueError, "input.*axes"
    yield "linear", {"weight": reals(2, 6)}, ValueError, "input.*6"
    yield "linear", {"weight": reals(5)}, ValueError, "weight"
    yield "linear", {"weight": reals(0, 5)}, ValueError, "weight"
    yield "linear", {"bias": reals(3)}, ValueError, "bias"
    yield "linear", {"input": reals()}, ValueError, "input"
    for name in ("running_mean", "running_var", "weight", "bias"):
        yield "batch_norm", {name: reals(5)}, ValueError, f"{name}.*shape"
        yield "batch_norm", {name: reals(4).astype(complex)}, TypeError, name
    yield "batch_norm", {"running_mean": None}, ValueError, "running_mean and running_var"
    none = {"running_mean": None, "running_var": None}
    yield "batch_norm", none, ValueError, "running_mean"
    yield "batch_norm", {"input": x[:1, :, :1, :1], "training": True}, ValueError, "input.*value"
    yield "batch_norm", {"eps": -1e-5}, ValueError, "eps"
    yield "batch_norm", {"input": x[0, 0, 0]}, ValueError, "input.*axes"
    yield "batch_norm", {"running_mean": [0.0] * 4, "training": True}, TypeError, "running_mean"
    frozen = reals(4)
    frozen.flags.writeable = False
    yield "batch_norm", {"running_var": frozen, "training": True}, ValueError, "running_var"
    yield "instance_norm", {"input": x[:, :, :1, :1]}, ValueError, "input.*value"
    yield "instance_norm", {"use_input_stats": False}, ValueError, "running_mean"
    yield "group_norm", {"num_groups": 3}, ValueError, "num_groups"
    yield "layer_norm", {"normalized_shape": (8, 6)}, ValueError, "normalized_shape"
    yield "layer_norm", {"normalized_shape": ()}, ValueError, "normalized_shape"
    yield "layer_norm", {"weight": reals(8)}, ValueError, "weight"
    for op in ("softmax", "log_softmax"):
        yield op, {"dtype": np.int32}, TypeError, "dtype.*int32"
        yield op, {"dtype": "single precision"}, TypeError, "dtype.*'single precision'"
        for dim, error in ((4, ValueError), (-5, ValueError), (1.0, TypeError), (True, TypeError)):
            yield op, {"dim": dim}, error, "dim"
    for p in (-0.1, 1.1, np.nan, np.inf):
        yield "dropout", {"p": p}, ValueError, "p must be"
    yield "prelu", {"weight": reals(3)}, ValueError, "weight"
    yield "prelu", {"weight": reals(2, 2)}, ValueError, "weight"
    yield "gelu", {"approximate": "erf"}, ValueError, "approximate.*tanh.*erf"
    yield "gelu", {"approximate": None}, TypeError, "approximate"
    yield "relu", {"input": [1.0, 2.0], "inplace": True}, TypeError, "inplace"
    yield "relu", {"input": np.broadcast_to(x, x.shape), "inplace": True}, ValueError, "read-only"
    yield "from_hwio", {"w": reals(3, 3)}, ValueError, "w must have"
    yield "from_keras_depthwise", {"w": reals(1, 1, 1, 1, 1, 1)}, ValueError, "w must have"
    for op in ("global_avg_pool", "global_max_pool"):
        yield op, {"input": x[0, 0]}, ValueError, r"input.*x\[None, None\]$"
        yield op, {"input": x[:, :, :0]}, ValueError, "input.*empty"


# Element types no function takes; below, those that only some refuse.
NO_KIND = {
    "object": lambda a: a.astype(object),
    "complex": lambda a: a.astype(np.complex64),
    "str": lambda a: np.full(a.shape, "a"),
    "dates": lambda a: np.zeros(a.shape, "datetime64[s]"),
    "records": lambda a: np.zeros(a.shape, [("f", np.float32)]),
    "masked": np.ma.masked_array,
    "None": lambda a: None,
    "a str": lambda a: "abc",
    "an object": lambda a: object(),
}
NO_ENGINE = {"bool": bool, "float16": np.float16, "longdouble": np.longdouble}
KEEPS_ALL = re.compile("max_|adaptive_max|global_max|pad|interp|pixel|channel|unfold|fold|from_")
AVERAGES = re.compile("(avg|adaptive_avg|global_avg)_pool")
REMEDY = r"x\.astype\(np\.float32\)$"


def kind_cases():
    for op, call in RIGHT.items():
        for name, value in call.items():
            if not isinstance(value, np.ndarray):
                continue
            for word, spoil in NO_KIND.items():
                optional = ("bias", "running_mean", "running_var")
                if word == "None" and (name in optional or ("norm" in op and name == "weight")):
                    continue
                yield op, {name: spoil(value)}, TypeError, f"{name}"
            huge = np.broadcast_to(
                np.ones((), value.dtype), (1, 1, HUGE, HUGE * 4 // value.itemsize)
            )
            yield op, {name: huge}, ValueError, f"{name} .*{HUGE}.*bytes"
        if op in CONVS or op == "linear":
            for name in call:
                for dtype in NO_ENGINE.values():
                    yield op, {name: call[name].astype(dtype)}, TypeError, name
            for dtype in (np.int8, np.uint8, np.int64, bool, np.float16):
                yield op, {"input": call["input"].astype(dtype)}, TypeError, REMEDY
            yield op, {"input": [[[1]]]}, TypeError, REMEDY
        elif not KEEPS_ALL.match(op) and not AVERAGES.match(op):
            for dtype in (np.int8, np.uint64, bool, np.longdouble):
                yield op, {"input": call["input"].astype(dtype)}, TypeError, REMEDY
        elif AVERAGES.match(op):
            yield op, {"input": call["input"].astype(np.longdouble)}, TypeError, REMEDY
        if op in CONVS:
            yield op, {"input": [[1.0], [1.0, 2.0]]}, ValueError, "input"
            yield op, {"weight": [[1.0], [1.0, 2.0]]}, ValueError, "weight"


def out_cases():
    for op in WINDOWED:
        y = getattr(fc, op)(**RIGHT[op])
        frozen = y.copy()
        frozen.flags.writeable = False
        same = np.lib.stride_tricks.as_strided(y.copy(), y.shape, (0,) * y.ndim)
        yield op, {"out": y.astype(np.float64)}, TypeError, "out.*float32.*float64"
        yield op, {"out": y.astype(y.dtype.newbyteorder())}, TypeError, "out"
        yield op, {"out": np.ma.masked_array(y)}, TypeError, "out"
        yield op, {"out": y.tolist()}, TypeError, "out"
        yield op, {"out": True}, TypeError, "out"
        yield op, {"out": "out"}, TypeError, "out"
        yield op, {"out": y[:1].copy()}, ValueError, "out.*shape"
        yield op, {"out": y[..., None].copy()}, ValueError, "out.*shape"
        yield op, {"out": np.empty(0, y.dtype)}, ValueError, "out.*shape"
        yield op, {"out": frozen}, ValueError, "out.*read-only"
        yield op, {"out": same}, ValueError, "out.*share memory"


FAMILIES = {
    "ints": int_cases,
    "options": option_cases,
    "shapes": shape_cases,
    "residuals": residual_cases,
    "numpy functions": plain_cases,
    "element types": kind_cases,
    "out": out_cases,
}


def cases() -> dict:
    """(family, op): the cases of one op; they are many and quick, so that a test takes them all."""
    found = {}
    for family, make in FAMILIES.items():
        for op, *case in make():
            found.setdefault((family, op), []).append(case)
    return found


CASES = cases()


def raised(op, arguments):
    try:
        getattr(fc, op)(**arguments)
    except Exception as error:
        return error
    return None


def check(op, wrong, error, pattern):
    arguments = {**RIGHT[op], **wrong}
    arrays = [a for a in arguments.values() if type(a) is np.ndarray and a.size < 10**6]
    before = [a.tobytes() for a in arrays if a.dtype != object]

    found = raised(op, arguments)
    assert type(found) in (error if isinstance(error, tuple) else (error,)), repr(found)
    assert re.search(pattern, str(found)), str(found)
    assert str(found).startswith(f"{op}: ") and len(str(found)) < 400, str(found)
    assert before == [a.tobytes() for a in arrays if a.dtype != object]

    tracemalloc.start()
    raised(op, arguments)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 1024, f"{peak} bytes were taken before the call was judged"

    def once():
        start = time.perf_counter()
        raised(op, arguments)
        return time.perf_counter() - start

    assert min(once() for _ in range(5)) < 1e-3


@pytest.mark.parametrize(("family", "op"), CASES, ids=" ".join)
def test_wrong_calls_raise_and_do_nothing_else(family, op):
    failed = []
    for wrong, error, pattern in CASES[family, op]:
        try:
            check(op, wrong, error, pattern)
        except AssertionError as reason:
            failed.append(f"{', '.join(wrong)}: {pattern}: {str(reason).splitlines()[0]}")
    assert not failed, "\n".join(failed)


def test_every_public_function_has_a_right_call_here():
    assert set(RIGHT) == set(functional._arguments.PUBLIC)


@pytest.mark.parametrize("op", RIGHT)
def test_the_right_calls_are_right(op):
    assert raised(op, RIGHT[op]) is None


# --- what runs the caller's code, and what is refused --------------------------------------------


class Resizing:
    """An int that makes the input smaller as it is looked at."""

    def __init__(self, x):
        self.x = x

    def __index__(self):
        self.x.resize((1, 4, 3, 3), refcheck=False)
        return 1


@pytest.mark.parametrize("argument", ["stride", "padding", "dilation", "groups"])
def test_shapes_are_read_after_the_callers_code_has_run(argument):
    x = np.ones((2, 4, 60, 70), np.float32)
    y = fc.conv2d(x, RIGHT["conv2d"]["weight"], **{argument: Resizing(x)})
    expected = (1, 4, 3, 3) if argument == "padding" else (1, 4, 1, 1)
    assert y.shape == expected


def test_an_exception_of_the_callers_code_is_passed_on():
    class Broken:
        def __index__(self):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fc.conv2d(**RIGHT["conv2d"], stride=Broken())


@pytest.mark.parametrize("op", WINDOWED)
def test_refused_memory_is_a_memory_error_and_the_next_call_is_right(op, monkeypatch):
    expected = getattr(fc, op)(**RIGHT[op])

    def refuse(shape, dtype):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(_memory, "empty", refuse)
        with pytest.raises(MemoryError):
            getattr(fc, op)(**RIGHT[op])
    np.testing.assert_array_equal(getattr(fc, op)(**RIGHT[op]), expected)


def test_memoised_judgements_tell_1_from_true_and_from_1_0():
    call = RIGHT["conv2d"]
    for _ in range(2):
        fc.conv2d(**call, stride=1)
        fc.conv2d(**call, stride=(1, 1))
        for value in (True, 1.0, (True, 1), (1, 1.0)):
            with pytest.raises(TypeError, match="stride"):
                fc.conv2d(**call, stride=value)
    fc.max_pool2d(call["input"], 2)
    with pytest.raises(TypeError, match="ceil_mode"):
        fc.max_pool2d(call["input"], 2, ceil_mode=0)


GARBAGE = [
    None, True, 0, 1, 2, 3, -1, 2**62, 2**63, 2**70, 0.0, 1.5, np.nan, np.inf, -np.inf, "", "same",
    "relu", "NHWC", b"x", 1j, (), [], (1,), (1, 2), (2, 1, 1), ((1, 0), (0, 1)), {}, object(),
    Ellipsis, np.int8(1), np.uint64(2**64 - 1), np.float32(1), np.array(1), np.array([1, 1]),
    np.zeros(0, np.float32), np.ones(4, np.float32), np.ones((4, 4, 1, 1)), np.ones((1, 2, 3, 4)),
    np.ones((2, 4, 6, 7), np.float32), np.ones((4, 6, 7), np.float32), np.ones((2, 0, 3, 3)),
    np.broadcast_to(np.float32(1), (1, 1, HUGE, HUGE)), np.ones((3, 4), np.int16), int, len,
]  # fmt: skip


@pytest.mark.parametrize("op", RIGHT)
def test_garbage_gives_a_result_or_one_of_four_exceptions(op):
    draw = random.Random(op)
    names = [n for n in function_parameters(op) if n not in ("inplace",)]
    for _ in range(300):
        chosen = draw.sample(names, draw.randint(1, min(3, len(names))))
        arguments = {**RIGHT[op], **{n: draw.choice(GARBAGE) for n in chosen}}
        found = raised(op, arguments)
        allowed = (type(None), TypeError, ValueError, IndexError, MemoryError)
        assert type(found) in allowed, f"{ {n: arguments[n] for n in chosen} }: {found!r}"


def function_parameters(op):
    code = getattr(fc, op).__code__
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


# --- odd, but right ------------------------------------------------------------------------------


def variants(a):
    """The same values in arrays of every kind."""
    room = np.zeros((a.nbytes + 8,), np.uint8)
    unaligned = room[1 : 1 + a.nbytes].view(a.dtype).reshape(a.shape)
    unaligned[...] = a
    frozen = a.copy()
    frozen.flags.writeable = False
    record = np.zeros(a.shape, [("skip", "u1"), ("value", a.dtype)])
    record["value"] = a
    every_second = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)[..., ::2]
    every_second[...] = a
    return {
        "fortran": np.asfortranarray(a),
        "reversed": a[..., ::-1].copy()[..., ::-1],
        "every second": every_second,
        "transposed": a.swapaxes(0, -1).copy().swapaxes(0, -1),
        "byte-swapped": a.astype(a.dtype.newbyteorder()),
        "unaligned": unaligned,
        "odd strides": record["value"],
        "read-only": frozen,
        "a memoryview": memoryview(a),
    }


@pytest.mark.parametrize("op", WINDOWED + ["linear", "relu", "softmax", "batch_norm", "pad"])
def test_arrays_of_any_kind_give_the_same_bits(op):
    expected = getattr(fc, op)(**RIGHT[op])
    for name, value in RIGHT[op].items():
        if isinstance(value, np.ndarray):
            for kind, variant in variants(value).items():
                found = getattr(fc, op)(**{**RIGHT[op], name: variant})
                np.testing.assert_array_equal(found, expected, err_msg=f"{name} {kind}")
                assert found.dtype == expected.dtype


@pytest.mark.parametrize("op", WINDOWED)
def test_out_of_any_kind_is_filled_and_returned(op):
    expected = getattr(fc, op)(**RIGHT[op])
    for kind, out in variants(np.zeros_like(expected)).items():
        if isinstance(out, np.ndarray) and out.flags.writeable and out.dtype == expected.dtype:
            assert getattr(fc, op)(**RIGHT[op], out=out) is out, kind
            np.testing.assert_array_equal(out, expected, err_msg=kind)


@pytest.mark.parametrize("op", WINDOWED)
def test_out_may_overlap_any_input(op):
    options = {"padding": 1} if op in CONVS else {"stride": 1, "kernel_size": 3, "padding": 1}
    call = {**RIGHT[op], **options}
    x = call["input"]
    expected = getattr(fc, op)(**call)
    assert expected.shape == x.shape
    room = np.zeros(2 * x.size, x.dtype)
    for shift in (0, 1, x.size // 2, x.size):
        inside, out = room[: x.size].reshape(x.shape), room[shift : shift + x.size]
        inside[...] = x
        out = out.reshape(x.shape)
        assert getattr(fc, op)(**{**call, "input": inside}, out=out) is out
        np.testing.assert_array_equal(out, expected, err_msg=f"shift {shift}")
    out = room[: x.size].reshape(x.shape)
    inside = out[::-1]
    inside[...] = x
    getattr(fc, op)(**{**call, "input": inside}, out=out)
    np.testing.assert_array_equal(out, expected, err_msg="reversed")


def test_out_may_overlap_weight_and_bias():
    call = RIGHT["conv2d"]
    expected = fc.conv2d(**call)
    for name in ("weight", "bias"):
        room = np.zeros(max(expected.size, call[name].size), np.float32)
        inside = room[: call[name].size].reshape(call[name].shape)
        inside[...] = call[name]
        out = room[: expected.size].reshape(expected.shape)
        fc.conv2d(**{**call, name: inside}, out=out)
        np.testing.assert_array_equal(out, expected, err_msg=name)


@pytest.mark.parametrize("op", WINDOWED)
def test_layouts_agree(op):
    call = RIGHT[op]
    expected = getattr(fc, op)(**call)
    last = np.ascontiguousarray(np.moveaxis(call["input"], 1, -1))
    found = getattr(fc, op)(**{**call, "input": last}, layout="NHWC")
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(np.moveaxis(found, -1, 1), expected)
    view = getattr(fc, op)(**{**call, "input": np.moveaxis(last, -1, 1)})
    np.testing.assert_array_equal(view, expected)
    assert np.moveaxis(view, 1, -1).flags.c_contiguous, "a channels-last view is answered by one"
    single = getattr(fc, op)(**{**call, "input": last[0]}, layout="NHWC")
    np.testing.assert_array_equal(np.moveaxis(single, -1, 0), expected[0])


@pytest.mark.parametrize("op", [n for n in RIGHT if re.search(r"\dd$", n)])
def test_an_input_without_a_batch_gives_a_result_without_one(op):
    call = dict(RIGHT[op])
    expected = getattr(fc, op)(**call)
    for name in ("input", "indices"):
        if name in call:
            call[name] = call[name][0]
    np.testing.assert_array_equal(getattr(fc, op)(**call), expected[0])


@pytest.mark.parametrize(
    "op", WINDOWED + ["linear", "relu", "softmax", "unfold", "global_avg_pool"]
)
def test_an_empty_batch_gives_an_empty_result(op):
    call = RIGHT[op]
    expected = getattr(fc, op)(**call)
    found = getattr(fc, op)(**{**call, "input": call["input"][:0]})
    assert found.shape == (0, *expected.shape[1:]) and found.dtype == expected.dtype


@pytest.mark.parametrize("op", CONVS)
@pytest.mark.parametrize("groups", [1, 2])
def test_no_channels_in_give_the_bias(op, groups):
    call = dict(RIGHT[op])
    call["input"] = call["input"][:, :0]
    weight = call["weight"]
    call["weight"] = weight[:0, : 4 // groups] if "transpose" in op else weight[:, :0]
    y = getattr(fc, op)(**call, groups=groups, activation="relu")
    bias = np.maximum(call["bias"], 0).reshape(-1, *(1,) * (y.ndim - 2))
    np.testing.assert_array_equal(y, np.broadcast_to(bias, y.shape))


def test_mixed_floats_give_numpys_result_type():
    call = RIGHT["conv2d"]
    assert fc.conv2d(**call).dtype == np.float32
    for name in call:
        wide = {**call, name: call[name].astype(np.float64)}
        np.testing.assert_array_equal(
            fc.conv2d(**wide), fc.conv2d(**{n: a.astype(np.float64) for n, a in wide.items()})
        )


def test_lists_and_integers_as_weight_and_bias_take_the_inputs_type():
    x, w, b = reals(1, 1, 5, 5), np.arange(9).reshape(1, 1, 3, 3), [0.5]
    expected = fc.conv2d(x, w.astype(np.float32), np.float32(b))
    for weight in (w, w.tolist(), w.astype(float).tolist(), w.astype(np.uint8)):
        found = fc.conv2d(x, weight, b)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    assert fc.conv2d(x.tolist(), w).dtype == np.float64


def test_subclasses_of_arrays_are_taken_as_arrays(tmp_path):
    call = RIGHT["conv2d"]
    expected = fc.conv2d(**call)
    stored = np.memmap(tmp_path / "x", np.float32, "w+", shape=call["input"].shape)
    stored[...] = call["input"]
    out = np.memmap(tmp_path / "y", np.float32, "w+", shape=expected.shape)
    found = fc.conv2d(**{**call, "input": stored}, out=out)
    assert found is out
    np.testing.assert_array_equal(found, expected)
    assert type(fc.conv2d(**{**call, "input": stored})) is np.ndarray


@pytest.mark.parametrize("op", CONVS)
@pytest.mark.parametrize("same", ["same", "same_lower"])
def test_same_keeps_the_size_divided_by_the_stride(op, same):
    if "transpose" in op:
        return
    d = int(op[4])
    for stride in (1, 2, 3):
        for kernel in (1, 2, 3, 4):
            weight = np.ones((4, 4, *(kernel,) * d), np.float32)
            call = {"weight": weight, "stride": stride, "padding": same}
            y = getattr(fc, op)(RIGHT[op]["input"], **call)
            assert y.shape[2:] == tuple(-(-n // stride) for n in SPACE[d])
            if same == "same":
                expected = getattr(reference, op)(RIGHT[op]["input"], **call)
                assert y.shape == expected.shape


def test_nested_padding_is_that_of_the_padded_array():
    call = RIGHT["conv2d"]
    padded = fc.pad(call["input"], (2, 1, 0, 3))
    np.testing.assert_array_equal(
        fc.conv2d(**call, padding=((0, 3), (2, 1))), fc.conv2d(**{**call, "input": padded})
    )


def test_steps_beyond_the_image_are_never_taken():
    x = reals(1, 1, 4, 4)
    w = reals(1, 1, 1, 1)
    np.testing.assert_array_equal(fc.conv2d(x, w, stride=2**62), fc.conv2d(x, w, stride=4))
    np.testing.assert_array_equal(fc.conv2d(x, w, dilation=2**62), fc.conv2d(x, w))
    np.testing.assert_array_equal(fc.max_pool2d(x, 2, 2**62), fc.max_pool2d(x, 2, 9))
    one = x[:, :, :1, :1]
    wide = reals(1, 1, 3, 3)
    np.testing.assert_array_equal(
        fc.conv_transpose2d(one, wide, stride=2**62), fc.conv_transpose2d(one, wide)
    )


@pytest.mark.parametrize("stride", (1 << 16, (1 << 16) + 1, 1 << 20))
def test_a_transposed_convolution_of_many_phases_is_planned_in_no_time(stride):
    """Each output may be a phase of its own; finding its first tap took as many steps as the stride."""
    x, w = np.ones((1, 1, 1), np.float32), np.arange(stride, dtype=np.float32).reshape(1, 1, -1)
    start = time.perf_counter()
    fc.explain("conv_transpose1d", x, w, stride=stride)
    assert time.perf_counter() - start < 0.5
    np.testing.assert_array_equal(fc.conv_transpose1d(x, w, stride=stride)[0, 0], w[0, 0])
