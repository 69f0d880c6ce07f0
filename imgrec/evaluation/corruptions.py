"""How much worse a classifier sees where pictures are noisy, blurred, dark or turned.

The kinds and strengths are those of Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations" (arXiv:1903.12261), for pictures of 224 pixels, and rotation beside them. Blur goes by the
side of the picture, and is not below what the same authors have for 32 pixels.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from simplejpeg import decode_jpeg, encode_jpeg
from torch import Tensor

from imgrec.classifier import Classifier
from imgrec.data.splits import Indices
from imgrec.data.store import Store

SEVERITIES = 5
AT_ONCE = 16
LEAST, MOST = 20, 1000
"""Pictures that are corrupted, in every kind and strength."""
SHARE_OF_TRAINING = 1 / 300
Corruption = Callable[[Tensor, int, torch.Generator], Tensor]
"""Pictures (B, C, H, W) float in [0, 1], a severity from 0 to 4 and random numbers to pictures of the same shape."""


@dataclass(frozen=True, slots=True)
class Robustness:
    """How a classifier did.

    Attributes:
        pictures: That were corrupted.
        clean: Accuracy on them as they are.
        accuracy: By kind, for each severity.
    """

    pictures: int
    clean: float
    accuracy: dict[str, tuple[float, ...]]

    @property
    def mean(self) -> float:
        """Mean corruption accuracy: of all kinds and severities."""
        return float(np.mean(list(self.accuracy.values())))

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self) | {"mean": self.mean}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Robustness":
        """From what `as_json` gave, read from a file."""
        accuracy = {kind: tuple(values) for kind, values in told["accuracy"].items()}
        return cls(told["pictures"], told["clean"], accuracy)


def choose_pictures(trained: int, passes: float, there: int) -> int:
    """How many test pictures are corrupted, where the settings leave it open.

    The rule: so many that to look at them in all kinds and strengths takes about a twentieth of what training took, by
    the number of operations; 20 at least and 1,000 at most.

    Args:
        trained: Training pictures.
        passes: Passes over them, in units of full-size pictures (`FitSpec.passes`).
        there: Test pictures.
    """
    return min(there, max(LEAST, min(MOST, round(trained * passes * SHARE_OF_TRAINING))))


def robustness(classifier: Classifier, store: Store, rows: Indices, count: int) -> Robustness:
    """Accuracy under every corruption, on the same pictures for whoever is asked.

    Args:
        classifier: As it is served.
        store: Where the pictures lie.
        rows: Of which some are drawn.
        count: How many; 1 at least.
    """
    some = np.sort(np.random.default_rng(0).permutation(rows)[:count])
    images = torch.from_numpy(np.stack([store.images[row] for row in some])).permute(0, 3, 1, 2)
    labels = torch.from_numpy(store.labels[some])
    return Robustness(
        pictures=len(some),
        clean=_accuracy(classifier, images, labels, lambda part, _: part),
        accuracy={
            kind: tuple(
                _accuracy(
                    classifier, images, labels, partial(corrupted, kind=kind, severity=severity)
                )
                for severity in range(SEVERITIES)
            )
            for kind in CORRUPTIONS
        },
    )


def corrupted(images: Tensor, seed: int, *, kind: str, severity: int) -> Tensor:
    """Pictures (B, C, H, W) uint8 to the same, corrupted; the same noise whoever asks.

    Args:
        images: As the store has them.
        seed: Of the noise.
        kind: A key of CORRUPTIONS.
        severity: From 0 to 4.
    """
    random = torch.Generator().manual_seed(SEVERITIES * seed + severity)
    changed = CORRUPTIONS[kind](images.float() / 255, severity, random)
    return (changed * 255).round().clamp(0, 255).to(torch.uint8)


def _accuracy(
    classifier: Classifier, images: Tensor, labels: Tensor, change: Callable[[Tensor, int], Tensor]
) -> float:
    """Of pictures that are changed a part at a time: as floats all of them may not fit into memory."""
    # The same parts for all models, whatever they see of a picture: so the same noise.
    parts = torch.split(images, AT_ONCE)
    said = torch.cat(
        [classifier.logits(change(part, turn)).argmax(dim=1) for turn, part in enumerate(parts)]
    )
    return float((said == labels).double().mean())


def _gaussian_noise(images: Tensor, severity: int, random: torch.Generator) -> Tensor:
    strength = (0.08, 0.12, 0.18, 0.26, 0.38)[severity]
    return images + strength * torch.randn(images.shape, generator=random)


def _shot_noise(images: Tensor, severity: int, random: torch.Generator) -> Tensor:
    photons = (60, 25, 12, 5, 3)[severity]
    return torch.poisson(images * photons, generator=random) / photons


def _impulse_noise(images: Tensor, severity: int, random: torch.Generator) -> Tensor:
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity]
    drawn = torch.rand(images.shape, generator=random)
    images = torch.where(drawn < share / 2, 0.0, images)
    return torch.where(drawn > 1 - share / 2, 1.0, images)


def _blur(images: Tensor, severity: int, _: torch.Generator) -> Tensor:
    from torchvision.transforms.v2.functional import gaussian_blur  # noqa: PLC0415 - two seconds

    side = min(images.shape[2:])
    sigma = max(side / 224 * (1, 2, 3, 4, 6)[severity], (0.4, 0.6, 0.7, 0.8, 1.0)[severity])
    # Beyond the border it sees the picture mirrored, which has no more than the picture.
    reach = min(math.ceil(3 * sigma), side - 1)
    return gaussian_blur(images, 2 * reach + 1, sigma) if reach else images


def _contrast(images: Tensor, severity: int, _: torch.Generator) -> Tensor:
    kept = (0.4, 0.3, 0.2, 0.1, 0.05)[severity]
    mean = images.mean(dim=(2, 3), keepdim=True)
    return (images - mean) * kept + mean


def _brightness(images: Tensor, severity: int, _: torch.Generator) -> Tensor:
    """The value of hue, saturation and value."""
    value = images.amax(dim=1, keepdim=True)
    brighter = (value + (0.1, 0.2, 0.3, 0.4, 0.5)[severity]).clamp(max=1)
    return torch.where(value > 0, images * brighter / value.clamp(min=1e-6), brighter)


def _jpeg(images: Tensor, severity: int, _: torch.Generator) -> Tensor:
    quality = (25, 18, 15, 10, 7)[severity]
    space = "Gray" if images.shape[1] == 1 else "RGB"
    levels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    again = [
        decode_jpeg(encode_jpeg(one, quality=quality, colorspace=space), colorspace=space)
        for one in levels
    ]
    return torch.from_numpy(np.stack(again)).permute(0, 3, 1, 2).float() / 255


def _pixelation(images: Tensor, severity: int, _: torch.Generator) -> Tensor:
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[severity]
    height, width = images.shape[2:]
    small = (max(1, round(share * height)), max(1, round(share * width)))
    return F.interpolate(F.adaptive_avg_pool2d(images, small), size=(height, width), mode="nearest")


def _rotation(images: Tensor, severity: int, random: torch.Generator) -> Tensor:
    """To either side, edges repeated."""
    angle = math.radians((5, 10, 15, 20, 30)[severity])
    signs = torch.where(torch.rand(len(images), generator=random) < 0.5, -1.0, 1.0)
    cos, sin = torch.full_like(signs, math.cos(angle)), signs * math.sin(angle)
    aspect = images.shape[2] / images.shape[3]  # the grid counts in half sides
    zero = torch.zeros_like(signs)
    rows = torch.stack([cos, -sin * aspect, zero, sin / aspect, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian noise": _gaussian_noise,
    "shot noise": _shot_noise,
    "impulse noise": _impulse_noise,
    "blur": _blur,
    "contrast": _contrast,
    "brightness": _brightness,
    "JPEG": _jpeg,
    "pixelation": _pixelation,
    "rotation": _rotation,
}
