"""What happens to pictures on the device, before the model: the same module in training and serving.

uint8 in, normalized float out. It refuses anything that is not uint8, so nothing is scaled twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from imgrec.data.splits import Indices
from imgrec.data.store import Store
from imgrec.preprocess.augment import Augmentation, augmented, erased

MOST_IMAGES_FOR_STATISTICS = 50_000


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """Mean and standard deviation of each channel, in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def channel_statistics(store: Store, rows: Indices) -> ChannelStatistics:
    """Of the training pictures, from an exact count of all their pixel values.

    Above 100,000 pictures, of every n-th so that 50,000 to 100,000 are read: a large store need not
    be read from end to end for two numbers a channel.
    """
    chosen = rows[:: max(1, len(rows) // MOST_IMAGES_FOR_STATISTICS)]
    channels = store.image_shape[2]
    counts = np.zeros((channels, 256), dtype=np.int64)
    for start in range(0, len(chosen), 1024):
        images = store.images[chosen[start : start + 1024]]
        for channel in range(channels):
            counts[channel] += np.bincount(images[..., channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ values
    std = np.sqrt(np.maximum(share @ values**2 - mean**2, 0))
    # Pictures of one single colour have no deviation to divide by.
    return ChannelStatistics(tuple(mean.tolist()), tuple(np.maximum(std, 1 / 255).tolist()))


class Recipe(nn.Module):
    """Pictures (B, C, H, W) uint8 to model input (B, C, H, W) float32, mean 0 and deviation 1.

    In training mode the pictures are augmented first.
    """

    def __init__(self, statistics: ChannelStatistics, augmentation: Augmentation) -> None:
        super().__init__()
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
        if self.training:
            images = augmented(images, self.augmentation)
        normalized = torch.addcmul(self.offset, images.float(), self.scale)
        if self.training and self.augmentation.erase:
            normalized = erased(normalized, self.augmentation.erase)
        return normalized
