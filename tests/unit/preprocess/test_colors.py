"""Changes of colour."""

import pytest
import torch

from imgrec.preprocess.augment import (
    recolored,
)
from imgrec.preprocess.colors import turned_hue


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_change_and_stay_in_range(channels: int) -> None:
    """Each picture by its own factors; grey ones have no hue to turn."""
    torch.manual_seed(0)
    images = torch.rand(1, channels, 6, 6).expand(50, -1, -1, -1)
    changed = recolored(images, 0.5)

    assert changed.min() >= 0
    assert changed.max() <= 1
    assert len({round(mean, 4) for mean in changed.mean((1, 2, 3)).tolist()}) > 40


def test_a_turned_hue_keeps_the_brightness() -> None:
    """Only the colour is to change."""
    images = 0.4 + 0.2 * torch.rand(8, 3, 4, 4)
    turned = turned_hue(images, torch.linspace(-3, 3, 8))
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)

    torch.testing.assert_close((turned * weights).sum(1), (images * weights).sum(1))
    assert not torch.allclose(turned[0], images[0], atol=0.05)
