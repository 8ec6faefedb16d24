"""Pooling layers: their arguments and one call of the function of the same name."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from fastconv import functional as F
from fastconv.nn._sizes import per_axis
from fastconv.nn.module import Module

Size = int | tuple[int, ...]


class _Pool(Module):
    """What all pooling layers share. The function judges the sizes when it is called."""

    _function: Callable[..., np.ndarray]
    _shown: tuple[str, ...]

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)}" for name in self._shown)


class _MaxPool(_Pool):
    _shown = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def forward(self, input: np.ndarray) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        return self._function(
            input, self.kernel_size, self.stride, self.padding, self.dilation,
            ceil_mode=self.ceil_mode, return_indices=self.return_indices,
        )  # fmt: skip


class MaxPool1d(_MaxPool):
    """Maximum over windows, `fastconv.max_pool1d`: (N, C, L) -> (N, C, OL), or without N.

    `stride=None` means `kernel_size`. With `return_indices` the result is (values, indices).
    """

    _function = staticmethod(F.max_pool1d)


class MaxPool2d(_MaxPool):
    """As MaxPool1d on images, `fastconv.max_pool2d`: (N, C, H, W) -> (N, C, OH, OW)."""

    _function = staticmethod(F.max_pool2d)


class MaxPool3d(_MaxPool):
    """As MaxPool1d on volumes, `fastconv.max_pool3d`: (N, C, D, H, W) -> (N, C, OD, OH, OW)."""

    _function = staticmethod(F.max_pool3d)


class _MaxUnpool(_Pool):
    _axes: int
    _shown = ("kernel_size", "stride", "padding")

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> None:
        super().__init__()
        stride = kernel_size if stride is None else stride
        for name, value in dict(kernel_size=kernel_size, stride=stride, padding=padding).items():
            setattr(self, name, per_axis(type(self).__name__, name, value, self._axes))

    def forward(
        self, input: np.ndarray, indices: np.ndarray, output_size: Iterable[int] | None = None
    ) -> np.ndarray:
        return self._function(
            input, indices, self.kernel_size, self.stride, self.padding, output_size
        )


class MaxUnpool1d(_MaxUnpool):
    """Puts maxima back where they came from and zeros elsewhere, `fastconv.max_unpool1d`.

    (N, C, L) and the indices of MaxPool1d -> (N, C, OL). `output_size` in the call resolves what
    the stride leaves open. IndexError for indices outside the output.
    """

    _axes = 1
    _function = staticmethod(F.max_unpool1d)


class MaxUnpool2d(_MaxUnpool):
    """As MaxUnpool1d on images, `fastconv.max_unpool2d`."""

    _axes = 2
    _function = staticmethod(F.max_unpool2d)


class MaxUnpool3d(_MaxUnpool):
    """As MaxUnpool1d on volumes, `fastconv.max_unpool3d`."""

    _axes = 3
    _function = staticmethod(F.max_unpool3d)


class AvgPool1d(_Pool):
    """Mean over windows, `fastconv.avg_pool1d`: (N, C, L) -> (N, C, OL), or without N.

    `stride=None` means `kernel_size`. `count_include_pad` says whether padded zeros count.
    """

    _shown = ("kernel_size", "stride", "padding")

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        stride = kernel_size if stride is None else stride
        for name, value in dict(kernel_size=kernel_size, stride=stride, padding=padding).items():
            setattr(self, name, per_axis(type(self).__name__, name, value, 1))
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad

    def forward(self, input: np.ndarray) -> np.ndarray:
        return F.avg_pool1d(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode,
            self.count_include_pad,
        )  # fmt: skip


class _AvgPool(_Pool):
    _shown = ("kernel_size", "stride", "padding")

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def forward(self, input: np.ndarray) -> np.ndarray:
        return self._function(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode,
            self.count_include_pad, self.divisor_override,
        )  # fmt: skip


class AvgPool2d(_AvgPool):
    """As AvgPool1d on images, `fastconv.avg_pool2d`: (N, C, H, W) -> (N, C, OH, OW).

    `divisor_override` replaces the number of elements the sum is divided by.
    """

    _function = staticmethod(F.avg_pool2d)


class AvgPool3d(_AvgPool):
    """As AvgPool2d on volumes, `fastconv.avg_pool3d`: (N, C, D, H, W) -> (N, C, OD, OH, OW)."""

    _function = staticmethod(F.avg_pool3d)


class _LPPool(_Pool):
    _shown = ("norm_type", "kernel_size", "stride", "ceil_mode")

    def __init__(
        self,
        norm_type: float,
        kernel_size: Size,
        stride: Size | None = None,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.norm_type = norm_type
        self.kernel_size = kernel_size
        self.stride = stride
        self.ceil_mode = ceil_mode

    def forward(self, input: np.ndarray) -> np.ndarray:
        return self._function(input, self.norm_type, self.kernel_size, self.stride, self.ceil_mode)


class LPPool1d(_LPPool):
    """(sum of x^p)^(1/p) over windows, p = `norm_type`, `fastconv.lp_pool1d`: -> (N, C, OL)."""

    _function = staticmethod(F.lp_pool1d)


class LPPool2d(_LPPool):
    """As LPPool1d on images, `fastconv.lp_pool2d`."""

    _function = staticmethod(F.lp_pool2d)


class LPPool3d(_LPPool):
    """As LPPool1d on volumes, `fastconv.lp_pool3d`."""

    _function = staticmethod(F.lp_pool3d)


class _AdaptiveAvgPool(_Pool):
    _shown = ("output_size",)

    def __init__(self, output_size: int | None | tuple[int | None, ...]) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: np.ndarray) -> np.ndarray:
        return self._function(input, self.output_size)


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """Mean over `output_size` windows that cover the axis, `fastconv.adaptive_avg_pool1d`.

    Window i runs from floor(i * L / OL) to ceil((i + 1) * L / OL).
    """

    _function = staticmethod(F.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """As AdaptiveAvgPool1d on images; None keeps an axis. `fastconv.adaptive_avg_pool2d`."""

    _function = staticmethod(F.adaptive_avg_pool2d)


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """As AdaptiveAvgPool2d on volumes, `fastconv.adaptive_avg_pool3d`."""

    _function = staticmethod(F.adaptive_avg_pool3d)


class _AdaptiveMaxPool(_Pool):
    _shown = ("output_size",)

    def __init__(
        self, output_size: int | None | tuple[int | None, ...], return_indices: bool = False
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.return_indices = return_indices

    def forward(self, input: np.ndarray) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        return self._function(input, self.output_size, self.return_indices)


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """Maximum over the windows of AdaptiveAvgPool1d, `fastconv.adaptive_max_pool1d`.

    With `return_indices` the result is (values, indices).
    """

    _function = staticmethod(F.adaptive_max_pool1d)


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """As AdaptiveMaxPool1d on images; None keeps an axis. `fastconv.adaptive_max_pool2d`."""

    _function = staticmethod(F.adaptive_max_pool2d)


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """As AdaptiveMaxPool2d on volumes, `fastconv.adaptive_max_pool3d`."""

    _function = staticmethod(F.adaptive_max_pool3d)
