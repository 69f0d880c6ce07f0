"""What happens to pictures on the device, before the model: the same module in training and serving.

uint8 in, normalized float out. It refuses anything that is not uint8, so nothing is scaled twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from imgrec.config import Filter, ImageShape
from imgrec.preprocess.augment import (
    NO_AUGMENTATION,
    Augmentation,
    erased,
    moved,
    recolored,
    rotated,
)
from imgrec.preprocess.filters import filtered
from imgrec.preprocess.policy import changed
from imgrec.preprocess.view import View, center_crop, random_resized_crop


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """Mean and standard deviation of each channel, in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Recipe(nn.Module):
    """Stored pictures (B, C, H, W) uint8 to model input (B, C, *view.size) float32, mean 0 and deviation 1.

    All pictures are brought to the size of the model and filtered; in training mode they are augmented then.
    """

    def __init__(
        self,
        statistics: ChannelStatistics,
        filters: Sequence[Filter] = (),
        augmentation: Augmentation = NO_AUGMENTATION,
        view: View | None = None,
    ) -> None:
        """Without a view, pictures keep the size that they are stored in."""
        super().__init__()
        self.view = view
        self.filters = tuple(filters)
        self.augmentation = augmentation
        self.statistics = statistics
        # x / 255 - mean, over std, as one multiplication and one addition.
        self.scale = self._constant([1 / (255 * std) for std in statistics.std])
        self.offset = self._constant(
            [-mean / std for mean, std in zip(statistics.mean, statistics.std, strict=True)]
        )

    def larger_of(self, stored: ImageShape) -> ImageShape:
        """The shape of a stored picture, or of what a model sees of it: whichever takes more memory."""
        size = self.view.size if self.view else stored[:2]
        return (max(stored[0], size[0]), max(stored[1], size[1]), stored[2])

    def _constant(self, values: Sequence[float]) -> nn.Buffer:
        return nn.Buffer(torch.tensor(values).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor, turns: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W) uint8 to (B, C, *view.size) float32.

        Grey pictures come out in as many channels as the statistics have.

        Args:
            images: As the store has them.
            turns: (B,) bool, which of them to mirror; if not given, half of them, drawn.

        Raises:
            TypeError: the images are not uint8, so they have been scaled before.
        """
        if images.dtype != torch.uint8:
            msg = f"images must be uint8, not {images.dtype}"
            raise TypeError(msg)
        # Under autocast, filters would be computed in bf16, which has 8 bits for 256 levels.
        with torch.autocast(images.device.type, enabled=False):
            levels = self._prepared(images, turns).float()  # still 0 to 255
            normalized = torch.addcmul(self.offset, levels, self.scale)
        if self.training and self.augmentation.erase:
            normalized = erased(normalized, self.augmentation.erase)
        # As the store has them, which convolutions like best; what turns or crops them lays them out anew.
        return normalized.contiguous(memory_format=torch.channels_last)

    def _prepared(self, images: Tensor, turns: Tensor | None) -> Tensor:
        """At the model's size, filtered, and augmented in training; as uint8 until a change needs floats."""
        how = self.augmentation
        if self.training and how.crop_area < 1:
            size = self.view.size if self.view else (images.shape[2], images.shape[3])
            if how.flip and turns is None:
                turns = torch.rand(len(images), device=images.device) < 0.5
            images = random_resized_crop(images, size, how.crop_area, turns if how.flip else None)
            how = replace(how, flip=False)  # which is done
        elif self.view:
            images = center_crop(images, self.view)
        if self.filters:
            images = 255 * filtered(images.float() / 255, self.filters)
        if not self.training:
            return images
        images = moved(images, how, turns)
        if how.rotate:
            images = rotated(images.float(), how.rotate)
        if how.color or how.policy != "none":
            scaled = images.float() / 255
            if how.color:
                scaled = recolored(scaled, how.color)
            images = 255 * changed(scaled, how.policy)
        return images
