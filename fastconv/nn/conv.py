"""Convolution layers: a weight, a bias and one call of the function of the same name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from fastconv import _arguments
from fastconv import functional as F
from fastconv.nn._sizes import per_axis, positive
from fastconv.nn.initialisation import kaiming_uniform
from fastconv.nn.module import Module, Parameter, parameter_dtype
from fastconv.nn.weighted import Weighted

# A size is one number or one a spatial axis; a padding may also be (before, after) pairs or a rule.
Size = int | tuple[int, ...]
Padding = int | str | tuple[int, ...] | tuple[tuple[int, int], ...]

_PADDING_RULES = ("valid", "same", "same_lower")


class _ConvNd(Weighted):
    """What all convolution layers share: judged sizes, parameters, text."""

    _axes: int
    _padding_modes: tuple[str, ...]
    transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        layer = type(self).__name__
        self.in_channels = positive(layer, "in_channels", in_channels)
        self.out_channels = positive(layer, "out_channels", out_channels)
        self.groups = positive(layer, "groups", groups)
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) % self.groups:
                raise ValueError(
                    f"{layer}: {name} {getattr(self, name)} must be divisible by groups {groups}"
                )
        for name, value in dict(kernel_size=kernel_size, stride=stride, dilation=dilation).items():
            values = self._per_axis(name, value)
            setattr(self, name, tuple(positive(layer, name, entry) for entry in values))
        if padding_mode not in self._padding_modes:
            raise ValueError(
                f"{layer}: padding_mode must be one of {self._padding_modes}, got {padding_mode!r}"
            )
        self.padding_mode = padding_mode
        if not isinstance(padding, str):
            padding = self._per_axis("padding", padding)
        elif padding not in _PADDING_RULES:
            raise ValueError(
                f"{layer}: padding must be numbers or one of {_PADDING_RULES}, got {padding!r}"
            )
        self.padding = padding
        self._make_parameters(bias, parameter_dtype(dtype, device))

    def _per_axis(self, name: str, value: int | Iterable) -> tuple:
        return per_axis(type(self).__name__, name, value, self._axes)

    def _make_parameters(self, bias: bool, dtype: np.dtype) -> None:
        channels = (self.out_channels, self.in_channels)
        if self.transposed:
            channels = channels[::-1]
        shape = (channels[0], channels[1] // self.groups, *self.kernel_size)
        # torch.nn takes the second axis of the weight as inputs, for transposed convolution too.
        fan_in = math.prod(shape[1:])
        self.weight = Parameter(kaiming_uniform(shape, fan_in, dtype))
        values = Parameter(kaiming_uniform((self.out_channels,), fan_in, dtype)) if bias else None
        self.register_parameter("bias", values)

    def _run(self, x: np.ndarray, padding: Padding, output_padding: Size) -> np.ndarray:
        """The function of the layer's name."""
        state = self.__dict__
        return self._enter(
            x,
            (state["stride"], padding, output_padding, state["dilation"], state["groups"],
             None, None, None, None),
        )  # fmt: skip

    def _judged(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, options: tuple) -> tuple:
        return _arguments.convolution(
            self._op, self._axes, self.transposed, x, weight, bias, *options
        )

    def _shown(self) -> dict[str, Any]:
        """What the repr shows after the stride, with the values it leaves out."""
        none, ones = (0,) * self._axes, (1,) * self._axes
        return {
            "padding": none,
            "dilation": ones,
            "output_padding": none,
            "groups": 1,
            "padding_mode": "zeros",
        }

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        text += f", stride={self.stride}"
        for name, default in self._shown().items():
            value = getattr(self, name, default)
            if value != default:
                text += f", {name}={value}"
            if name == "groups" and self._parameters["bias"] is None:
                text += ", bias=False"
        return text


class _Conv(_ConvNd):
    _padding_modes = ("zeros", "reflect", "replicate", "circular")

    def forward(self, input: np.ndarray) -> np.ndarray:
        state = self.__dict__
        if state["padding_mode"] != "zeros":
            return self._run(self._padded(input), 0, 0)
        return self._run(input, state["padding"], 0)

    def _padded(self, x: np.ndarray) -> np.ndarray:
        """x continued by `padding_mode`. F.pad counts axes from the last, two numbers each."""
        x = np.asarray(x)
        pairs = self._pairs(x.shape[-self._axes :])
        if not any(map(any, pairs)):
            return x
        return F.pad(x, [side for pair in reversed(pairs) for side in pair], self.padding_mode)

    def _pairs(self, size: tuple[int, ...]) -> list[tuple[int, int]]:
        """(before, after) of each axis of an image of this size."""
        if not isinstance(self.padding, str):
            return [tuple(p) if isinstance(p, Iterable) else (p, p) for p in self.padding]
        if self.padding == "valid":
            return [(0, 0)] * self._axes
        pairs = []
        for length, k, s, d in zip(size, self.kernel_size, self.stride, self.dilation, strict=True):
            # So much that there are ceil(length / s) outputs.
            total = max(0, (-(-length // s) - 1) * s + d * (k - 1) + 1 - length)
            less, more = total // 2, total - total // 2
            pairs.append((less, more) if self.padding == "same" else (more, less))
        return pairs


class Conv1d(_Conv):
    """1-D convolution, `fastconv.conv1d`: (N, C, L) -> (N, O, OL), unbatched (C, L) -> (O, OL).

    `weight` is (O, C / groups, K), `bias` (O,) or None; float32 unless `dtype` is float64,
    drawn from U(-b, b), b = 1 / sqrt(C / groups * K) (see `kaiming_uniform`). `padding` is a
    number, one an axis, a (before, after) pair an axis, "valid", "same" or "same_lower";
    `padding_mode` is "zeros", "reflect", "replicate" or "circular".
    TypeError for sizes that are no integers, ValueError for values out of range.
    """

    _axes = 1
    _op = "conv1d"


class Conv2d(_Conv):
    """2-D convolution, `fastconv.conv2d`: (N, C, H, W) -> (N, O, OH, OW), or without N.

    `weight` is (O, C / groups, KH, KW); the rest is as in Conv1d.
    """

    _axes = 2
    _op = "conv2d"


class Conv3d(_Conv):
    """3-D convolution, `fastconv.conv3d`: (N, C, D, H, W) -> (N, O, OD, OH, OW), or without N.

    `weight` is (O, C / groups, KD, KH, KW); the rest is as in Conv1d.
    """

    _axes = 3
    _op = "conv3d"


class _ConvTranspose(_ConvNd):
    transposed = True
    _padding_modes = ("zeros",)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        if isinstance(padding, str):
            raise TypeError(f"{type(self).__name__}: padding must be numbers, got {padding!r}")
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups,
                         bias, padding_mode, device, dtype)  # fmt: skip
        self.output_padding = self._per_axis("output_padding", output_padding)

    def forward(self, input: np.ndarray, output_size: Iterable[int] | None = None) -> np.ndarray:
        """`output_size`, the spatial one or the whole shape, replaces `output_padding`."""
        extra = self.output_padding
        if output_size is not None:
            extra = self._output_padding(np.shape(input), tuple(output_size))
        return self._run(input, self.padding, extra)

    def _output_padding(self, shape: tuple[int, ...], size: tuple[int, ...]) -> tuple[int, ...]:
        """What makes an input of this shape give the size; it lies in [0, stride) an axis."""
        layer, axes = type(self).__name__, self._axes
        if len(size) == len(shape):
            size = size[-axes:]
        if len(size) != axes or len(shape) < axes:
            raise ValueError(f"{layer}: output_size must have {axes} entries, got {size}")
        least = [
            (length - 1) * s - 2 * p + d * (k - 1) + 1
            for length, k, s, p, d in zip(
                shape[-axes:], self.kernel_size, self.stride, self.padding, self.dilation,
                strict=True,
            )
        ]  # fmt: skip
        extra = tuple(want - low for want, low in zip(size, least, strict=True))
        if not all(0 <= e < s for e, s in zip(extra, self.stride, strict=True)):
            most = [low + s - 1 for low, s in zip(least, self.stride, strict=True)]
            raise ValueError(f"{layer}: output_size must lie in {least} to {most}, got {size}")
        return extra


class ConvTranspose1d(_ConvTranspose):
    """1-D transposed convolution, `fastconv.conv_transpose1d`: (N, C, L) -> (N, O, OL), or
    without N; OL = (L - 1) * stride - 2 * padding + dilation * (K - 1) + output_padding + 1.

    `weight` is (C, O / groups, K), `bias` (O,) or None; float32 unless `dtype` is float64,
    drawn from U(-b, b), b = 1 / sqrt(O / groups * K) (see `kaiming_uniform`).
    TypeError for sizes that are no integers, ValueError for values out of range.
    """

    _axes = 1
    _op = "conv_transpose1d"


class ConvTranspose2d(_ConvTranspose):
    """2-D transposed convolution, `fastconv.conv_transpose2d`: (N, C, H, W) -> (N, O, OH, OW).

    `weight` is (C, O / groups, KH, KW); the rest is as in ConvTranspose1d.
    """

    _axes = 2
    _op = "conv_transpose2d"


class ConvTranspose3d(_ConvTranspose):
    """3-D transposed convolution, `fastconv.conv_transpose3d`: (N, C, D, H, W) -> 5-D likewise.

    `weight` is (C, O / groups, KD, KH, KW); the rest is as in ConvTranspose1d.
    """

    _axes = 3
    _op = "conv_transpose3d"


class DepthwiseSeparableConv2d(Module):
    """A filter for each channel, then a 1x1 convolution across channels, and nothing between.

    (N, C, H, W) -> (N, O, OH, OW) with C * KH * KW + C * O weights where a full convolution has
    C * O * KH * KW. Two layers: `depthwise`, which takes the kernel, stride, padding and dilation,
    and `pointwise`. Chollet, "Xception" (2017). Errors are those of Conv2d.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        common = dict(bias=bias, device=device, dtype=dtype)
        sizes = (kernel_size, stride, padding, dilation)
        self.depthwise = Conv2d(
            in_channels, in_channels, *sizes, in_channels, padding_mode=padding_mode, **common
        )
        self.pointwise = Conv2d(in_channels, out_channels, 1, **common)

    def forward(self, input: np.ndarray) -> np.ndarray:
        return self.pointwise(self.depthwise(input))
