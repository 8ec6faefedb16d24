"""Normalisation layers: scale and shift, running statistics, and one call of the function."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fastconv import functional as F
from fastconv.nn._sizes import positive
from fastconv.nn.module import Module, Parameter, parameter_dtype


def _scale_and_shift(
    layer: Module, shape: tuple[int, ...], dtype: np.dtype, weight: bool, bias: bool
) -> None:
    """Registers `weight` (ones) and `bias` (zeros), or their names where they are not wanted."""
    layer.register_parameter("weight", Parameter(np.ones(shape, dtype)) if weight else None)
    layer.register_parameter("bias", Parameter(np.zeros(shape, dtype)) if bias else None)


class _RunningNorm(Module):
    """Scale, shift and running mean and variance of every channel."""

    _ranks: tuple[int, ...]

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        device: str | None,
        dtype: Any,
        bias: bool,
    ) -> None:
        super().__init__()
        self.num_features = positive(type(self).__name__, "num_features", num_features)
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        dtype = parameter_dtype(dtype, device)
        _scale_and_shift(self, (self.num_features,), dtype, weight=affine, bias=affine and bias)
        statistics = {
            "running_mean": np.zeros(self.num_features, dtype),
            "running_var": np.ones(self.num_features, dtype),
            "num_batches_tracked": np.array(0, np.int64),
        }
        for name, start in statistics.items():
            self.register_buffer(name, start if track_running_stats else None)

    def _judge_rank(self, x: np.ndarray) -> None:
        if x.ndim not in self._ranks:
            expected = " or ".join(f"{rank}-D" for rank in self._ranks)
            raise ValueError(f"{type(self).__name__}: expected {expected} input, got {x.ndim}-D")

    def _with_statistics(
        self, function: Callable[[np.ndarray | None, np.ndarray | None], np.ndarray], update: bool
    ) -> np.ndarray:
        """`function(mean, var)`, which writes into what it gets where `update` says so."""
        mean, var = self._buffers["running_mean"], self._buffers["running_var"]
        if not update:
            return function(mean, var)
        mean, var = mean.copy(), var.copy()
        result = function(mean, var)
        self.running_mean, self.running_var = mean, var
        return result

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_RunningNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: str | None = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        )

    def forward(self, input: np.ndarray) -> np.ndarray:
        x = np.asarray(input)
        self._judge_rank(x)
        tracked = self._buffers["num_batches_tracked"]
        update = self.training and tracked is not None
        momentum = self.momentum
        if momentum is None:
            # The mean of all batches so far, each with the same weight.
            momentum = 1 / (int(tracked) + 1) if update else 0.0
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        from_batch = self.training or tracked is None
        result = self._with_statistics(
            lambda mean, var: F.batch_norm(
                x, mean, var, weight, bias, from_batch, momentum, self.eps
            ),
            update,
        )
        if update:
            self.num_batches_tracked = tracked + 1
        return result


class BatchNorm1d(_BatchNorm):
    """(x - mean) / sqrt(var + eps) * weight + bias, a channel at a time, `fastconv.batch_norm`.

    (N, C) or (N, C, L) -> the same. Training: mean and variance of the batch, while `running_mean`
    and `running_var` move by `momentum` towards them (None: the mean over all batches); `eval()`:
    the running ones. Ioffe and Szegedy, "Batch Normalization" (2015). ValueError for another rank.
    """

    _ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """As BatchNorm1d on images: (N, C, H, W) -> the same."""

    _ranks = (4,)


class BatchNorm3d(_BatchNorm):
    """As BatchNorm1d on volumes: (N, C, D, H, W) -> the same."""

    _ranks = (5,)


class _InstanceNorm(_RunningNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: str | None = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        )

    def forward(self, input: np.ndarray) -> np.ndarray:
        x = np.asarray(input)
        self._judge_rank(x)
        batch = x if x.ndim == max(self._ranks) else x[None]
        if batch.shape[1] != self.num_features:
            raise ValueError(
                f"{type(self).__name__}: expected {self.num_features} channels, got {x.shape}"
            )
        tracking = self._buffers["running_mean"] is not None
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        from_input = self.training or not tracking
        result = self._with_statistics(
            lambda mean, var: F.instance_norm(
                batch, mean, var, weight, bias, from_input, self.momentum or 0.0, self.eps
            ),
            self.training and tracking,
        )
        return result if batch is x else result[0]


class InstanceNorm1d(_InstanceNorm):
    """As BatchNorm1d, with mean and variance of every channel of every sample.

    (N, C, L) or (C, L) -> the same, `fastconv.instance_norm`. Ulyanov, Vedaldi and Lempitsky,
    "Instance Normalization" (2016). ValueError for another rank or number of channels.
    """

    _ranks = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """As InstanceNorm1d on images: (N, C, H, W) or (C, H, W) -> the same."""

    _ranks = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    """As InstanceNorm1d on volumes: (N, C, D, H, W) or (C, D, H, W) -> the same."""

    _ranks = (4, 5)


class GroupNorm(Module):
    """As BatchNorm1d, with mean and variance of every group of channels of every sample.

    (N, C, ...) -> the same, `fastconv.group_norm`. Wu and He, "Group Normalization" (2018).
    ValueError if the channels do not divide into the groups.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: str | None = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_groups = positive("GroupNorm", "num_groups", num_groups)
        self.num_channels = positive("GroupNorm", "num_channels", num_channels)
        if num_channels % num_groups:
            raise ValueError(
                f"GroupNorm: num_channels {num_channels} must be divisible by "
                f"num_groups {num_groups}"
            )
        self.eps = eps
        self.affine = affine
        dtype = parameter_dtype(dtype, device)
        _scale_and_shift(self, (self.num_channels,), dtype, weight=affine, bias=affine and bias)

    def forward(self, input: np.ndarray) -> np.ndarray:
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        return F.group_norm(input, self.num_groups, weight, bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class LayerNorm(Module):
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axes, `fastconv.layer_norm`.

    (..., *normalized_shape) -> the same. Ba, Kiros and Hinton, "Layer Normalization" (2016).
    """

    def __init__(
        self,
        normalized_shape: int | Iterable[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        sizes = normalized_shape if isinstance(normalized_shape, Iterable) else [normalized_shape]
        self.normalized_shape = tuple(positive("LayerNorm", "normalized_shape", s) for s in sizes)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        dtype = parameter_dtype(dtype, device)
        _scale_and_shift(self, self.normalized_shape, dtype,
                         weight=elementwise_affine, bias=elementwise_affine and bias)  # fmt: skip

    def forward(self, input: np.ndarray) -> np.ndarray:
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        return F.layer_norm(input, self.normalized_shape, weight, bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
        )


class LocalResponseNorm(Module):
    """x / (k + alpha * mean of x^2 over `size` neighbouring channels)^beta.

    (N, C, ...) -> the same, `fastconv.local_response_norm`. Krizhevsky, Sutskever and Hinton,
    "ImageNet Classification with Deep Convolutional Neural Networks" (2012), section 3.3, where
    the sum stands in place of the mean.
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, input: np.ndarray) -> np.ndarray:
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
