"""The recipe: uint8 in, normalized float out, and changes only when training."""

import numpy as np
import pytest
import torch

from imgrec.data.store import Store
from imgrec.preprocess.augment import (
    Augmentation,
    moved,
)
from imgrec.preprocess.recipe import ChannelStatistics, Recipe
from imgrec.preprocess.statistics import channel_statistics
from imgrec.preprocess.view import View


def test_training_pictures_come_out_with_mean_0_and_deviation_1(digits: Store) -> None:
    """That is what the statistics are for."""
    rows = np.arange(0, 1500)
    recipe = Recipe(channel_statistics(digits, rows, View((8, 8)))).eval()
    images = torch.from_numpy(digits.images[rows]).permute(0, 3, 1, 2)

    normalized = recipe(images)

    assert abs(normalized.mean()) < 1e-4
    assert abs(normalized.std() - 1) < 1e-3


def test_pictures_of_one_colour_do_not_divide_by_zero() -> None:
    """An empty scan of a scanner, say."""
    recipe = Recipe(ChannelStatistics((0.5,), (1 / 255,))).eval()

    assert recipe(torch.full((2, 1, 4, 4), 128, dtype=torch.uint8)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_what_is_not_uint8_is_refused(dtype: torch.dtype) -> None:
    """It has been scaled before, and would be scaled twice."""
    recipe = Recipe(ChannelStatistics((0.5,), (0.2,)))

    with pytest.raises(TypeError, match="must be uint8"):
        recipe(torch.zeros(1, 1, 4, 4, dtype=dtype))


def test_evaluation_changes_nothing() -> None:
    """A score must not depend on luck."""
    how = Augmentation(flip=True, shift=0.3, erase=0.5)
    recipe = Recipe(ChannelStatistics((0.5,), (0.2,)), (), how)
    images = torch.randint(0, 256, (16, 1, 8, 8), dtype=torch.uint8)

    assert torch.equal(recipe.eval()(images), recipe(images))
    assert not torch.equal(recipe.train()(images), recipe.eval()(images))


def test_every_picture_has_its_own_draw() -> None:
    """One draw for a batch would be far less change."""
    torch.manual_seed(0)
    images = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).expand(64, -1, -1, -1)

    changed = moved(images, Augmentation(flip=True, shift=0.25))

    assert len({tuple(image.flatten().tolist()) for image in changed}) > 25


def test_augmentation_keeps_the_layout_that_convolutions_like() -> None:
    """Otherwise every batch would be copied once more."""
    images = torch.zeros(4, 8, 8, 3, dtype=torch.uint8).permute(0, 3, 1, 2)

    changed = moved(images, Augmentation(flip=True, shift=0.2))

    assert changed.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "how",
    [
        Augmentation(flip=True, shift=0.1),
        Augmentation(rotate=15.0),
        Augmentation(crop_area=0.5),
        Augmentation(color=0.3, policy="randaugment", erase=0.2),
    ],
)
def test_a_model_is_given_pictures_as_they_lie_in_the_store(how: Augmentation) -> None:
    """Channels last, whatever turned or cropped them: else every step would lay them out anew."""
    recipe = Recipe(ChannelStatistics((0.5,) * 3, (0.2,) * 3), (), how).train()
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8).permute(0, 3, 1, 2)

    assert recipe(images).is_contiguous(memory_format=torch.channels_last)


def test_random_parts_are_mirrored_once() -> None:
    """In the pass that takes them, and not again as whole pictures are."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 12, 12), dtype=torch.uint8)
    how = Augmentation(flip=True, crop_area=0.5)
    recipe = Recipe(ChannelStatistics((0.5,) * 3, (0.25,) * 3), augmentation=how).train()
    seen = []
    for turns in (torch.zeros(8, dtype=torch.bool), torch.ones(8, dtype=torch.bool)):
        torch.manual_seed(1)
        seen.append(recipe(images, turns))

    # Coordinates in fp32 are off by 2 ** -22 of 12 pixels, and neighbours differ by up to 4.
    torch.testing.assert_close(seen[1], seen[0].flip(3), rtol=0, atol=2**-14)
    assert not torch.allclose(seen[1], seen[0], atol=0.1)
