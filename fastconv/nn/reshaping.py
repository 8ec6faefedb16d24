"""Layers that change shapes and sizes: flatten, up-sample, shuffle, unfold."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from fastconv import functional as F
from fastconv.nn._sizes import positive
from fastconv.nn.module import Module

Size = int | tuple[int, ...]


def _axis(layer: str, name: str, axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise IndexError(f"{layer}: {name} {axis} is no axis of a {rank}-D input")
    return axis % rank


class Flatten(Module):
    """Makes one axis of the axes `start_dim` to `end_dim`: (N, C, H, W) -> (N, C * H * W).

    IndexError for an axis the input does not have, ValueError if the end comes before the start.
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: np.ndarray) -> np.ndarray:
        x = np.asarray(input)
        first = _axis("Flatten", "start_dim", self.start_dim, x.ndim)
        last = _axis("Flatten", "end_dim", self.end_dim, x.ndim)
        if last < first:
            raise ValueError(f"Flatten: end_dim {self.end_dim} lies before {self.start_dim}")
        middle = math.prod(x.shape[first : last + 1])
        return x.reshape(*x.shape[:first], middle, *x.shape[last + 1 :])

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Makes axes of the sizes `unflattened_size`, one of which may be -1, of the axis `dim`.

    IndexError for an axis the input does not have, ValueError for sizes that do not fit it.
    """

    def __init__(self, dim: int, unflattened_size: Iterable[int]) -> None:
        super().__init__()
        self.dim = dim
        self.unflattened_size = tuple(unflattened_size)

    def forward(self, input: np.ndarray) -> np.ndarray:
        x = np.asarray(input)
        axis = _axis("Unflatten", "dim", self.dim, x.ndim)
        sizes = list(self.unflattened_size)
        if sizes.count(-1) == 1:
            known = -math.prod(sizes)
            sizes[sizes.index(-1)] = x.shape[axis] // known if known else 0
        if min(sizes, default=0) < 0 or math.prod(sizes) != x.shape[axis]:
            raise ValueError(
                f"Unflatten: axis {self.dim} of {x.shape} does not make {self.unflattened_size}"
            )
        return x.reshape(*x.shape[:axis], *sizes, *x.shape[axis + 1 :])

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


class Upsample(Module):
    """Resizes images, `fastconv.interpolate`: (N, C, ...) to `size`, or by `scale_factor`."""

    def __init__(
        self,
        size: Size | None = None,
        scale_factor: float | tuple[float, ...] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        super().__init__()
        self.size = size
        if isinstance(scale_factor, Iterable):
            scale_factor = tuple(map(float, scale_factor))
        self.scale_factor = float(scale_factor) if np.isscalar(scale_factor) else scale_factor
        self.mode = mode
        self.align_corners = align_corners
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, input: np.ndarray) -> np.ndarray:
        return F.interpolate(
            input, self.size, self.scale_factor, self.mode, self.align_corners,
            self.recompute_scale_factor,
        )  # fmt: skip

    def extra_repr(self) -> str:
        name = "size" if self.scale_factor is None else "scale_factor"
        return f"{name}={getattr(self, name)}, mode={self.mode!r}"


class PixelShuffle(Module):
    """(N, C * r * r, H, W) -> (N, C, H * r, W * r), `fastconv.pixel_shuffle`.

    Shi et al., "Real-Time Single Image and Video Super-Resolution" (2016).
    """

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = positive("PixelShuffle", "upscale_factor", upscale_factor)

    def forward(self, input: np.ndarray) -> np.ndarray:
        return F.pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """(N, C, H * r, W * r) -> (N, C * r * r, H, W), `fastconv.pixel_unshuffle`."""

    def __init__(self, downscale_factor: int) -> None:
        super().__init__()
        self.downscale_factor = positive("PixelUnshuffle", "downscale_factor", downscale_factor)

    def forward(self, input: np.ndarray) -> np.ndarray:
        return F.pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"


class ChannelShuffle(Module):
    """Deals the channels of `groups` groups round, `fastconv.channel_shuffle`.

    (N, C, ...) -> the same. Zhang et al., "ShuffleNet" (2018).
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = positive("ChannelShuffle", "groups", groups)

    def forward(self, input: np.ndarray) -> np.ndarray:
        return F.channel_shuffle(input, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


class _Windows(Module):
    def __init__(
        self, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.padding = padding
        self.stride = stride

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, "
            f"stride={self.stride}"
        )


class Unfold(_Windows):
    """The windows of images as columns, `fastconv.unfold`: -> (N, C * KH * KW, OH * OW)."""

    def forward(self, input: np.ndarray) -> np.ndarray:
        return F.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)


class Fold(_Windows):
    """Adds columns up where Unfold took them from, `fastconv.fold`: -> (N, C, *output_size)."""

    def __init__(
        self,
        output_size: Size,
        kernel_size: Size,
        dilation: Size = 1,
        padding: Size = 0,
        stride: Size = 1,
    ) -> None:
        super().__init__(kernel_size, dilation, padding, stride)
        self.output_size = output_size

    def forward(self, input: np.ndarray) -> np.ndarray:
        return F.fold(
            input, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride
        )

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, {super().extra_repr()}"
