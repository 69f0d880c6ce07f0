"""RandAugment and TrivialAugment, drawn for each picture."""

from dataclasses import replace

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import RandAugment

from imgrec.preprocess.policy import RANGES, Policy, _changes
from imgrec.preprocess.policy import changed as changed_by_policy


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_policy_gives_every_picture_its_own_change(policy: Policy, channels: int) -> None:
    """One change for a whole batch, as elsewhere, would be far less variety."""
    torch.manual_seed(0)
    images = torch.rand(1, channels, 9, 9).expand(200, -1, -1, -1)
    results = changed_by_policy(images, policy)

    assert results.min() >= 0
    assert results.max() <= 1
    assert results.isfinite().all()
    assert len({tuple(result.flatten().tolist()) for result in results}) > 60


def test_the_changes_of_the_policies_are_torchvisions() -> None:
    """Of either sign, on pictures that have all kinds of pixels.

    Shears are not compared: torchvision's leave the upper left corner in place, ours the middle.
    """
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    images = pixels.float() / 255
    changes = _changes(replace(RANGES["randaugment"], translate=0.25, rotate=180))
    signs = (0.5, -0.5) * 7
    for change, (name, amount), strength in zip(changes, TORCHVISION, signs, strict=True):
        if name.startswith("Shear"):
            continue
        ours = change(images, torch.full((6,), strength))
        theirs = RandAugment()._apply_image_or_video_transform(
            pixels, name, amount, InterpolationMode.BILINEAR, {torch.Tensor: None}
        )

        torch.testing.assert_close(ours, theirs.float() / 255, atol=1.5 / 255, rtol=0, msg=name)


TORCHVISION = (
    ("Identity", 0.0),
    ("ShearX", 0.0),
    ("ShearY", 0.0),
    ("TranslateX", -4),
    ("TranslateY", 4),
    ("Rotate", -90.0),
    ("Brightness", 0.45),
    ("Color", -0.45),
    ("Contrast", 0.45),
    ("Sharpness", -0.45),
    ("Posterize", 6),
    ("Solarize", 0.5),
    ("AutoContrast", 0.0),
    ("Equalize", 0.0),
)
