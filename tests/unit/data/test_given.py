"""Pictures as a program has them."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgrec.data.decode import Decoding, decode
from imgrec.data.given import Given, as_several, contents_of
from imgrec.errors import DecodeError

SHAPE = (9, 7, 3)


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


def png(image: Image.Image, **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **how)
    return buffer.getvalue()


def decoded(picture: Given, *more: Given) -> np.ndarray:
    content = contents_of([picture, *more])[0].read()
    return decode(content, Decoding(SHAPE, "fill", 1000))


def test_path_bytes_array_and_image_of_one_picture_are_the_same_pixels(tmp_path: Path) -> None:
    """Whichever a program has."""
    image = Image.fromarray(pixels())
    path = tmp_path / "one.png"
    path.write_bytes(png(image))

    for given in (path, str(path), png(image), pixels(), image):
        assert np.array_equal(decoded(given), pixels())
    assert np.array_equal(decoded(pixels(), path), pixels())  # among files


def test_an_image_of_pillow_is_what_its_file_would_be(tmp_path: Path) -> None:
    """Turned by its camera, transparent, with a palette, of one bit."""
    image = Image.fromarray(pixels())
    turned = image.rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned_file = tmp_path / "turned.png"
    turned_file.write_bytes(png(turned, exif=exif))
    transparent = image.copy()
    transparent.putalpha(Image.fromarray(pixels()[:, :, 0]))

    with Image.open(turned_file) as opened:
        assert np.array_equal(decoded(opened), decoded(turned_file))
    for other in (transparent, image.quantize(8), image.convert("1"), image.convert("LA")):
        assert np.array_equal(decoded(other), decoded(png(other)))
    assert decoded(image.convert("CMYK")).shape == SHAPE
    assert np.array_equal(decoded(np.asarray(transparent)), decoded(png(transparent)))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 3), np.float32),
        np.zeros((3, 3, 2), np.uint8),
        np.zeros(3, np.uint8),
        np.zeros((0, 3), np.uint8),
    ],
)
def test_an_array_that_is_no_picture_is_said(array: np.ndarray) -> None:
    """With what one would be, rather than a picture of something else."""
    with pytest.raises(DecodeError, match="array"):
        contents_of([array])[0].read()


def test_one_picture_is_told_from_several() -> None:
    """A path is text, and text is a sequence too."""
    for one in ("a.png", b"x", Path("a"), pixels(), Image.new("L", (1, 1))):
        (same,) = as_several(one)
        assert same is one
    assert as_several(["a.png"]) == ["a.png"]
    assert as_several(()) == ()
