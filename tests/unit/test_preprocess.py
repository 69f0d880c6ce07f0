"""The recipe: uint8 in, normalized float out, and changes only when training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import RandAugment

from imgrec.config import PreprocessConfig
from imgrec.data.store import Store
from imgrec.preprocess.augment import (
    Augmentation,
    choose_augmentation,
    erased,
    mixed,
    moved,
    recolored,
    warped,
)
from imgrec.preprocess.colors import turned_hue
from imgrec.preprocess.policy import RANGES, Policy, _changes
from imgrec.preprocess.policy import changed as changed_by_policy
from imgrec.preprocess.recipe import ChannelStatistics, Recipe
from imgrec.preprocess.statistics import channel_statistics


def test_training_pictures_come_out_with_mean_0_and_deviation_1(digits: Store) -> None:
    """That is what the statistics are for."""
    rows = np.arange(0, 1500)
    recipe = Recipe(channel_statistics(digits, rows)).eval()
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


def test_a_flip_is_a_mirror_and_half_of_them_are() -> None:
    """And nothing else."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (400, 3, 5, 6), dtype=torch.uint8)
    changed = moved(images, Augmentation(flip=True))
    mirrored = (changed == images.flip(3)).flatten(1).all(1)
    same = (changed == images).flatten(1).all(1)

    assert (mirrored ^ same).all()
    assert 150 < mirrored.sum() < 250


def test_whose_turn_it_is_may_be_said() -> None:
    """And then there is no draw."""
    images = torch.randint(0, 256, (4, 3, 5, 6), dtype=torch.uint8)
    changed = moved(images, Augmentation(flip=True), torch.tensor([True, False, True, False]))
    assert torch.equal(changed[::2], images.flip(3)[::2])
    assert torch.equal(changed[1::2], images[1::2])


def test_a_shift_moves_the_whole_picture_and_repeats_the_edge() -> None:
    """No black bars, which the model would learn to see."""
    torch.manual_seed(0)
    images = torch.randint(1, 256, (200, 1, 8, 8), dtype=torch.uint8)
    changed = moved(images, Augmentation(shift=0.25))
    padded = torch.nn.functional.pad(images.float(), (2, 2, 2, 2), mode="replicate").byte()
    windows = [padded[:, :, y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
    found = torch.stack([(changed == window).flatten(1).all(1) for window in windows])

    assert found.any(0).all()
    assert found.any(1).all()  # every one of the 25 places occurs


def test_augmentation_keeps_the_layout_that_convolutions_like() -> None:
    """Otherwise every batch would be copied once more."""
    images = torch.zeros(4, 8, 8, 3, dtype=torch.uint8).permute(0, 3, 1, 2)

    changed = moved(images, Augmentation(flip=True, shift=0.2))

    assert changed.is_contiguous(memory_format=torch.channels_last)


def test_an_erased_rectangle_has_the_size_that_was_asked_for() -> None:
    """Where it does not reach over the edge."""
    torch.manual_seed(0)
    holes = (erased(torch.ones(500, 1, 16, 16), 0.25) == 0).sum((1, 2, 3))

    assert holes.max() == 16
    assert holes.min() > 0
    assert len(holes.unique()) > 3


@pytest.mark.parametrize(
    ("config", "channels", "epochs", "said"),
    [
        (PreprocessConfig(), 3, 40, "flip, shift 6%, erase 25%"),
        (PreprocessConfig(), 3, 19, "flip, shift 6%"),
        (PreprocessConfig(erase=0.3), 3, 19, "flip, shift 6%, erase 30%"),
        (PreprocessConfig(), 1, 40, "shift 12%"),
        (PreprocessConfig(augment="digits", flip=True), 3, 40, "flip, shift 12%"),
        (PreprocessConfig(augment="photos", erase=0.0), 1, 40, "flip, shift 6%"),
        (PreprocessConfig(augment="none"), 3, 40, "none"),
        (
            PreprocessConfig(augment="none", rotate=10.0, policy="randaugment", mixup=0.2),
            3,
            40,
            "rotate 10°, randaugment, mixup 0.2",
        ),
    ],
)
def test_a_preset_and_what_is_set_by_itself(
    config: PreprocessConfig, channels: int, epochs: int, said: str
) -> None:
    """Digits must not be mirrored; photos may, and in few epochs nothing of them is erased."""
    assert str(choose_augmentation(config, channels, epochs)) == said


def test_nothing_to_turn_and_nothing_to_crop_is_the_picture_itself() -> None:
    """The grid must hit the middles of the pixels, or every picture would be blurred."""
    images = torch.rand(4, 3, 7, 9)

    torch.testing.assert_close(warped(images, Augmentation()), images, atol=1e-5, rtol=0)


def test_every_picture_turns_by_its_own_angle() -> None:
    """A quarter turn at most, so that what was on top stays above the middle."""
    torch.manual_seed(0)
    images = torch.zeros(200, 1, 21, 21)
    images[:, :, 3, 10] = 1.0
    turned = warped(images, Augmentation(rotate=60.0))
    columns = turned.sum(2).squeeze(1).argmax(1)

    assert len(columns.unique()) > 8
    assert (turned[:, :, 12:].sum((1, 2, 3)) == 0).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_quarter_turn_is_one_in_pictures_that_are_not_square(channels: int) -> None:
    """A square in a wide picture stays a square."""
    images = torch.zeros(1, channels, 32, 96)
    images[:, :, 8:24, 40:56] = 1.0
    rotate = _changes(replace(RANGES["randaugment"], rotate=90))[5]
    turned = rotate(images, torch.ones(1))

    torch.testing.assert_close(turned, images, atol=1e-3, rtol=0)


def test_a_crop_enlarges_a_part() -> None:
    """A dot can only grow or leave."""
    torch.manual_seed(0)
    images = torch.zeros(200, 1, 20, 20)
    images[:, :, 9:11, 9:11] = 1.0
    areas = warped(images, Augmentation(crop=0.5)).sum((1, 2, 3))

    assert areas.max() > 12
    assert areas.min() >= 3.9


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


@pytest.mark.parametrize("how", [Augmentation(mixup=1.0), Augmentation(cutmix=1.0)])
def test_mixed_labels_tell_what_is_in_the_mixed_picture(how: Augmentation) -> None:
    """Picture i is of the value i everywhere, so its mean says how much of which is in it."""
    torch.manual_seed(0)
    values = torch.arange(32.0)
    images, targets = mixed(values.view(-1, 1, 1, 1).expand(-1, 3, 16, 16), values.long(), 32, how)

    torch.testing.assert_close(targets.sum(1), torch.ones(32))
    torch.testing.assert_close(targets @ values, images.mean((1, 2, 3)))
    shares = targets.max(1).values
    assert len({round(share, 3) for share in shares.tolist()}) >= 8


def test_without_mixing_the_labels_stay_labels() -> None:
    """The fast path of every run that does not mix."""
    labels = torch.tensor([1, 0])

    assert mixed(torch.zeros(2, 1, 4, 4), labels, 2, Augmentation(flip=True))[1] is labels
