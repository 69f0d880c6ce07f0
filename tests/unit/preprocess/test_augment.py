"""Changes to training pictures: each draws for itself, and does what its name says."""

from dataclasses import replace

import pytest
import torch

from imgrec.config import PreprocessConfig
from imgrec.preprocess.augment import (
    Augmentation,
    choose_augmentation,
    erased,
    mixed,
    moved,
    rotated,
)
from imgrec.preprocess.policy import RANGES, _changes


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


def test_nothing_to_turn_is_the_picture_itself() -> None:
    """The grid must hit the middles of the pixels, or every picture would be blurred."""
    images = torch.rand(4, 3, 7, 9)

    torch.testing.assert_close(rotated(images, 0.0), images, atol=1e-5, rtol=0)


def test_every_picture_turns_by_its_own_angle() -> None:
    """A quarter turn at most, so that what was on top stays above the middle."""
    torch.manual_seed(0)
    images = torch.zeros(200, 1, 21, 21)
    images[:, :, 3, 10] = 1.0
    turned = rotated(images, 60.0)
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
