"""Colours of other spaces than sRGB, such as those of phones (Display P3), brought to sRGB.

Pretrained networks have seen sRGB, and most pictures are in it. Read as if they were sRGB, saturated colours of Display
P3 are off by more than 5 levels of 255 on average (tests/unit/data/test_gamut.py).
"""

from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsTransform

PROFILE = "icc_profile"
SPACES = {"RGB": "RGB ", "RGBA": "RGB ", "CMYK": "CMYK"}
"""What a profile calls the space of each of Pillow's modes that are converted."""
LEAST_DIFFERENCE = 2
MOST_BYTES = 4 << 20
COLOURS = Image.new("RGB", (7, 1))
COLOURS.putdata(
    [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 40), (40, 120, 200), (128,) * 3, (255,) * 3]
)


def in_srgb(image: Image.Image) -> Image.Image:
    """The picture with the colours that its profile means; without one, or a broken one, as it is."""
    profile = image.info.get(PROFILE)
    if not isinstance(profile, bytes) or image.mode not in SPACES or len(profile) > MOST_BYTES:
        return image
    transform = _transform(profile, image.mode)
    if transform is None:
        return image
    from PIL import ImageCms  # noqa: PLC0415 - of those few alone

    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None, "not in place"
    return converted


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> "ImageCmsTransform | None":
    """How a profile's colours become those of sRGB; None where they are the same."""
    from PIL import ImageCms  # noqa: PLC0415 - as above

    try:
        source = ImageCms.getOpenProfile(BytesIO(profile))
        if source.profile.xcolor_space != SPACES[mode]:
            return None
        srgb = ImageCms.createProfile("sRGB")
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        transform = ImageCms.buildTransform(
            source, srgb, mode, "RGB" if mode == "CMYK" else mode, renderingIntent=intent
        )
        if mode == "CMYK":
            return transform
        shown = ImageCms.applyTransform(COLOURS.convert(mode), transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    assert shown is not None, "not in place"
    before, after = COLOURS.tobytes(), shown.convert("RGB").tobytes()
    largest = max(abs(old - new) for old, new in zip(before, after, strict=True))
    return transform if largest > LEAST_DIFFERENCE else None
