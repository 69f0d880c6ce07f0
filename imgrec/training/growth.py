"""Pictures that grow during training.

What a network learns first it can learn from small pictures, of which it sees several in the time of a
whole one. The last part of training, on whole pictures, makes it fit to them.

Source: Howard 2018, "progressive resizing" (fast.ai's DAWNBench entry); Touvron et al. 2019, "Fixing the
train-test resolution discrepancy" (arXiv:1906.06423), on why the last part must be at the full size.
"""

import math

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

WHOLE_FROM = 0.6
"""Share of the steps after which pictures are whole."""
STEPS_TO_WHOLE = 4
"""Sizes are multiples of this part of the whole, so that there are few of them."""
LEAST_SIDE = 16


def share_of_side(start: float, progress: float, side: int) -> float:
    """What share of their side pictures have.

    Args:
        start: The share at the first step.
        progress: Share of the steps that are done.
        side: The shorter one of whole pictures, in pixels.
    """
    least = min(1.0, max(start, LEAST_SIDE / side))
    grown = least + (1 - least) * progress / WHOLE_FROM
    # The last of the sizes that is not larger. What is computed may be a hair below what it is.
    passed = math.floor(grown * STEPS_TO_WHOLE + 1e-9) / STEPS_TO_WHOLE
    return min(1.0, max(least, passed))


def resized(images: Tensor, share: float) -> Tensor:
    """Model input (B, C, H, W) to the same with sides of this share, averaged over what is left out."""
    if share >= 1:
        return images
    height, width = (round(share * side) for side in images.shape[2:])
    return F.interpolate(
        images, size=(height, width), mode="bilinear", antialias=True, align_corners=False
    )
