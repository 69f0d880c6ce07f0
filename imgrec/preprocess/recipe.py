"""What happens to pictures on the device, before the model: the same module in training and serving.

uint8 in, normalized float out. It refuses anything that is not uint8, so nothing is scaled twice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from imgrec.config import Filter
from imgrec.data.splits import Indices
from imgrec.data.store import Store
from imgrec.preprocess.augment import (
    NO_AUGMENTATION,
    Augmentation,
    erased,
    moved,
    recolored,
    warped,
)
from imgrec.preprocess.filters import filtered
from imgrec.preprocess.policy import changed

MOST_IMAGES_FOR_STATISTICS = 50_000
MOST_FILTERED = 2048
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """Mean and standard deviation of each channel, in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def channel_statistics(
    store: Store, rows: Indices, filters: Sequence[Filter] = ()
) -> ChannelStatistics:
    """Of the training pictures as they come out of the filters.

    Without filters from an exact count of all pixel values. Above 100,000 pictures, of every n-th so
    that 50,000 to 100,000 are read: a large store need not be read from end to end for two numbers
    a channel. Filters cost more than reading, so behind them 2,048 to 4,096 pictures must do.
    """
    if filters:
        mean, std = _filtered_moments(store, _every_nth(rows, MOST_FILTERED), filters)
    else:
        mean, std = _moments(store, _every_nth(rows, MOST_IMAGES_FOR_STATISTICS))
    # Pictures of one single colour have no deviation to divide by.
    return ChannelStatistics(tuple(mean.tolist()), tuple(np.maximum(std, 1 / 255).tolist()))


def _every_nth(rows: Indices, wanted: int) -> Indices:
    return rows[:: max(1, len(rows) // wanted)]


def _moments(store: Store, rows: Indices) -> tuple[Floats, Floats]:
    channels = store.image_shape[2]
    counts = np.zeros((channels, 256), dtype=np.int64)
    for start in range(0, len(rows), 1024):
        images = store.images[rows[start : start + 1024]]
        for channel in range(channels):
            counts[channel] += np.bincount(images[..., channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ values
    return mean, np.sqrt(np.maximum(share @ values**2 - mean**2, 0))


def _filtered_moments(
    store: Store, rows: Indices, filters: Sequence[Filter]
) -> tuple[Floats, Floats]:
    total = torch.zeros(2, store.image_shape[2], dtype=torch.float64)
    for start in range(0, len(rows), 256):
        pixels = torch.from_numpy(store.images[rows[start : start + 256]]).permute(0, 3, 1, 2)
        images = filtered(pixels.float() / 255, filters).double()
        total += torch.stack([images.sum(dim=(0, 2, 3)), images.square().sum(dim=(0, 2, 3))])
    mean, square = (total / (len(rows) * math.prod(store.image_shape[:2]))).numpy()
    return mean, np.sqrt(np.maximum(square - mean**2, 0))


class Recipe(nn.Module):
    """Pictures (B, C, H, W) uint8 to model input (B, C, H, W) float32, mean 0 and deviation 1.

    All pictures are filtered; in training mode they are augmented then.
    """

    def __init__(
        self,
        statistics: ChannelStatistics,
        filters: Sequence[Filter] = (),
        augmentation: Augmentation = NO_AUGMENTATION,
    ) -> None:
        super().__init__()
        self.filters = tuple(filters)
        self.augmentation = augmentation
        self.statistics = statistics
        # x / 255 - mean, over std, as one multiplication and one addition.
        self.scale = self._constant([1 / (255 * std) for std in statistics.std])
        self.offset = self._constant(
            [-mean / std for mean, std in zip(statistics.mean, statistics.std, strict=True)]
        )

    def _constant(self, values: Sequence[float]) -> nn.Buffer:
        return nn.Buffer(torch.tensor(values).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) uint8 to (B, C, H, W) float32.

        Raises:
            TypeError: the images are not uint8, so they have been scaled before.
        """
        if images.dtype != torch.uint8:
            msg = f"images must be uint8, not {images.dtype}"
            raise TypeError(msg)
        # Under autocast, filters would be computed in bf16, which has 8 bits for 256 levels.
        with torch.autocast(images.device.type, enabled=False):
            levels = self._prepared(images).float()  # still 0 to 255
            normalized = torch.addcmul(self.offset, levels, self.scale)
        if self.training and self.augmentation.erase:
            normalized = erased(normalized, self.augmentation.erase)
        return normalized

    def _prepared(self, images: Tensor) -> Tensor:
        """Filtered, and augmented in training; as uint8 for as long as that will do."""
        how = self.augmentation
        if self.filters:
            images = 255 * filtered(images.float() / 255, self.filters)
        if not self.training:
            return images
        images = moved(images, how)
        if how.crop or how.rotate:
            images = warped(images.float(), how)
        if how.color or how.policy != "none":
            scaled = images.float() / 255
            if how.color:
                scaled = recolored(scaled, how.color)
            images = 255 * changed(scaled, how.policy)
        return images
