"""fastconv on a problem: each function returns the call to time."""

from collections.abc import Callable

import numpy as np

import fastconv
from benchmarks.problems import GLOBAL_POOLS, Problem
from fastconv import nn

Run = Callable[[], np.ndarray]


def function(p: Problem, x: np.ndarray, *parameters: np.ndarray, **options) -> Run:
    """The function of the op's name, with nothing prepared."""
    call = getattr(fastconv, p.op)
    if p.nhwc:
        options["layout"] = "NHWC"
    return lambda: call(x, *parameters, *p.arguments, **options)


def layer(p: Problem, x: np.ndarray, *parameters: np.ndarray) -> Run:
    """The layer of the op's name, its weights packed once, at the first call."""
    if p.op in GLOBAL_POOLS:
        raise ValueError("cannot: the layers have no global pooling")
    module = _module(p, x.dtype)
    for name, values in zip(("weight", "bias"), parameters, strict=False):
        if values is not None:
            setattr(module, name, values)
    if not p.nhwc:
        return lambda: module(x)
    # Layers take channels last as a view; their result is such a view too.
    image = np.moveaxis(x, -1, 1)
    return lambda: np.moveaxis(module(image), 1, -1)


def _module(p: Problem, dtype: np.dtype) -> nn.Module:
    name = "".join(word.capitalize() for word in p.op.split("_"))  # conv_transpose2d
    make = getattr(nn, name)
    if not p.is_conv:
        return (
            make(*p.arguments)
            if "Max" not in name
            else make(*p.arguments[:-1], False, p.arguments[-1])
        )
    options = {"output_padding": p.output_padding} if p.transposed else {}
    options |= {"stride": p.stride, "padding": p.padding, "dilation": p.dilation}
    options |= {"groups": p.groups, "bias": bool(p.bias), "dtype": dtype}
    return make(p.ic, p.oc, p.kernel, **options)


OURS = {"layer": layer, "function": function}
