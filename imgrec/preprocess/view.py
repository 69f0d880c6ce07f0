"""Which part of a stored picture a model sees, and at what size: batched, on the device.

A store keeps pictures a little larger than the largest input of the models that share it. Evaluation sees
a centre crop; training sees random resized crops, each picture its own draw.

Source: Szegedy et al. 2015, "Going deeper with convolutions" (arXiv:1409.4842), for random resized crops;
Krizhevsky et al. 2012, "ImageNet classification with deep convolutional neural networks", for the centre crop.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

Interpolation = Literal["bilinear", "bicubic"]
MOST_STRETCHED = 4 / 3
# Random crops are read at single points, so what would be reduced further is averaged before.
MOST_REDUCED = 1.5
MARGIN = 8 / 7
"""How much larger a store keeps pictures than the largest input: 256 pixels for 224."""


@dataclass(frozen=True, slots=True)
class View:
    """What a model sees of a stored picture.

    Attributes:
        size: Height and width of the model's input, in pixels.
        crop_ratio: Share of the stored sides that the centre crop of evaluation has.
        interpolation: How that is brought to the size.
    """

    size: tuple[int, int]
    crop_ratio: float = 1.0
    interpolation: Interpolation = "bilinear"


def center_crop(images: Tensor, view: View) -> Tensor:
    """The centre crop of each picture at the size of the view, antialiased.

    Args:
        images: As stored, (B, C, H, W) uint8.
        view: Which part, and how large.

    Returns:
        (B, C, *view.size) uint8; the images themselves where they are all that.
    """
    height, width = (max(1, round(view.crop_ratio * side)) for side in images.shape[2:])
    top, left = (images.shape[2] - height) // 2, (images.shape[3] - width) // 2
    images = images[:, :, top : top + height, left : left + width]
    return _resized(images, view.size, view.interpolation)


def random_resized_crop(
    images: Tensor, size: tuple[int, int], least_area: float, turns: Tensor | None = None
) -> Tensor:
    """A random part of each picture, brought to one size.

    Its area is drawn evenly from least_area to the whole, its proportions evenly on a logarithmic scale from
    3:4 to 4:3 of the picture's own, then its position. What would be longer than the picture ends at its edge.

    Args:
        images: As stored, (B, C, H, W) uint8.
        size: Height and width of what comes out.
        least_area: Share of the picture's area.
        turns: (B,) bool, which parts are mirrored, left and right.

    Returns:
        (B, C, *size) float32, still 0 to 255.
    """
    reduced = max(stored / wanted for stored, wanted in zip(images.shape[2:], size, strict=True))
    if reduced > MOST_REDUCED:
        larger = (round(MARGIN * size[0]), round(MARGIN * size[1]))
        images = _resized(images, larger, "bilinear")
    batch, device = len(images), images.device
    area = torch.empty(batch, device=device).uniform_(least_area, 1.0)
    most = math.log(MOST_STRETCHED)
    stretch = torch.empty(batch, device=device).uniform_(-most, most).exp()
    height = (area / stretch).sqrt().clamp(max=1.0)  # (B,), shares of the sides
    width = (area * stretch).sqrt().clamp(max=1.0)
    # How far the middle of the part is from that of the picture, in half sides.
    y = torch.empty(batch, device=device).uniform_(-1.0, 1.0) * (1 - height)
    x = torch.empty(batch, device=device).uniform_(-1.0, 1.0) * (1 - width)
    if turns is not None:
        width = torch.where(turns, -width, width)
    grid = torch.empty(batch, *size, 2, device=device)
    grid[..., 0] = (x[:, None] + width[:, None] * _middles(size[1], device))[:, None, :]
    grid[..., 1] = (y[:, None] + height[:, None] * _middles(size[0], device))[:, :, None]
    return F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)


def _middles(side: int, device: torch.device) -> Tensor:
    """Where the pixels of a side are, in half sides from its middle."""
    return (2 * torch.arange(side, device=device) + 1) / side - 1


def _resized(images: Tensor, size: tuple[int, int], how: Interpolation) -> Tensor:
    """Images (B, C, H, W) uint8 to the same of another size."""
    if images.shape[2:] == size:
        return images
    if images.device.type == "cpu":
        return F.interpolate(images, size=size, mode=how, antialias=True)
    # Elsewhere bytes are not interpolated.
    levels = F.interpolate(images.float(), size=size, mode=how, antialias=True)
    return levels.round().clamp(0, 255).to(torch.uint8)
