"""RandAugment and TrivialAugment for a batch in which every picture draws its own change.

torchvision's and kornia's draw one change for the whole batch. Here a batch is sorted by what its
pictures drew, and each change is made once, for all of its pictures, each with its own strength.
The 14 changes and their ranges are those of torchvision.

Source: Cubuk et al. 2020, "RandAugment" (arXiv:1909.13719); Müller & Hutter 2021, "TrivialAugment"
(arXiv:2103.10158).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from imgrec.data.transfer import sent
from imgrec.preprocess.colors import blended, brightness, equalized, mean_brightness

Policy = Literal["none", "randaugment", "trivialaugment"]
Change = Callable[[Tensor, Tensor], Tensor]
"""Images (B, C, H, W) in [0, 1] and signed strengths (B,) in [-1, 1] to images."""

RANDAUGMENT_CHANGES = 2
RANDAUGMENT_STRENGTH = 9 / 30


@dataclass(frozen=True, slots=True)
class Range:
    """How far the strongest change of each kind goes."""

    shear: float
    translate: float  # share of the side
    rotate: float  # degrees
    color: float
    lost_bits: int


RANGES = {
    "randaugment": Range(shear=0.3, translate=150 / 331, rotate=30, color=0.9, lost_bits=4),
    "trivialaugment": Range(shear=0.99, translate=32 / 224, rotate=135, color=0.99, lost_bits=6),
}


def changed(images: Tensor, policy: Policy) -> Tensor:
    """Images (B, C, H, W) float in [0, 1], each with the changes that it drew."""
    if policy == "none":
        return images
    changes = _changes(RANGES[policy])
    if policy == "trivialaugment":
        return _once(images, changes, torch.rand(len(images)))
    for _ in range(RANDAUGMENT_CHANGES):
        images = _once(images, changes, torch.full((len(images),), RANDAUGMENT_STRENGTH))
    return images


def _once(images: Tensor, changes: list[Change], strengths: Tensor) -> Tensor:
    """Each picture through one drawn change."""
    # Drawn on the CPU: to ask a GPU how many pictures drew a change would wait for it.
    drawn = torch.randint(len(changes), (len(images),))
    signed = torch.where(torch.rand(len(images)) < 0.5, -strengths, strengths)
    result = images.clone()
    for number, change in enumerate(changes):
        chosen = (drawn == number).nonzero().squeeze(1)
        if len(chosen):
            places = sent(chosen, images.device)
            own = sent(signed[chosen], images.device)
            result[places] = change(images[places], own)
    return result


def _changes(most: Range) -> list[Change]:
    return [
        lambda images, _: images,
        partial(_warped, shear_x=most.shear),
        partial(_warped, shear_y=most.shear),
        partial(_warped, translate_x=most.translate),
        partial(_warped, translate_y=most.translate),
        partial(_warped, rotate=most.rotate),
        lambda images, s: blended(torch.zeros_like(images), images, 1 + s * most.color),
        lambda images, s: blended(brightness(images), images, 1 + s * most.color),
        lambda images, s: blended(mean_brightness(images), images, 1 + s * most.color),
        lambda images, s: blended(_smooth(images), images, 1 + s * most.color),
        lambda images, s: _posterized(images, (s.abs() * most.lost_bits).round()),
        lambda images, s: torch.where(
            images >= (1 - s.abs()).view(-1, 1, 1, 1), 1 - images, images
        ),
        lambda images, _: _autocontrasted(images),
        lambda images, _: equalized(images),
    ]


def _warped(
    images: Tensor,
    strengths: Tensor,
    *,
    shear_x: float = 0.0,
    shear_y: float = 0.0,
    translate_x: float = 0.0,
    translate_y: float = 0.0,
    rotate: float = 0.0,
) -> Tensor:
    """What leaves the picture is cut off, what comes in is black."""
    angles = strengths * math.radians(rotate)
    cos, sin = angles.cos(), angles.sin()
    aspect = images.shape[2] / images.shape[3]  # the grid counts in half sides
    rows = torch.stack(
        [
            cos,
            (-sin + strengths * shear_x) * aspect,
            -2 * strengths * translate_x,
            (sin + strengths * shear_y) / aspect,
            cos,
            -2 * strengths * translate_y,
        ],
        dim=1,
    )
    grid = F.affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _smooth(images: Tensor) -> Tensor:
    """The picture behind Pillow's sharpness: a weighted mean of 3 x 3, the border as it was."""
    if min(images.shape[2:]) < 3:
        return images
    kernel = torch.full((3, 3), 1 / 13, device=images.device)
    kernel[1, 1] = 5 / 13
    channels = images.shape[1]
    smooth = images.clone()
    smooth[..., 1:-1, 1:-1] = F.conv2d(images, kernel.expand(channels, 1, 3, 3), groups=channels)
    return smooth


def _autocontrasted(images: Tensor) -> Tensor:
    from torchvision.transforms.v2.functional import autocontrast  # noqa: PLC0415 - two seconds

    return autocontrast(images)


def _posterized(images: Tensor, lost_bits: Tensor) -> Tensor:
    steps = (2**lost_bits).view(-1, 1, 1, 1)
    return (images * 255 / steps).floor() * steps / 255
