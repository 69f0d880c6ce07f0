"""Icons: the largest picture of one is read, and what it hides is not."""

import io
import struct
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imgrec.data.decode import read_header, read_picture
from imgrec.data.icon import ICON
from imgrec.errors import DecodeError

MOST = 40_000


def noise(side: int, mode: str = "RGB") -> Image.Image:
    channels = len(mode)
    values = np.random.default_rng(side).integers(0, 256, (side, side, channels), dtype=np.uint8)
    return Image.fromarray(values)


def icon_of(image: Image.Image, sides: Sequence[int], kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "ICO", sizes=[(side, side) for side in sides], bitmap_format=kind)
    return buffer.getvalue()


def packed(*frames: bytes, side: int = 16) -> bytes:
    """An icon of frames as they are, whose table says that each has this side."""
    table, start = b"", 6 + 16 * len(frames)
    for frame in frames:
        table += struct.pack("<BBBBHHII", side, side, 0, 0, 1, 0, len(frame), start)
        start += len(frame)
    return ICON + struct.pack("<H", len(frames)) + table + b"".join(frames)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["png", "bmp"])
def test_the_largest_picture_of_an_icon_is_read(kind: str) -> None:
    """Of either kind, pixel by pixel, and its header agrees."""
    image = noise(64)
    content = icon_of(image, (16, 64, 32), kind)

    assert np.array_equal(read_picture(content, max_pixels=MOST).pixels, np.asarray(image))
    assert read_header(content, max_pixels=MOST).height == 64


def test_what_is_transparent_in_an_icon_becomes_white() -> None:
    """Also where the table does not say that there is transparency, as many programs leave it out."""
    image = noise(32, "RGBA")
    image.putalpha(Image.new("L", (32, 32), 0))
    content = bytearray(icon_of(image, (32,), "bmp"))
    content[12:14] = b"\0\0"

    assert read_picture(bytes(content), max_pixels=MOST).pixels.min() == 255


@pytest.mark.parametrize("frame", [png(noise(300)), icon_of(noise(250), (250,), "bmp")[22:]])
def test_a_picture_larger_than_its_table_says_is_refused(frame: bytes) -> None:
    """Whichever of them it is: the limit is on each before any is decoded."""
    for content in (packed(frame), packed(png(noise(16)), frame), packed(frame, png(noise(16)))):
        with pytest.raises(DecodeError, match="is more than 40,000 pixels"):
            read_picture(content, max_pixels=MOST)


def test_other_kinds_of_pictures_in_an_icon_are_refused() -> None:
    """Their own size cannot be told from where a bitmap's stands."""
    streams = [b"\xff\x4f\xff\x51" + bytes(60), b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60)]
    for frame in [*streams, struct.pack("<I", 12) + bytes(60)]:
        with pytest.raises(DecodeError, match="of an unusual kind"):
            read_picture(packed(frame), max_pixels=MOST)


@given(st.binary(max_size=80))
def test_anything_that_begins_as_an_icon_is_a_picture_or_a_reason(rest: bytes) -> None:
    """Never another error, and never more pixels than allowed."""
    whole = icon_of(noise(16), (16,), "bmp")
    for content in (ICON + rest, whole[:22] + rest + whole[22 + len(rest) :], whole[: len(rest)]):
        try:
            picture = read_picture(content, max_pixels=MOST)
        except DecodeError as error:
            assert "\n" not in str(error)
        else:
            assert picture.pixels.shape[0] * picture.pixels.shape[1] <= MOST
