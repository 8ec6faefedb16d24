"""Linear, Identity and the dropout layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import _arguments
from fastconv import functional as F
from fastconv.nn._sizes import positive
from fastconv.nn.initialisation import kaiming_uniform
from fastconv.nn.module import Module, Parameter, parameter_dtype
from fastconv.nn.weighted import Weighted


class Identity(Module):
    """Returns its input; takes any arguments, so that it can stand in for any layer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Any) -> Any:
        return input


class Linear(Weighted):
    """x @ weight.T + bias, `fastconv.linear`: (..., in_features) -> (..., out_features).

    `weight` is (out_features, in_features), `bias` (out_features,) or None; both float32 unless
    `dtype` is float64, both drawn from U(-b, b), b = 1 / sqrt(in_features) (`kaiming_uniform`).
    """

    _op = "linear"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_features = positive("Linear", "in_features", in_features)
        self.out_features = positive("Linear", "out_features", out_features)
        dtype = parameter_dtype(dtype, device)
        shape = (self.out_features, self.in_features)
        self.weight = Parameter(kaiming_uniform(shape, self.in_features, dtype))
        values = Parameter(kaiming_uniform(shape[:1], self.in_features, dtype)) if bias else None
        self.register_parameter("bias", values)

    def forward(self, input: np.ndarray) -> np.ndarray:
        return self._enter(input, ())

    def _judged(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, options: tuple) -> tuple:
        return _arguments.linear(self._op, x, weight, bias)

    def extra_repr(self) -> str:
        bias = self._parameters["bias"] is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={bias}"


class Dropout(Module):
    """Training: zero with probability p, else x / (1 - p); `eval()`: x. `fastconv.dropout`.

    With `inplace` the result is written into the input.
    Srivastava et al., "Dropout" (2014). ValueError if p is not in [0, 1].
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"{type(self).__name__}: p must lie in [0, 1], got {p}")
        self.p = p
        self.inplace = inplace

    def forward(self, input: np.ndarray) -> np.ndarray:
        return F.dropout(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class _ChannelDropout(Dropout):
    _axes: int

    def forward(self, input: np.ndarray) -> np.ndarray:
        x = np.asarray(input)
        if x.ndim not in (self._axes + 1, self._axes + 2):
            raise ValueError(
                f"{type(self).__name__}: expected {self._axes + 1}-D or {self._axes + 2}-D input, "
                f"got {x.ndim}-D"
            )
        if not self.training:
            return x
        one_a_channel = np.ones(x.shape[: -self._axes] + (1,) * self._axes, x.dtype)
        return np.multiply(x, F.dropout(one_a_channel, self.p), out=x if self.inplace else None)


class Dropout1d(_ChannelDropout):
    """As Dropout, but whole channels: (N, C, L) or (C, L) -> the same."""

    _axes = 1


class Dropout2d(_ChannelDropout):
    """As Dropout, but whole channels: (N, C, H, W) or (C, H, W) -> the same.

    Tompson et al., "Efficient Object Localization Using Convolutional Networks" (2015).
    """

    _axes = 2


class Dropout3d(_ChannelDropout):
    """As Dropout, but whole channels: (N, C, D, H, W) or (C, D, H, W) -> the same."""

    _axes = 3
