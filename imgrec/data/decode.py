"""Bytes to pixels: the one decoder, in training and in serving.

It returns numpy rather than torch, so that the processes that decode need not import torch.
"""

import io
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from imgrec.errors import DecodeError

# Part of the key of every store: raise it when the same bytes come out as other pixels.
DECODER_VERSION = 1
ORIENTATION = 0x0112  # EXIF tag; values 5 to 8 turn the picture by a quarter
GREY_MODES = frozenset({"1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"})
Resize = Literal["fill", "fit", "stretch"]
ImageShape = tuple[int, int, int]
"""Height, width, channels (1 or 3)."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a picture says of itself before it is decoded."""

    height: int
    width: int
    grey: bool


def read_header(content: bytes | npt.NDArray[np.uint8], *, max_pixels: int) -> Header:
    """Size and kind of a picture, without decoding its pixels.

    Raises:
        DecodeError: not a picture, or one with more than max_pixels.
    """
    with _opened(content, max_pixels) as image:
        width, height = image.size
        # Pillow gives the size of a TIFF as it will be turned, that of others as it is stored.
        if _orientation(image) >= 5 and image.format != "TIFF":
            width, height = height, width
        return Header(height, width, image.mode in GREY_MODES)


def decode(
    content: bytes | npt.NDArray[np.uint8],
    image_shape: ImageShape,
    *,
    resize: Resize,
    max_pixels: int,
) -> npt.NDArray[np.uint8]:
    """A picture as (H, W, C) uint8, upright, of exactly image_shape.

    Grey, palette, RGB, RGBA, CMYK and 16-bit pictures are understood; what is transparent becomes
    white; of an animation the first frame is taken; 16 bits keep their upper 8.

    Args:
        content: The bytes of a file in any format that Pillow reads, or decoded pixels, (H, W) or
            (H, W, 3) uint8.
        image_shape: Height, width and channels of the result.
        resize: See `DataConfig.resize`.
        max_pixels: Larger pictures are refused before any memory is spent on them.

    Raises:
        DecodeError: the reason why it cannot be read, in a few words.
    """
    height, width, channels = image_shape
    with _opened(content, max_pixels) as image:
        try:
            if image.format == "JPEG" and min(image.size) > 4 * max(height, width):
                # Let the JPEG decoder leave out detail that the resize below would average away.
                image.draft(image.mode, (2 * max(height, width),) * 2)
            pixels = _to_mode(image, "L" if channels == 1 else "RGB")
            if _orientation(image) > 1:
                pixels = ImageOps.exif_transpose(pixels)
        except MemoryError:
            raise
        except Exception as error:  # a parser of foreign bytes may raise anything
            raise DecodeError(_reason(error)) from error
    if pixels.size != (width, height):
        match resize:
            case "fill":
                pixels = ImageOps.fit(pixels, (width, height), Image.Resampling.BICUBIC)
            case "fit":
                pixels = ImageOps.pad(pixels, (width, height), Image.Resampling.BICUBIC)
            case "stretch":
                pixels = pixels.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(pixels, dtype=np.uint8).reshape(image_shape)


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Pixels (H, W, 1) or (H, W, 3) uint8 as a PNG file, which decodes to the same pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _opened(content: bytes | npt.NDArray[np.uint8], max_pixels: int) -> Image.Image:
    if isinstance(content, np.ndarray):
        return Image.fromarray(content)
    if not content:
        msg = "empty file"
        raise DecodeError(msg)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken metadata and Pillow's own pixel limit
            image = Image.open(io.BytesIO(content))
    except Image.DecompressionBombError:
        msg = f"more than {max_pixels:,} pixels"
        raise DecodeError(msg) from None
    except MemoryError:
        raise
    except Exception as error:  # a parser of foreign bytes may raise anything
        raise DecodeError(_reason(error)) from error
    if image.width * image.height > max_pixels:
        msg = f"{image.width} x {image.height} is more than {max_pixels:,} pixels"
        image.close()
        raise DecodeError(msg)
    return image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; broken metadata counts as upright."""
    if image.format is None:
        return 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = image.getexif().get(ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_mode(image: Image.Image, mode: Literal["L", "RGB"]) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image.load()
    if image.mode in GREY_MODES - {"1", "L"}:
        return _from_deep_grey(image, mode)
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(opaque)
        white.info = image.info
        image = white
    converted = image if image.mode == mode else image.convert(mode)
    converted.info = image.info
    return converted


def _from_deep_grey(image: Image.Image, mode: str) -> Image.Image:
    """16-bit, 32-bit or float grey as 8 bits; Pillow's own convert would clip at 255."""
    values = np.asarray(image)
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
        values = values * (255.0 if values.max(initial=0) <= 1.0 else 1.0)
        grey = np.round(values)
    elif image.mode == "I" and values.max(initial=0) <= 255:
        grey = values  # 32-bit files are also written for 8-bit values
    else:
        grey = values >> 8
    converted = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert(mode)
    converted.info = image.info  # with the orientation in it
    return converted


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a picture in a known format"
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__
