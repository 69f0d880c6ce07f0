"""What a model sees of stored pictures."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from imgrec.preprocess.view import View, center_crop, random_resized_crop

SLOPE = torch.arange(256.0).view(1, 1, 1, 256).expand(64, 3, 256, 256).to(torch.uint8)
"""Every column has its own value, so a picture tells which part it is of."""


def test_the_middle_of_256_pixels_is_224_of_them_untouched() -> None:
    """What ImageNet's recipes do at this size is no interpolation at all."""
    images = torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8)
    seen = center_crop(images, View((224, 224), crop_ratio=0.875, interpolation="bicubic"))

    assert torch.equal(seen, images[:, :, 16:240, 16:240])


def test_pictures_that_are_all_that_a_model_sees_are_not_copied() -> None:
    """The digits cost nothing more than before."""
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)

    assert center_crop(images, View((8, 8))) is not None
    assert center_crop(images, View((8, 8))).data_ptr() == images.data_ptr()


@pytest.mark.parametrize("size", [(128, 128), (96, 160), (300, 300)])
def test_the_middle_is_antialiased_bytes(size: tuple[int, int]) -> None:
    """As floats would come out, but for the rounding to bytes: one level, and for bicubic overshoot none."""
    images = torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8)
    seen = center_crop(images, View(size))
    exact = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True)

    assert seen.dtype == torch.uint8
    assert (seen.float() - exact).abs().max() <= 1.5  # twice rounded: rows, then columns


def test_every_picture_shows_a_part_of_its_own() -> None:
    """Of half the area at least, and of 3:4 to 4:3 of its proportions: between 0.61 and all of the width."""
    torch.manual_seed(0)
    parts = random_resized_crop(SLOPE, (64, 64), least_area=0.5)
    left, right = parts[:, 0, 0, 0], parts[:, 0, 0, -1]
    # The outermost points lie half a step inside of the part.
    widths = (right - left) / 63 * 64 / 256

    assert parts.shape == (64, 3, 64, 64)
    assert len(left.unique()) > 40
    assert widths.min() >= (0.5 * 3 / 4) ** 0.5 - 0.01
    assert widths.max() <= 1.01
    assert widths.min() < 0.75
    assert widths.max() > 0.95


def test_parts_are_mirrored_as_they_are_asked_to_be() -> None:
    """The same parts, left and right exchanged."""
    turns = torch.tensor([True, False] * (len(SLOPE) // 2))
    torch.manual_seed(0)
    parts = random_resized_crop(SLOPE, (48, 64), 0.5)
    torch.manual_seed(0)
    turned = random_resized_crop(SLOPE, (48, 64), 0.5, turns)

    # Coordinates in fp32 are off by 2 ** -23 of 256 pixels, and neighbours differ by one level.
    torch.testing.assert_close(turned[0::2], parts[0::2].flip(3), rtol=0, atol=2**-12)
    torch.testing.assert_close(turned[1::2], parts[1::2])
    assert not torch.allclose(turned[0::2], parts[0::2], atol=1.0)


def test_the_whole_is_seen_where_no_less_is_allowed() -> None:
    """Only its proportions change, and where it would stand out it ends at the edge."""
    torch.manual_seed(0)
    parts = random_resized_crop(SLOPE, (256, 256), least_area=1.0)
    widths = (parts[:, 0, 0, -1] - parts[:, 0, 0, 0]) / 255

    assert widths.max() > 0.99
    assert widths.min() > (3 / 4) ** 0.5 - 0.02


def test_small_parts_of_large_pictures_do_not_flicker() -> None:
    """Stripes of one pixel, seen at a quarter of their size, are grey."""
    torch.manual_seed(0)
    stripes = (torch.arange(256) % 2 * 255).to(torch.uint8).expand(8, 3, 256, 256)
    parts = random_resized_crop(stripes, (64, 64), least_area=0.9)

    assert parts.std() < 30
