"""Filters as batched operations on the device: images (B, C, H, W) float in [0, 1], to the same.

torchvision's blur is eight times faster on a CPU than kornia's; kornia has the others but for
non-local means, which no library has for batches.
"""

from collections.abc import Callable, Sequence
from typing import assert_never

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from imgrec.config import Filter, ImageShape
from imgrec.config.filters import (
    Bilateral,
    Clahe,
    Equalize,
    Gaussian,
    Grey,
    Median,
    NonLocalMeans,
    Unsharp,
)
from imgrec.errors import ConfigError
from imgrec.preprocess.colors import brightness, equalized

PACKAGES = {
    "gaussian": "torchvision",
    "unsharp": "torchvision",
    "equalize": "torchvision",
    "median": "kornia",
    "bilateral": "kornia",
    "clahe": "kornia",
}
"""What a filter needs beside torch; a served model brings it along."""
# Floats that the neighbourhoods of all pixels may take at once: 64 MiB.
MOST_NEIGHBOURS = 1 << 24


def filtered(images: Tensor, filters: Sequence[Filter]) -> Tensor:
    """Images (B, C, H, W) float in [0, 1] through all filters, one after the other."""
    for chosen in filters:
        images = _filtered(images, chosen).clamp(0, 1)
    return images


def refuse_too_small(filters: Sequence[Filter], image_shape: ImageShape) -> None:
    """Raise ConfigError where a filter reaches further than the pictures do."""
    side = min(image_shape[:2])
    for chosen in filters:
        if chosen.reach >= side:
            msg = (
                f"preprocess.filters: {chosen.filter} as it is set needs pictures of more than "
                f"{chosen.reach} pixels a side, and these have {side}"
            )
            raise ConfigError(msg)


def _filtered(images: Tensor, chosen: Filter) -> Tensor:  # noqa: PLR0911 - one for each
    # Libraries are imported where they are used: torchvision takes two seconds, kornia half a one.
    match chosen:
        case Gaussian(sigma=sigma):
            return _blurred(images, sigma, chosen.reach)
        case Median(size=size):
            return _in_parts(lambda part: _median(part, size), images, size**2)
        case Bilateral(size=size, sigma_color=sigma_color, sigma=sigma):
            from kornia.filters import bilateral_blur  # noqa: PLC0415

            return _in_parts(
                lambda part: bilateral_blur(part, size, sigma_color, (sigma, sigma)),
                images,
                size**2,
            )
        case NonLocalMeans():
            return _non_local_means(images, chosen)
        case Unsharp(sigma=sigma, amount=amount):
            return images + amount * (images - _blurred(images, sigma, chosen.reach))
        case Equalize():
            return equalized(images)
        case Clahe(clip=clip):
            from kornia.enhance import equalize_clahe  # noqa: PLC0415

            tiles = chosen.tiles_of(min(images.shape[-2:]))
            return equalize_clahe(images.contiguous(), clip, (tiles, tiles))
        case Grey():
            return brightness(images).expand_as(images)
        case _:
            assert_never(chosen)


def _blurred(images: Tensor, sigma: float, reach: int) -> Tensor:
    from torchvision.transforms.v2.functional import gaussian_blur  # noqa: PLC0415

    return gaussian_blur(images, [2 * reach + 1] * 2, [sigma] * 2)


def _median(images: Tensor, size: int) -> Tensor:
    """With edges repeated: kornia's own border is black, which eats corners."""
    from kornia.filters import median_blur  # noqa: PLC0415

    reach = size // 2
    padded = F.pad(images, [reach] * 4, mode="replicate")
    return median_blur(padded, size)[..., reach:-reach, reach:-reach]


def _in_parts(work: Callable[[Tensor], Tensor], images: Tensor, neighbours: int) -> Tensor:
    """Work on as many images at a time as the memory for their neighbourhoods allows."""
    at_once = max(1, MOST_NEIGHBOURS // (neighbours * images[0].numel()))
    return torch.cat([work(part) for part in torch.split(images, at_once)])


def _non_local_means(images: Tensor, how: NonLocalMeans) -> Tensor:
    """Each pixel as the mean of those in its window, by how alike the patches around both are.

    A loop over the window's places, each for all pixels of all images at once.
    """
    reach, half = how.size // 2, how.patch // 2
    height, width = images.shape[2:]
    padded = F.pad(images, [reach + half] * 4, mode="reflect")
    centre = padded[..., reach : reach + height + 2 * half, reach : reach + width + 2 * half]
    total = torch.zeros_like(images)
    weights = torch.zeros_like(images[:, :1])
    for dy in range(how.size):
        for dx in range(how.size):
            other = padded[..., dy : dy + height + 2 * half, dx : dx + width + 2 * half]
            squares = (other - centre).square().mean(dim=1, keepdim=True)
            distance = F.avg_pool2d(squares, how.patch, stride=1)  # (B, 1, H, W)
            weight = (-distance / how.strength**2).exp()
            total += weight * other[..., half : half + height, half : half + width]
            weights += weight
    return total / weights
