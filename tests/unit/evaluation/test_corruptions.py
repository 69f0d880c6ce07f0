"""Pictures made worse: in the ways and strengths that are written down, the same for whoever asks."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from skimage.data import astronaut
from torch import Tensor
from torch.nn.functional import interpolate

from imgrec.evaluation.corruptions import CORRUPTIONS, SEVERITIES, choose_pictures, corrupted


def photo(side: int, channels: int = 3) -> Tensor:
    """(2, C, side, side) uint8."""
    pixels = torch.from_numpy(astronaut()).permute(2, 0, 1)[None].float()
    small = interpolate(pixels, (side, side), mode="bilinear", antialias=True)
    small = small.mean(dim=1, keepdim=True) if channels == 1 else small
    return small.round().to(torch.uint8).repeat(2, 1, 1, 1)


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize(("side", "channels"), [(8, 1), (32, 3), (97, 1)])
def test_every_corruption_keeps_shape_and_type_and_is_repeatable(
    kind: str, side: int, channels: int
) -> None:
    """All models are asked about the same pixels."""
    images = photo(side, channels)
    for severity in range(SEVERITIES):
        changed = corrupted(images, 0, kind=kind, severity=severity)

        assert changed.shape == images.shape
        assert changed.dtype == torch.uint8
        assert torch.equal(changed, corrupted(images, 0, kind=kind, severity=severity))


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_stronger_corruption_changes_more(kind: str) -> None:
    """Five strengths are five; pixels of odd sizes may overlap, so of pixelation the ends count."""
    images = photo(96)
    changes = [
        float(
            (corrupted(images, 0, kind=kind, severity=severity).float() - images.float())
            .abs()
            .mean()
        )
        for severity in range(SEVERITIES)
    ]

    assert changes[0] > 0.5
    if kind == "pixelation":
        changes = [changes[0], changes[-1]]
    assert all(more > less for less, more in pairwise(changes))


def test_strengths_are_those_that_are_written_down() -> None:
    """Of a middle grey, where nothing is cut off."""
    grey = torch.full((1, 1, 200, 200), 128, dtype=torch.uint8)
    noise = corrupted(grey, 0, kind="gaussian noise", severity=0).float() / 255
    salted = corrupted(grey, 0, kind="impulse noise", severity=2)
    photons = corrupted(grey, 0, kind="shot noise", severity=1).float() / 255

    # 40,000 pixels: standard errors of 0.0003, 0.0014 and 0.0005.
    assert float(noise.std()) == pytest.approx(0.08, abs=0.002)
    assert float((salted != 128).float().mean()) == pytest.approx(0.09, abs=0.006)
    assert float(photons.std()) == pytest.approx(np.sqrt(0.5 / 25), abs=0.003)


def test_contrast_and_brightness_are_exact() -> None:
    """Towards the mean; and the value of a colour, whose hue stays."""
    images = photo(32)
    low = corrupted(images, 0, kind="contrast", severity=3).float()
    mean = images.float().mean(dim=(2, 3), keepdim=True)
    bright = corrupted(
        torch.tensor([[[[50]], [[100]], [[0]]]], dtype=torch.uint8),
        0,
        kind="brightness",
        severity=0,
    )

    torch.testing.assert_close(low, (images.float() - mean) * 0.1 + mean, atol=0.51, rtol=0)
    assert bright.flatten().tolist() == [63, 126, 0]


def test_the_number_of_pictures_follows_training_alone() -> None:
    """Neither a stopwatch nor a machine decides it."""
    assert choose_pictures(1437, 40, 360) == 192
    assert choose_pictures(500, 13, 372) == 22
    assert choose_pictures(100, 8, 372) == 20
    assert choose_pictures(60_000, 11, 10_000) == 1000
    assert choose_pictures(60_000, 11, 300) == 300
