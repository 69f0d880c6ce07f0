"""The one decoder: every kind of picture comes out as upright uint8 of one shape, or not at all."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imgrec.data.decode import decode, encode_png, read_header
from imgrec.errors import DecodeError

MAX_PIXELS = 100_000


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(content: bytes, shape: tuple[int, int, int] = (8, 8, 3)) -> np.ndarray:
    return decode(content, shape, resize="stretch", max_pixels=MAX_PIXELS)


RED = Image.new("RGB", (8, 8), (200, 10, 10))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_of_png_comes_out_alike(mode: str, channels: int) -> None:
    """White is white, whatever the file stores."""
    if mode == "I;16":
        image = Image.fromarray(np.full((8, 8), 65_535, dtype=np.uint16))
    else:
        image = Image.new("RGB", (8, 8), "white").convert(mode)

    pixels = decoded(encoded(image), (8, 8, channels))

    assert (pixels == 255).all()


def test_cmyk_is_converted() -> None:
    """Printers' JPEG files hold four channels."""
    pixels = decoded(encoded(RED.convert("CMYK"), "JPEG", quality=95))

    assert np.abs(pixels.reshape(-1, 3).mean(0) - (200, 10, 10)).max() < 12


def test_sixteen_bits_keep_their_upper_eight() -> None:
    """Pillow's own conversion would make everything above 255 white."""
    image = Image.fromarray(np.full((8, 8), 128 * 256, dtype=np.uint16))

    assert (decoded(encoded(image), (8, 8, 1)) == 128).all()


def test_what_is_transparent_becomes_white() -> None:
    """Below an alpha of zero there may be any colour, which nobody ever saw."""
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))

    assert (decoded(encoded(image)) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "deep PNG"])
def test_exif_orientation_is_obeyed(orientation: int, kind: str) -> None:
    """Phones store pictures lying on their side and say so."""
    upright = np.zeros((8, 16, 3), dtype=np.uint8)
    upright[:2, :4] = 255  # a mark in the upper left corner
    turns = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = Image.fromarray(upright)
    if (turn := turns[orientation]) is not None:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind == "deep PNG":
        stored = Image.fromarray(np.asarray(stored.convert("L")).astype(np.uint16) * 257)
    content = encoded(stored, kind.removeprefix("deep "), exif=exif)

    header = read_header(content, max_pixels=MAX_PIXELS)
    assert (header.height, header.width) == (8, 16)
    np.testing.assert_array_equal(decoded(content, (8, 16, 3)), upright)


def test_of_an_animation_the_first_frame_is_taken() -> None:
    """There is no better one to choose."""
    blue = Image.new("RGB", (8, 8), (10, 10, 200))
    content = encoded(RED, "GIF", save_all=True, append_images=[blue])

    assert decoded(content)[0, 0, 0] > 150


def test_the_pixel_limit_holds_before_memory_is_spent() -> None:
    """A bomb is a small file that would unpack to gigabytes."""
    content = encoded(Image.new("1", (20_000, 20_000)))

    assert len(content) < 100_000
    with pytest.raises(DecodeError, match="more than 100,000 pixels"):
        decoded(content)
    with pytest.raises(DecodeError, match="more than 100,000 pixels"):
        read_header(content, max_pixels=MAX_PIXELS)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"hello", "not a picture"),
        (encoded(Image.effect_noise((64, 64), 50), "JPEG")[:1000], "truncated"),
    ],
)
def test_what_is_no_picture_has_a_reason(content: bytes, reason: str) -> None:
    """The quarantine file shows it."""
    with pytest.raises(DecodeError, match=reason):
        decoded(content)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO"]),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=20),
    st.floats(0, 1),
)
def test_damage_never_crashes_the_decoder(
    kind: str, changes: list[tuple[float, int]], kept: float
) -> None:
    """Bytes from outside: a picture or a reason, nothing else."""
    content = bytearray(encoded(Image.effect_noise((16, 16), 50).convert("RGB"), kind))
    for place, value in changes:
        content[int(place * len(content))] = value
    damaged = bytes(content[: int(kept * len(content))])
    try:
        pixels = decoded(damaged)
    except DecodeError as error:
        assert str(error)
        assert "\n" not in str(error)
    else:
        assert pixels.shape == (8, 8, 3)
        assert pixels.dtype == np.uint8


@pytest.mark.parametrize(("resize", "columns"), [("fill", 255), ("fit", 0), ("stretch", 255)])
def test_each_way_to_resize_does_what_it_says(resize: Any, columns: int) -> None:
    """A wide white picture: cropped and stretched it stays white, fitted it gets black bars."""
    content = encoded(Image.new("L", (32, 8), 255))

    pixels = decode(content, (8, 8, 1), resize=resize, max_pixels=MAX_PIXELS)

    assert pixels.shape == (8, 8, 1)
    assert pixels[0, 4, 0] == columns
    assert pixels[4, 4, 0] == 255


@pytest.mark.parametrize("channels", [1, 3])
def test_png_and_back_changes_nothing(channels: int) -> None:
    """The input example of a registered model must be what the store holds."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, channels), dtype=np.uint8)

    np.testing.assert_array_equal(decoded(encode_png(pixels), (8, 8, channels)), pixels)
