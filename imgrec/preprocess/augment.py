"""Changes made to training pictures: batched, on the device, every picture its own draw."""

from dataclasses import dataclass

import torch
from torch import Tensor

from imgrec.config import PreprocessConfig


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is done to training pictures.

    Attributes:
        flip: Mirror half of them left to right.
        shift: Largest shift along each axis, as a share of the side.
        erase: Side of the erased rectangle as a share of the picture's side; 0 for none.
    """

    flip: bool
    shift: float
    erase: float

    def __str__(self) -> str:
        """For people: `flip, shift 12 %`."""
        parts = [
            "flip" if self.flip else "",
            f"shift {self.shift:.0%}" if self.shift else "",
            f"erase {self.erase:.0%}" if self.erase else "",
        ]
        return ", ".join(filter(None, parts)) or "none"


PRESETS = {
    "photos": Augmentation(flip=True, shift=0.125, erase=0.25),
    "digits": Augmentation(flip=False, shift=0.125, erase=0.0),
    "none": Augmentation(flip=False, shift=0.0, erase=0.0),
}


def choose_augmentation(config: PreprocessConfig, channels: int) -> Augmentation:
    """The preset, with what the config sets by itself in place of the preset's own.

    `auto` is `photos` for colour pictures and `digits` for grey ones: grey sets are mostly
    characters and measurements, where left and right are not the same.
    """
    name = config.augment
    if name == "auto":
        name = "photos" if channels == 3 else "digits"
    preset = PRESETS[name]
    return Augmentation(
        flip=preset.flip if config.flip is None else config.flip,
        shift=preset.shift if config.shift is None else config.shift,
        erase=preset.erase if config.erase is None else config.erase,
    )


def augmented(images: Tensor, how: Augmentation) -> Tensor:
    """Images (B, C, H, W) uint8 to the same shape, type and memory format, flipped and shifted.

    One gather does both: row i of a picture comes from row i + its own offset, and where a shift
    would look beyond the edge, the edge itself is repeated.
    """
    batch, _, height, width = images.shape
    reach_y, reach_x = round(how.shift * height), round(how.shift * width)
    if not (how.flip or reach_y or reach_x):
        return images
    device = images.device
    rows = torch.arange(height, device=device).expand(batch, -1)
    columns = torch.arange(width, device=device).expand(batch, -1)
    if how.flip:
        mirrored = torch.rand(batch, 1, device=device) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    if reach_y:
        rows = rows + torch.randint(-reach_y, reach_y + 1, (batch, 1), device=device)
    if reach_x:
        columns = columns + torch.randint(-reach_x, reach_x + 1, (batch, 1), device=device)
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    pictures = torch.arange(batch, device=device)[:, None, None]
    # (B, H, W, C) is how the store lays pictures out: each gathered pixel is C bytes in a row.
    gathered = images.permute(0, 2, 3, 1)[pictures, rows[:, :, None], columns[:, None, :]]
    return gathered.permute(0, 3, 1, 2)


def erased(images: Tensor, share: float) -> Tensor:
    """Normalized images (B, C, H, W) with one rectangle of each set to 0, the mean.

    The rectangle has `share` of the picture's sides and any centre, so at the edge it may be cut.

    Source: DeVries & Taylor 2017, "Improved Regularization of CNNs with Cutout" (arXiv:1708.04552).
    """
    batch, _, height, width = images.shape
    keep_rows = _outside(batch, height, share, images.device)
    keep_columns = _outside(batch, width, share, images.device)
    keep = keep_rows[:, :, None] | keep_columns[:, None, :]  # (B, H, W)
    return images * keep[:, None]


def _outside(batch: int, side: int, share: float, device: torch.device) -> Tensor:
    """(B, side) bool: False along a stretch of round(share * side) around a random centre."""
    length = max(1, round(share * side))
    starts = torch.randint(0, side, (batch, 1), device=device) - length // 2
    places = torch.arange(side, device=device)
    return (places < starts) | (places >= starts + length)
