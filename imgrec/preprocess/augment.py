"""Changes made to training pictures: batched, on the device, every picture its own draw."""

from dataclasses import asdict, dataclass, fields, replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.distributions import Beta

from imgrec.config import PreprocessConfig
from imgrec.data.transfer import sent
from imgrec.preprocess.colors import blended, brightness, mean_brightness, turned_hue
from imgrec.preprocess.policy import Policy


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is done to training pictures; `PreprocessConfig` says what each part means.

    The default is nothing at all.
    """

    flip: bool = False
    flip_vertical: bool = False
    shift: float = 0.0
    crop_area: float = 1.0
    rotate: float = 0.0
    color: float = 0.0
    policy: Policy = "none"
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __str__(self) -> str:
        """For people: `flip, shift 12 %`."""
        parts = []
        for part, value in asdict(self).items():
            name = part.replace("_", " ")
            match value:
                case True:
                    parts.append(name)
                case str() if value != "none":
                    parts.append(value)
                case float() if part == "crop_area":
                    parts += [f"random crops from {value:.0%} of the area"] if value < 1 else []
                case float() if value:
                    percent = part in {"shift", "color", "erase"}
                    unit = "°" if part == "rotate" else ""
                    parts.append(f"{name} {value:.0%}" if percent else f"{name} {value:g}{unit}")
        return ", ".join(parts) or "none"


NO_AUGMENTATION = Augmentation()
PRESETS = {
    "photos": Augmentation(flip=True, shift=0.0625, erase=0.25),
    "digits": Augmentation(shift=0.125),
    "none": NO_AUGMENTATION,
}


PRETRAINED_PHOTOS = Augmentation(flip=True, crop_area=0.5)
"""What `photos` stands for where a network begins with pretrained weights: they have learned from random parts."""
FEW_EPOCHS = 20


def choose_augmentation(
    config: PreprocessConfig, channels: int, epochs: int, *, is_pretrained: bool = False
) -> Augmentation:
    """The preset, with what the config sets by itself in place of the preset's own.

    `auto` is `photos` for colour pictures and `digits` for grey ones: grey sets are mostly
    characters and measurements, where left and right are not the same. In few epochs a network does
    not overfit, so nothing is erased: that would only slow it down. Networks that begin with pretrained weights
    see random parts of photos.
    """
    name = config.augment
    if name == "auto":
        name = "photos" if channels == 3 else "digits"
    preset = PRESETS[name]
    if name == "photos" and is_pretrained:
        preset = PRETRAINED_PHOTOS
    if epochs < FEW_EPOCHS:
        preset = replace(preset, erase=0.0)
    own = {part.name: getattr(config, part.name) for part in fields(Augmentation)}
    return replace(preset, **{part: value for part, value in own.items() if value is not None})


def moved(images: Tensor, how: Augmentation, turns: Tensor | None = None) -> Tensor:
    """Images (B, C, H, W) of any type to the same, flipped and shifted by whole pixels.

    One gather does both: row i of a picture comes from row i + its own offset, and where a shift
    would look beyond the edge, the edge itself is repeated.

    Args:
        images: Any number of them.
        how: `flip`, `flip_vertical` and `shift`.
        turns: (B,) bool, which of them `flip` mirrors; if not given, half of them, drawn.
    """
    batch, _, height, width = images.shape
    reach_y, reach_x = round(how.shift * height), round(how.shift * width)
    if not (how.flip or how.flip_vertical or reach_y or reach_x):
        return images
    device = images.device
    rows = torch.arange(height, device=device).expand(batch, -1)
    columns = torch.arange(width, device=device).expand(batch, -1)
    if how.flip:
        if turns is None:
            turns = torch.rand(batch, device=device) < 0.5
        columns = torch.where(turns[:, None], width - 1 - columns, columns)
    if how.flip_vertical:
        mirrored = torch.rand(batch, 1, device=device) < 0.5
        rows = torch.where(mirrored, height - 1 - rows, rows)
    if reach_y:
        rows = rows + torch.randint(-reach_y, reach_y + 1, (batch, 1), device=device)
    if reach_x:
        columns = columns + torch.randint(-reach_x, reach_x + 1, (batch, 1), device=device)
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    pictures = torch.arange(batch, device=device)[:, None, None]
    # (B, H, W, C) is how the store lays pictures out: each gathered pixel is C bytes in a row.
    gathered = images.permute(0, 2, 3, 1)[pictures, rows[:, :, None], columns[:, None, :]]
    return gathered.permute(0, 3, 1, 2)


def rotated(images: Tensor, most: float) -> Tensor:
    """Images (B, C, H, W) float, each turned by up to so many degrees, edges repeated."""
    batch, device = len(images), images.device
    angle = _between(batch, most, device).deg2rad()
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(batch, device=device)
    # The grid counts in half sides, so of pictures that are not square an angle needs their shape.
    aspect = images.shape[2] / images.shape[3]
    rows = torch.stack([cos, -sin * aspect, zero, sin / aspect, cos, zero], dim=1).view(batch, 2, 3)
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def recolored(images: Tensor, strength: float) -> Tensor:
    """Images (B, C, H, W) float in [0, 1] with other brightness, contrast, saturation and hue."""
    batch, device = len(images), images.device

    def factor() -> Tensor:
        return 1 + _between(batch, strength, device)

    images = blended(torch.zeros_like(images), images, factor())
    images = blended(mean_brightness(images), images, factor())
    if images.shape[1] == 1:
        return images
    images = blended(brightness(images), images, factor())
    return turned_hue(images, _between(batch, torch.pi * strength / 4, device))


def mixed(
    images: Tensor, labels: Tensor, num_classes: int, how: Augmentation
) -> tuple[Tensor, Tensor]:
    """A batch with its pictures mixed in pairs, each pair in its own proportion.

    Args:
        images: Model input, (B, C, H, W) float.
        labels: (B,) int64.
        num_classes: K.
        how: `mixup` and `cutmix`; with both, each batch takes the one or the other.

    Returns:
        Images, and target probabilities (B, K); or the labels as they are where nothing is mixed.

    Source: Zhang et al. 2018, "mixup" (arXiv:1710.09412); Yun et al. 2019, "CutMix"
    (arXiv:1905.04899). Both draw one proportion a batch; here each picture has its own.
    """
    if not (how.mixup or how.cutmix):
        return images, labels
    paste = bool(how.cutmix) and not (how.mixup and torch.rand(()) < 0.5)
    alpha = torch.tensor(how.cutmix if paste else how.mixup)
    batch, device = len(images), images.device
    share = sent(Beta(alpha, alpha).sample((batch,)), device)
    partners = torch.randperm(batch, device=device)
    if paste:
        height, width = images.shape[2:]
        # 1e-6: a share of exactly 0 or 1 is a rectangle of the whole side or of none.
        side = (1 - share).clamp(min=1e-6).sqrt()
        rows = _stretches(side, height)
        columns = _stretches(side, width)
        inside = rows[:, :, None] & columns[:, None, :]  # (B, H, W)
        share = 1 - inside.float().mean(dim=(1, 2))
        images = torch.where(inside[:, None], images[partners], images)
    else:
        images = torch.lerp(images[partners], images, share.to(images.dtype)[:, None, None, None])
    targets = F.one_hot(labels, num_classes).float()
    return images, torch.lerp(targets[partners], targets, share[:, None])


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


def _stretches(shares: Tensor, side: int) -> Tensor:
    """(B, side) bool: True along a stretch of each share (B,) of the side, somewhere inside."""
    lengths = (shares * side).round()
    starts = (torch.rand_like(shares) * (side - lengths + 1)).floor()
    places = torch.arange(side, device=shares.device)
    return (places >= starts[:, None]) & (places < (starts + lengths)[:, None])


def _between(batch: int, most: float, device: torch.device) -> Tensor:
    """(B,) even draws from -most to most."""
    return (2 * torch.rand(batch, device=device) - 1) * most
