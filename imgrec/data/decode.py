"""Bytes to pixels: the one decoder, in training and in serving.

It returns numpy rather than torch, so that the processes that decode need not import torch.
"""

import io
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from imgrec.errors import DecodeError

# Part of the key of every store: raise it when the same bytes come out as other pixels.
DECODER_VERSION = 2
ORIENTATION = 0x0112  # EXIF tag; values 5 to 8 turn the picture by a quarter
GREY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"})
# What people keep pictures in. Not EPS: that is a program, which Pillow has Ghostscript run. Not
# ICO, ICNS and BLP: what they hold may be larger than they say, and the limit could not hold.
FORMATS = (
    "AVIF",
    "BMP",
    "DDS",
    "DIB",
    "GIF",
    "IM",
    "JPEG",
    "JPEG2000",
    "MSP",
    "PCX",
    "PNG",
    "PPM",
    "PSD",
    "QOI",
    "SGI",
    "SPIDER",
    "TGA",
    "TIFF",
    "WEBP",
    "XBM",
)
ANIMATED = frozenset({"AVIF", "GIF", "PNG", "TIFF", "WEBP"})
# Large JPEG files are decoded at a fraction of their size, with at least this shorter side.
REDUCED_SIDE = 256
Resize = Literal["fill", "fit", "stretch"]
Pixels = npt.NDArray[np.uint8]
"""(H, W) or (H, W, 3)."""
Content = bytes | Pixels
ImageShape = tuple[int, int, int]
"""Height, width, channels (1 or 3)."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a picture says of itself before it is decoded."""

    height: int
    width: int
    mode: str  # as Pillow calls it

    @property
    def grey(self) -> bool:
        """Whether it has no colours."""
        return self.mode in GREY_MODES


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture, upright, before it is brought to the shape of a store.

    Attributes:
        pixels: (H, W) if it is grey, else (H, W, 3).
        header: Its own size, which may be larger than that of the pixels.
        animated: There are more frames or pages than this first one.
    """

    pixels: Pixels
    header: Header
    animated: bool = False


def read_header(content: Content, *, max_pixels: int) -> Header:
    """Size and kind of a picture, without decoding its pixels.

    Raises:
        DecodeError: not a picture, or one with more than max_pixels.
    """
    if isinstance(content, np.ndarray):
        return _read_array(content, max_pixels).header
    with _opened(content, max_pixels) as image:
        return _header(image)


def read_picture(content: Content, *, max_pixels: int, side: int = 0) -> Picture:
    """A picture as it is, upright.

    Grey, palette, RGB, RGBA, CMYK and 16-bit pictures are understood; what is transparent becomes
    white; of an animation the first frame is taken; 16 bits keep their upper 8.

    Args:
        content: The bytes of a file in any of FORMATS, or decoded pixels.
        max_pixels: Larger pictures are refused before any memory is spent on them.
        side: A JPEG file may be decoded at a fraction of its size, as long as it keeps twice this
            many pixels along its shorter side, and REDUCED_SIDE.

    Raises:
        DecodeError: the reason why it cannot be read, in a few words.
    """
    if isinstance(content, np.ndarray):
        return _read_array(content, max_pixels)
    enough = max(REDUCED_SIDE, 2 * side)
    return _read_plain_jpeg(content, max_pixels, enough) or _read_any(content, max_pixels, enough)


def fitted(pixels: Pixels, image_shape: ImageShape, resize: Resize) -> Pixels:
    """Pixels (H, W) or (H, W, 3) as (height, width, channels) of exactly image_shape."""
    height, width, channels = image_shape
    if pixels.shape[:2] != (height, width):
        image = _resized(Image.fromarray(pixels), (width, height), resize)
        pixels = np.asarray(image)
    if channels == 1 and pixels.ndim == 3:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))
    elif channels == 3 and pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    return pixels.reshape(image_shape)


def decode(content: Content, image_shape: ImageShape, *, resize: Resize, max_pixels: int) -> Pixels:
    """A picture as (H, W, C) uint8, upright, of exactly image_shape; see read_picture and fitted.

    Raises:
        DecodeError: the reason why it cannot be read, in a few words.
    """
    picture = read_picture(content, max_pixels=max_pixels, side=max(image_shape[:2]))
    return fitted(picture.pixels, image_shape, resize)


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Pixels (H, W, 1) or (H, W, 3) uint8 as a PNG file, which decodes to the same pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _read_array(pixels: Pixels, max_pixels: int) -> Picture:
    height, width = pixels.shape[:2]
    _refuse_large(height, width, max_pixels)
    return Picture(pixels, Header(height, width, "L" if pixels.ndim == 2 else "RGB"))


def _read_plain_jpeg(content: bytes, max_pixels: int, enough: int) -> Picture | None:
    """A JPEG file of the usual kind, four times faster than by Pillow and to the same pixels.

    None where it is of another kind, may have to be turned or reduced, or has any flaw: what
    becomes of such files is Pillow's to say.
    """
    if content[:2] != b"\xff\xd8" or b"Exif" in content or b"http://ns.adobe.com/xap" in content:
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
        if colors not in {"YCbCr", "Gray"} or min(height, width) >= 2 * enough:
            return None
        if height * width > max_pixels:
            return None
        grey = colors == "Gray"
        pixels = simplejpeg.decode_jpeg(content, "GRAY" if grey else "RGB")
    except ValueError:
        return None
    pixels = pixels[:, :, 0] if grey else pixels
    return Picture(pixels, Header(height, width, "L" if grey else "RGB"))


def _read_any(content: bytes, max_pixels: int, enough: int) -> Picture:
    with _opened(content, max_pixels) as image:
        try:
            header, animated = _header(image), _is_animated(image)
            if image.format in {"JPEG", "MPO"} and min(image.size) >= 2 * enough:
                image.draft(image.mode, (enough, enough))
            upright = _to_mode(image, "L" if header.grey else "RGB")
            if _orientation(image) > 1:
                upright = ImageOps.exif_transpose(upright)
            return Picture(np.asarray(upright, dtype=np.uint8), header, animated)
        except MemoryError:
            raise
        except Exception as error:  # a parser of foreign bytes may raise anything
            raise DecodeError(_reason(error)) from error


def _header(image: Image.Image) -> Header:
    width, height = image.size
    # Pillow gives the size of a TIFF as it will be turned, that of others as it is stored.
    if _orientation(image) >= 5 and image.format != "TIFF":
        width, height = height, width
    return Header(height, width, image.mode)


def _is_animated(image: Image.Image) -> bool:
    return image.format in ANIMATED and bool(getattr(image, "is_animated", False))


def _resized(image: Image.Image, size: tuple[int, int], resize: Resize) -> Image.Image:
    match resize:
        case "fill":
            return ImageOps.fit(image, size, Image.Resampling.BICUBIC)
        case "fit":
            return _padded(image, size)
        case "stretch":
            return image.resize(size, Image.Resampling.BICUBIC)


def _padded(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """In the middle of a black canvas; Pillow's own `pad` refuses strips that become thinner than 1."""
    scale = min(size[0] / image.width, size[1] / image.height)
    width, height = (max(1, round(side * scale)) for side in image.size)
    canvas = Image.new(image.mode, size)
    corner = ((size[0] - width) // 2, (size[1] - height) // 2)
    canvas.paste(image.resize((width, height), Image.Resampling.BICUBIC), corner)
    return canvas


def _opened(content: bytes, max_pixels: int) -> Image.Image:
    if not content:
        msg = "empty file"
        raise DecodeError(msg)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken metadata and Pillow's own pixel limit
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        msg = f"more than {max_pixels:,} pixels"
        raise DecodeError(msg) from None
    except MemoryError:
        raise
    except Exception as error:  # a parser of foreign bytes may raise anything
        raise DecodeError(_reason(error)) from error
    try:
        _refuse_large(image.height, image.width, max_pixels)
    except DecodeError:
        image.close()
        raise
    return image


def _refuse_large(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        msg = f"{width} x {height} is more than {max_pixels:,} pixels"
        raise DecodeError(msg)


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
    if image.mode in GREY_MODES - {"1", "L", "LA"}:
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
    return text[:200] or f"cannot be decoded ({type(error).__name__})"
