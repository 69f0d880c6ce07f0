"""The recipe: uint8 in, normalized float out, and changes only when training."""

import numpy as np
import pytest
import torch

from imgrec.config import PreprocessConfig
from imgrec.data.store import Store
from imgrec.preprocess.augment import Augmentation, augmented, choose_augmentation, erased
from imgrec.preprocess.recipe import ChannelStatistics, Recipe, channel_statistics

NOTHING = Augmentation(flip=False, shift=0.0, erase=0.0)


def test_training_pictures_come_out_with_mean_0_and_deviation_1(digits: Store) -> None:
    """That is what the statistics are for."""
    rows = np.arange(0, 1500)
    recipe = Recipe(channel_statistics(digits, rows), NOTHING).eval()
    images = torch.from_numpy(digits.images[rows]).permute(0, 3, 1, 2)

    normalized = recipe(images)

    assert abs(normalized.mean()) < 1e-4
    assert abs(normalized.std() - 1) < 1e-3


def test_pictures_of_one_colour_do_not_divide_by_zero() -> None:
    """An empty scan of a scanner, say."""
    recipe = Recipe(ChannelStatistics((0.5,), (1 / 255,)), NOTHING).eval()

    assert recipe(torch.full((2, 1, 4, 4), 128, dtype=torch.uint8)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_what_is_not_uint8_is_refused(dtype: torch.dtype) -> None:
    """It has been scaled before, and would be scaled twice."""
    recipe = Recipe(ChannelStatistics((0.5,), (0.2,)), NOTHING)

    with pytest.raises(TypeError, match="must be uint8"):
        recipe(torch.zeros(1, 1, 4, 4, dtype=dtype))


def test_evaluation_changes_nothing() -> None:
    """A score must not depend on luck."""
    how = Augmentation(flip=True, shift=0.3, erase=0.5)
    recipe = Recipe(ChannelStatistics((0.5,), (0.2,)), how)
    images = torch.randint(0, 256, (16, 1, 8, 8), dtype=torch.uint8)

    assert torch.equal(recipe.eval()(images), recipe(images))
    assert not torch.equal(recipe.train()(images), recipe.eval()(images))


def test_every_picture_has_its_own_draw() -> None:
    """One draw for a batch would be far less change."""
    torch.manual_seed(0)
    images = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).expand(64, -1, -1, -1)

    changed = augmented(images, Augmentation(flip=True, shift=0.25, erase=0.0))

    assert len({tuple(image.flatten().tolist()) for image in changed}) > 25


def test_a_flip_is_a_mirror_and_half_of_them_are() -> None:
    """And nothing else."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (400, 3, 5, 6), dtype=torch.uint8)
    changed = augmented(images, Augmentation(flip=True, shift=0.0, erase=0.0))
    mirrored = (changed == images.flip(3)).flatten(1).all(1)
    same = (changed == images).flatten(1).all(1)

    assert (mirrored ^ same).all()
    assert 150 < mirrored.sum() < 250


def test_a_shift_moves_the_whole_picture_and_repeats_the_edge() -> None:
    """No black bars, which the model would learn to see."""
    torch.manual_seed(0)
    images = torch.randint(1, 256, (200, 1, 8, 8), dtype=torch.uint8)
    changed = augmented(images, Augmentation(flip=False, shift=0.25, erase=0.0))
    padded = torch.nn.functional.pad(images.float(), (2, 2, 2, 2), mode="replicate").byte()
    windows = [padded[:, :, y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
    found = torch.stack([(changed == window).flatten(1).all(1) for window in windows])

    assert found.any(0).all()
    assert found.any(1).all()  # every one of the 25 places occurs


def test_augmentation_keeps_the_layout_that_convolutions_like() -> None:
    """Otherwise every batch would be copied once more."""
    images = torch.zeros(4, 8, 8, 3, dtype=torch.uint8).permute(0, 3, 1, 2)

    changed = augmented(images, Augmentation(flip=True, shift=0.2, erase=0.0))

    assert changed.is_contiguous(memory_format=torch.channels_last)


def test_an_erased_rectangle_has_the_size_that_was_asked_for() -> None:
    """Where it does not reach over the edge."""
    torch.manual_seed(0)
    holes = (erased(torch.ones(500, 1, 16, 16), 0.25) == 0).sum((1, 2, 3))

    assert holes.max() == 16
    assert holes.min() > 0
    assert len(holes.unique()) > 3


@pytest.mark.parametrize(
    ("config", "channels", "said"),
    [
        (PreprocessConfig(), 3, "flip, shift 12%, erase 25%"),
        (PreprocessConfig(), 1, "shift 12%"),
        (PreprocessConfig(augment="digits", flip=True), 3, "flip, shift 12%"),
        (PreprocessConfig(augment="photos", erase=0.0), 1, "flip, shift 12%"),
        (PreprocessConfig(augment="none"), 3, "none"),
    ],
)
def test_a_preset_and_what_is_set_by_itself(
    config: PreprocessConfig, channels: int, said: str
) -> None:
    """Digits must not be mirrored; photos may."""
    assert str(choose_augmentation(config, channels)) == said
