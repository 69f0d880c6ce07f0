"""Colours of other spaces than sRGB."""

import io
import struct
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageCms

from imgrec.data.decode import read_picture
from imgrec.data.gamut import in_srgb

P3 = {
    b"rXYZ": (0.51512, 0.24120, -0.00105),
    b"gXYZ": (0.29198, 0.69225, 0.04189),
    b"bXYZ": (0.15710, 0.06657, 0.78407),
}
"""Where Display P3 has its primaries, under D50. Source: Apple's own profile."""


@cache
def display_p3() -> bytes:
    """Pillow's sRGB profile with the primaries of Display P3; both have the same curve."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for number in range(struct.unpack(">I", profile[128:132])[0]):
        entry = 132 + 12 * number
        name, start, _ = struct.unpack(">4sII", profile[entry : entry + 12])
        if name in P3:
            fixed = [round(value * 65536) for value in P3[name]]
            profile[start + 8 : start + 20] = struct.pack(">3i", *fixed)
    return bytes(profile)


def photo() -> Image.Image:
    """All hues, in squares that no codec smears."""
    hues = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    squares = np.stack([hues, np.full_like(hues, 200), np.full_like(hues, 220)], axis=2)
    small = Image.fromarray(squares, "HSV").convert("RGB")
    return small.resize((256, 256), Image.Resampling.NEAREST)


def as_file(image: Image.Image, kind: str, profile: bytes | None) -> bytes:
    buffer = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    image.save(buffer, kind, icc_profile=profile, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "HEIF"])
def test_a_photo_in_display_p3_has_the_pixels_of_the_same_in_srgb(kind: str) -> None:
    """A telephone's pictures beside those of a camera: the class must not show in the file's profile."""
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    srgb = ImageCms.createProfile("sRGB")
    wide = ImageCms.getOpenProfile(io.BytesIO(display_p3()))
    converted = ImageCms.profileToProfile(photo(), srgb, wide, outputMode="RGB")
    assert converted is not None
    original = np.asarray(photo()).astype(int)
    off, wide_error, narrow_error = (
        np.abs(np.asarray(pixels).astype(int) - original).mean()
        for pixels in (
            converted,
            read_picture(as_file(converted, kind, display_p3()), max_pixels=10**6).pixels,
            read_picture(as_file(photo(), kind, None), max_pixels=10**6).pixels,
        )
    )

    assert off > 5
    # What the codec loses of the same colours in sRGB, and half a level of rounding there and back.
    assert wide_error < 1.5 * narrow_error + 1.0


@pytest.mark.parametrize(
    "profile",
    [
        None,
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        b"no profile at all",
        b"\0" * 200,
    ],
    ids=["none", "srgb", "text", "zeros"],
)
def test_what_is_srgb_or_no_profile_is_left_alone(profile: bytes | None) -> None:
    """Bit for bit, and a broken profile costs nobody the picture."""
    content = as_file(photo(), "PNG", profile)

    assert np.array_equal(read_picture(content, max_pixels=10**6).pixels, np.asarray(photo()))


def test_transparency_survives() -> None:
    """It is put on white afterwards."""
    image = photo().convert("RGBA")
    image.putalpha(0)
    image.info["icc_profile"] = display_p3()

    assert in_srgb(image).getchannel("A").getextrema() == (0, 0)
