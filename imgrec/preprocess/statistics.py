"""What a recipe normalizes with: mean and deviation of the training pictures."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imgrec.config import Filter
from imgrec.data.splits import Indices
from imgrec.data.store import Store
from imgrec.preprocess.filters import filtered
from imgrec.preprocess.recipe import ChannelStatistics
from imgrec.preprocess.view import View, center_crop

MOST_IMAGES = 50_000
MOST_FILTERED = 2048
Floats = npt.NDArray[np.float64]


def channel_statistics(
    store: Store, rows: Indices, view: View, filters: Sequence[Filter] = ()
) -> ChannelStatistics:
    """Of the training pictures as a view shows them and they come out of the filters.

    Without filters they are exact: from a count of all pixel values. Of more than 100,000 pictures every
    n-th is read, 50,000 to 100,000 of them. With filters, which cost more than reading, 2,048 to 4,096
    pictures are used.
    """
    if filters:
        mean, std = _filtered_moments(store, _every_nth(rows, MOST_FILTERED), view, filters)
    else:
        mean, std = _moments(store, _every_nth(rows, MOST_IMAGES), view)
    # Pictures of one single colour have no deviation to divide by.
    return ChannelStatistics(tuple(mean.tolist()), tuple(np.maximum(std, 1 / 255).tolist()))


def _every_nth(rows: Indices, wanted: int) -> Indices:
    return rows[:: max(1, len(rows) // wanted)]


def _seen(store: Store, rows: Indices, view: View) -> Tensor:
    """(B, C, H, W) uint8."""
    return center_crop(torch.from_numpy(store.images[rows]).permute(0, 3, 1, 2), view)


def _moments(store: Store, rows: Indices, view: View) -> tuple[Floats, Floats]:
    channels = store.image_shape[2]
    counts = np.zeros((channels, 256), dtype=np.int64)
    for start in range(0, len(rows), 1024):
        images = _seen(store, rows[start : start + 1024], view).numpy()
        for channel in range(channels):
            counts[channel] += np.bincount(images[:, channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ values
    return mean, np.sqrt(np.maximum(share @ values**2 - mean**2, 0))


def _filtered_moments(
    store: Store, rows: Indices, view: View, filters: Sequence[Filter]
) -> tuple[Floats, Floats]:
    total = torch.zeros(2, store.image_shape[2], dtype=torch.float64)
    for start in range(0, len(rows), 256):
        pixels = _seen(store, rows[start : start + 256], view)
        images = filtered(pixels.float() / 255, filters).double()
        total += torch.stack([images.sum(dim=(0, 2, 3)), images.square().sum(dim=(0, 2, 3))])
    mean, square = (total / (len(rows) * math.prod(view.size))).numpy()
    return mean, np.sqrt(np.maximum(square - mean**2, 0))
