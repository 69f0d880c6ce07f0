"""Operations on colours that take a strength for each picture, and brightness.

Three lines of arithmetic rather than torchvision, which takes two seconds to import.
"""

from functools import cache

import torch
from torch import Tensor

# Rotations of the hue turn around the grey axis of this space, where brightness is the first axis.
TO_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def brightness(images: Tensor) -> Tensor:
    """Images (B, C, H, W) to how bright each pixel is, (B, 1, H, W): ITU-R 601."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images[:, :1], images[:, 1:2], images[:, 2:]
    return 0.299 * red + 0.587 * green + 0.114 * blue


def mean_brightness(images: Tensor) -> Tensor:
    """Images (B, C, H, W) to how bright each is, (B, 1, 1, 1)."""
    return brightness(images).mean(dim=(1, 2, 3), keepdim=True)


def equalized(images: Tensor) -> Tensor:
    """Images (B, C, H, W) in [0, 1] with the values of each channel spread over the whole range."""
    from torchvision.transforms.v2.functional import equalize  # noqa: PLC0415 - two seconds

    return equalize((images * 255).round().to(torch.uint8)).to(images.dtype) / 255


def blended(plain: Tensor, images: Tensor, factors: Tensor) -> Tensor:
    """Images (B, C, H, W) drawn away from a plain version of themselves.

    Factor 0 is the plain version, 1 the picture, above 1 more than that. Against black it is
    brightness, against grey contrast or saturation, against a blur sharpness: Haeberli & Voorhies
    1994, "Image Processing by Interpolation and Extrapolation".
    """
    return torch.lerp(plain, images, factors.view(-1, 1, 1, 1)).clamp(0, 1)


def turned_hue(images: Tensor, angles: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] with the colour circle turned by angles (B,) in radians."""
    to_yiq, from_yiq = _yiq(images.device)
    zero, one = torch.zeros_like(angles), torch.ones_like(angles)
    cos, sin = angles.cos(), angles.sin()
    turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).view(-1, 3, 3)
    matrices = from_yiq @ turn @ to_yiq  # (B, 3, 3)
    return torch.einsum("bij,bjhw->bihw", matrices, images).clamp(0, 1)


@cache
def _yiq(device: torch.device) -> tuple[Tensor, Tensor]:
    """TO_YIQ and its inverse, sent to a device once: a GPU that is asked for an inverse is waited for."""
    to_yiq = torch.tensor(TO_YIQ)
    return to_yiq.to(device), torch.linalg.inv(to_yiq).to(device)
