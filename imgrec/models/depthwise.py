"""A depthwise convolution with a fast gradient of its kernel on a CPU.

oneDNN has a fast kernel gradient for depthwise kernels of up to three columns. Wider ones go through its general code, as
if each channel were sixteen (docs/log.md). So this module computes the gradient of a wide kernel three columns at a time:
the middle column and those d places to its left and right form a kernel of three columns on maps that keep every d-th
column. In channels_last memory, d columns of C channels equal one column of d * C channels, so these maps are a view, not
a copy, if d divides the width.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.backends import mkldnn

FAST, WIDEST = 3, 9
"""Columns of a kernel: the most that oneDNN has a fast gradient of, and the most that `convolve` was measured with."""


def has_onednn() -> bool:
    """Whether torch was built with it, and may use it."""
    return bool(mkldnn.is_available() and mkldnn.enabled)  # type: ignore[no-untyped-call]


def is_narrow(layer: nn.Conv2d) -> bool:
    """Whether oneDNN computes the gradients of a depthwise layer fast, in bf16 as well as in fp32."""
    return layer.stride == layer.dilation == (1, 1) and layer.kernel_size[1] <= FAST


def is_wide(layer: nn.Conv2d, maps: Tensor) -> bool:
    """Whether `convolve` applies to a layer with these maps (B, C, H, W)."""
    side = layer.kernel_size[1]
    return (
        maps.device.type == "cpu"
        and has_onednn()
        and maps.ndim == 4
        and layer.groups == layer.in_channels == layer.out_channels
        and FAST < side <= WIDEST
        and side % 2 == 1
        and layer.kernel_size == (side, side)
        and layer.stride == layer.dilation == (1, 1)
        and layer.padding == (side // 2, side // 2)
        and layer.padding_mode == "zeros"
        and maps.is_contiguous(memory_format=torch.channels_last)
    )


def convolve(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve maps (B, C, H, W) in channels_last to maps of the same shape, with zero padding; follows autocast.

    Args:
        maps: Not yet padded.
        weight: (C, 1, k, k), k odd.
        bias: (C,).
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            return convolve(
                maps.to(dtype), weight.to(dtype), bias if bias is None else bias.to(dtype)
            )
    out: Tensor = _Convolve.apply(maps, weight, bias)  # type: ignore[no-untyped-call]
    return out


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(maps, weight)
        return F.conv2d(maps, weight, bias, padding=weight.shape[2] // 2, groups=len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight = ctx.saved_tensors
        of_maps, of_weight, of_bias = ctx.needs_input_grad
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        return (
            _backward(gradient, maps, weight, of_kernel=False) if of_maps else None,
            kernel_gradient(gradient, maps, weight) if of_weight else None,
            # A sum: for a bias gradient torch makes oneDNN compute the kernel gradient as well.
            gradient.sum(dim=(0, 2, 3)) if of_bias else None,
        )


def kernel_gradient(gradient: Tensor, maps: Tensor, weight: Tensor) -> Tensor:
    """The gradient of a loss with respect to the kernel of `convolve`, (C, 1, k, k).

    Args:
        gradient: With respect to its output, (B, C, H, W), in channels_last.
        maps: Its input.
        weight: Its kernel, (C, 1, k, k); only the shape matters.
    """
    side = weight.shape[3]
    radius = side // 2
    columns = dict[int, Tensor]()
    for distance in range(1, radius + 1):
        kernel = weight.new_empty(distance * len(weight), 1, side, FAST)
        three = _backward(
            _every(distance, gradient), _every(distance, maps), kernel, of_kernel=True
        )
        left, middle, right = three.view(distance, *weight.shape[:3], FAST).sum(0).unbind(3)
        columns |= {-distance: left, distance: right}
        columns.setdefault(0, middle)
    return torch.stack([columns[place] for place in range(-radius, radius + 1)], dim=3)


def _every(distance: int, maps: Tensor) -> Tensor:
    """Maps (B, C, H, W) to (B, distance * C, H, ceil(W / distance)): columns `distance` apart become neighbours."""
    missing = -maps.shape[3] % distance
    if missing:
        maps = F.pad(maps, (0, missing)).contiguous(memory_format=torch.channels_last)
    batch, channels, height, width = maps.shape
    rows = maps.permute(0, 2, 3, 1).reshape(batch, height, width // distance, distance * channels)
    return rows.permute(0, 3, 1, 2)


def _backward(gradient: Tensor, maps: Tensor, weight: Tensor, *, of_kernel: bool) -> Tensor:
    """The gradient with respect to the kernel, or to the maps."""
    channels, _, height, width = weight.shape
    padding, once = [height // 2, width // 2], [1, 1]
    wanted = [not of_kernel, of_kernel, False]
    answer: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        gradient, maps, weight, None, once, padding, once, False, [0, 0], channels, wanted
    )
    return answer[int(of_kernel)]
