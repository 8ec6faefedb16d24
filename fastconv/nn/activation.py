"""Activation layers: one call of the function of the same name each, any shape in and out.

With `inplace=True` the result is written into the input, which is returned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastconv import functional as F
from fastconv.nn._sizes import positive
from fastconv.nn.module import Module, Parameter, parameter_dtype


class _Plain(Module):
    """An activation without arguments."""

    _function: Callable[[np.ndarray], np.ndarray]

    def forward(self, input: np.ndarray) -> np.ndarray:
        return self._function(input)


class _MaybeInplace(_Plain):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: np.ndarray) -> np.ndarray:
        return self._function(input, self.inplace)

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


class ReLU(_MaybeInplace):
    """max(x, 0), `fastconv.relu`."""

    _function = staticmethod(F.relu)


class ReLU6(_MaybeInplace):
    """min(max(x, 0), 6), `fastconv.relu6`."""

    _function = staticmethod(F.relu6)


class SiLU(_MaybeInplace):
    """x * sigmoid(x), `fastconv.silu`."""

    _function = staticmethod(F.silu)


class Hardsigmoid(_MaybeInplace):
    """min(max(x + 3, 0), 6) / 6, `fastconv.hardsigmoid`."""

    _function = staticmethod(F.hardsigmoid)


class Hardswish(_MaybeInplace):
    """x * min(max(x + 3, 0), 6) / 6, `fastconv.hardswish`. Howard et al., MobileNetV3 (2019)."""

    _function = staticmethod(F.hardswish)


class Sigmoid(_Plain):
    """1 / (1 + exp(-x)), `fastconv.sigmoid`."""

    _function = staticmethod(F.sigmoid)


class Tanh(_Plain):
    """tanh(x), `fastconv.tanh`."""

    _function = staticmethod(F.tanh)


class LeakyReLU(Module):
    """x where x > 0, else negative_slope * x, `fastconv.leaky_relu`."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        self.inplace = inplace

    def forward(self, input: np.ndarray) -> np.ndarray:
        return F.leaky_relu(input, self.negative_slope, self.inplace)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}" + ", inplace=True" * self.inplace


class ELU(Module):
    """x where x > 0, else alpha * (exp(x) - 1), `fastconv.elu`. Clevert et al. (2015)."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha = alpha
        self.inplace = inplace

    def forward(self, input: np.ndarray) -> np.ndarray:
        return F.elu(input, self.alpha, self.inplace)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}" + ", inplace=True" * self.inplace


class PReLU(Module):
    """x where x > 0, else weight * x, `fastconv.prelu`: (N, C, ...) -> the same.

    `weight` has one slope for all channels, or `num_parameters` = C of them, all `init` at first.
    He, Zhang, Ren and Sun, "Delving Deep into Rectifiers" (2015).
    """

    def __init__(
        self,
        num_parameters: int = 1,
        init: float = 0.25,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.num_parameters = positive("PReLU", "num_parameters", num_parameters)
        self.init = init
        dtype = parameter_dtype(dtype, device)
        self.weight = Parameter(np.full(self.num_parameters, init, dtype))

    def forward(self, input: np.ndarray) -> np.ndarray:
        return F.prelu(input, self._parameters["weight"])

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class GELU(Module):
    """x * P(X < x) for standard normal X, `fastconv.gelu`. Hendrycks and Gimpel (2016).

    `approximate` is "none" or "tanh".
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: np.ndarray) -> np.ndarray:
        return F.gelu(input, approximate=self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class Softplus(Module):
    """log(1 + exp(beta * x)) / beta, and x where beta * x > threshold, `fastconv.softplus`."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta = beta
        self.threshold = threshold

    def forward(self, input: np.ndarray) -> np.ndarray:
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class _AlongAxis(_Plain):
    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: np.ndarray) -> np.ndarray:
        return self._function(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmax(_AlongAxis):
    """exp(x) divided by its sum along axis `dim`, `fastconv.softmax`."""

    _function = staticmethod(F.softmax)


class LogSoftmax(_AlongAxis):
    """The logarithm of Softmax, `fastconv.log_softmax`."""

    _function = staticmethod(F.log_softmax)
