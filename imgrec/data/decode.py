"""Bytes to pixels: the one decoder, in training and in serving.

It returns numpy rather than torch, so that the processes that decode need not import torch.
"""

import io
import re
import warnings
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import jpeg_factory

from imgrec.data.depth import DEEP_MODES, FULL_DEPTH, Depth, peak_of, to_eight_bits
from imgrec.data.gamut import PROFILE, in_srgb
from imgrec.data.icon import ICON, largest_of_icon
from imgrec.data.kinds import kind_of
from imgrec.errors import DecodeError
from imgrec.shapes import ImageShape, Resize

# Part of the key of every store: raise it when the same bytes come out as other pixels.
DECODER_VERSION = 5
ORIENTATION = 0x0112  # EXIF tag; values 5 to 8 turn the picture by a quarter
GREY_MODES = DEEP_MODES | {"1", "L", "LA"}
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that makes a picture upright, by its EXIF orientation."""
# What people keep pictures in. Not EPS: that is a program, which Pillow has Ghostscript run. Not
# ICNS and BLP: what they hold may be larger than they say, and the limit could not hold. ICO only as `icon.py` takes
# it apart.
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
# What phones write; read where the extra is installed.
HEIF = "HEIF"
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")
WITHOUT_HEIF = "HEIC: install imgrec[heif]"
ANIMATED = frozenset({"AVIF", "GIF", "PNG", "TIFF", "WEBP"})
# Progressive JPEG files come in passes over the whole picture: usually ten, and a hostile file has thousands.
MOST_SCANS = 100
ICC_SEGMENT = b"ICC_PROFILE\0"
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
# The first two bytes of a segment of a JPEG file. Those left out stand inside of scans: a stuffed byte, a
# restart, or filling.
MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
# Pictures, and pixels, that go through a model at once in evaluation: the cnn takes about 300 MB for them.
MOST_AT_ONCE, PIXELS_AT_ONCE = 512, 1 << 20
# Large JPEG files are decoded at a fraction of their size, with at least this shorter side.
REDUCED_SIDE = 256
Pixels = npt.NDArray[np.uint8]
"""(H, W) or (H, W, 3)."""
PictureData = bytes | Pixels


class Decoding(NamedTuple):
    """How encoded pictures become pixels of one shape.

    Attributes:
        image_shape: Height, width, channels.
        resize: How a picture of other proportions is brought to it.
        max_pixels: Larger pictures are refused before any memory is spent on them.
        depth: How many bits of deep greys are used; the same for all pictures of a set.
    """

    image_shape: ImageShape
    resize: Resize
    max_pixels: int
    depth: Depth = FULL_DEPTH


class Header(NamedTuple):
    """What a picture says of itself before it is decoded."""

    height: int
    width: int
    mode: str  # as Pillow calls it

    @property
    def grey(self) -> bool:
        """Whether it has no colours."""
        return self.mode in GREY_MODES


class Picture(NamedTuple):
    """A decoded picture, upright, before it is brought to the shape of a store.

    Attributes:
        pixels: (H, W) if it is grey, else (H, W, 3).
        header: Its own size, which may be larger than that of the pixels.
        animated: There are more frames or pages than this first one.
        peak: Of a grey with more than 8 bits its brightest value but for a few; else 0.
    """

    pixels: Pixels
    header: Header
    animated: bool = False
    peak: float = 0.0


def read_header(content: PictureData, *, max_pixels: int) -> Header:
    """Size and kind of a picture, without decoding its pixels.

    Raises:
        DecodeError: not a picture, or one with more than max_pixels.
    """
    if isinstance(content, np.ndarray):
        return _read_array(content, max_pixels).header
    with _opened(content, max_pixels) as image:
        # EXIF data behind the pixels of a PNG can be read after decoding only; the scan reads them.
        known = image.format != "PNG" or "exif" in image.info
        return _header(image, image.size, _orientation(image) if known else 1)


def read_picture(
    content: PictureData, *, max_pixels: int, side: int = 0, depth: Depth = FULL_DEPTH
) -> Picture:
    """A picture as it is, upright.

    Grey, palette, RGB, RGBA, CMYK and 16-bit pictures are understood; what is transparent becomes
    white; of an animation the first frame is taken; greys with more than 8 bits are scaled by `depth`.

    Args:
        content: The bytes of a file in any of FORMATS, or decoded pixels.
        max_pixels: Larger pictures are refused before any memory is spent on them.
        side: A JPEG file may be decoded at a fraction of its size, as long as it keeps twice this
            many pixels along its shorter side, and REDUCED_SIDE.
        depth: How many bits of deep greys are used; the same for all pictures of a set.

    Raises:
        DecodeError: the reason why it cannot be read, in a few words.
    """
    if isinstance(content, np.ndarray):
        return _read_array(content, max_pixels)
    enough = max(REDUCED_SIDE, 2 * side)
    _refuse_many_scans(content)
    return _read_plain_jpeg(content, max_pixels, enough) or _read_any(
        content, max_pixels, enough, depth
    )


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


def decode(content: PictureData, how: Decoding) -> Pixels:
    """A picture as (H, W, C) uint8, upright, of exactly `how.image_shape`; see read_picture and fitted.

    Raises:
        DecodeError: the reason why it cannot be read, in a few words.
    """
    side = max(how.image_shape[:2])
    picture = read_picture(content, max_pixels=how.max_pixels, side=side, depth=how.depth)
    return fitted(picture.pixels, how.image_shape, how.resize)


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Pixels (H, W, 1) or (H, W, 3) uint8 as a PNG file, which decodes to the same pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pictures_at_once(image_shape: ImageShape) -> int:
    """How many pictures go through a model at once where none is trained; of large ones fewer."""
    height, width, _ = image_shape
    return max(1, min(MOST_AT_ONCE, PIXELS_AT_ONCE // (height * width)))


def _read_array(pixels: Pixels, max_pixels: int) -> Picture:
    height, width = pixels.shape[:2]
    _refuse_large(height, width, max_pixels)
    return Picture(pixels, Header(height, width, "L" if pixels.ndim == 2 else "RGB"))


def _read_plain_jpeg(content: bytes, max_pixels: int, enough: int) -> Picture | None:
    """A JPEG file of the usual kind, four times faster than by Pillow and to the same pixels.

    None where it is of another kind, may have to be turned or reduced, or has any flaw: Pillow
    decides on such files.
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
    if grey:
        pixels = pixels[:, :, 0]
    elif ICC_SEGMENT in content:
        with _opened(content, max_pixels) as image:
            profile = image.info.get(PROFILE)
        coloured = Image.fromarray(pixels)
        coloured.info[PROFILE] = profile
        pixels = np.asarray(in_srgb(coloured))
    return Picture(pixels, Header(height, width, "L" if grey else "RGB"))


def _refuse_many_scans(content: bytes) -> None:
    """Raise DecodeError where a JPEG file has more than MOST_SCANS, before any scan is decoded."""
    if content[:2] != b"\xff\xd8" or content.count(START_OF_SCAN) <= MOST_SCANS:
        return
    # The two bytes may stand in metadata too, or in a video that a telephone put behind the picture.
    position, scans = 2, 0
    while (marker := MARKER.search(content, position)) and marker[0] != END_OF_IMAGE:
        scans += marker[0] == START_OF_SCAN
        position = marker.end() + max(2, int.from_bytes(content[marker.end() : marker.end() + 2]))
    if scans > MOST_SCANS:
        msg = f"more than {MOST_SCANS} scans"
        raise DecodeError(msg)


def _read_any(content: bytes, max_pixels: int, enough: int, depth: Depth) -> Picture:
    with _opened(content, max_pixels, enough) as image:
        try:
            animated, size, mode = _is_animated(image), image.size, image.mode
            if image.format in {"JPEG", "MPO"} and min(image.size) >= 2 * enough:
                image.draft(image.mode, (enough, enough))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # Before anything else is asked of it: for its EXIF Pillow would load a PNG too, and say
                # nothing where it cannot.
                image.load()
            orientation = _orientation(image)
            header = _header(image, size, orientation, mode)
            wanted: Literal["L", "RGB"] = "L" if header.grey else "RGB"
            peak = 0.0
            if image.mode in DEEP_MODES:
                values = np.asarray(image)
                peak = peak_of(values)
                upright = Image.fromarray(to_eight_bits(values, depth)).convert(wanted)
            else:
                upright = _to_mode(in_srgb(image), wanted)
            if orientation > 1:
                upright = upright.transpose(TURNS[orientation])
            return Picture(np.asarray(upright, dtype=np.uint8), header, animated, peak)
        except MemoryError:
            raise
        except Exception as error:  # a parser of foreign bytes may raise anything
            raise DecodeError(_reason(error)) from error


def _header(image: Image.Image, size: tuple[int, int], orientation: int, mode: str = "") -> Header:
    width, height = size
    # Pillow gives the size of a TIFF as it will be turned, that of others as it is stored.
    if orientation >= 5 and image.format != "TIFF":
        width, height = height, width
    return Header(height, width, mode or image.mode)


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


def _opened(content: bytes, max_pixels: int, enough: int = REDUCED_SIDE) -> Image.Image:
    if not content:
        msg = "empty file"
        raise DecodeError(msg)
    if content.startswith(ICON):
        content = largest_of_icon(content, max_pixels)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken metadata and Pillow's own pixel limit
            image: Image.Image = Image.open(io.BytesIO(content), formats=_formats(content))
    except Image.DecompressionBombError:
        image = _large_jpeg(content, max_pixels)
    except UnidentifiedImageError as error:
        kind = kind_of(content)
        msg = f"not a picture but {kind}" if kind else "not a picture in a known format"
        raise DecodeError(msg) from error
    except MemoryError:
        raise
    except Exception as error:  # a parser of foreign bytes may raise anything
        raise DecodeError(_reason(error)) from error
    try:
        _refuse_large(image.height, image.width, _most_pixels(image, max_pixels, enough))
    except DecodeError:
        image.close()
        raise
    return image


def _large_jpeg(content: bytes, max_pixels: int) -> Image.Image:
    """A JPEG file of more pixels than Pillow opens, opened all the same; `_most_pixels` is the limit.

    Raises:
        DecodeError: it is of another kind.
    """
    if content[:2] == b"\xff\xd8":
        try:
            return jpeg_factory(io.BytesIO(content))
        except Exception as error:  # a parser of foreign bytes may raise anything
            raise DecodeError(_reason(error)) from error
    msg = f"more than {max_pixels:,} pixels"
    raise DecodeError(msg)


def _most_pixels(image: Image.Image, max_pixels: int, enough: int) -> int:
    """How many pixels a picture may have: of a JPEG file that is decoded at a fraction of its sides, more.

    It is decoded row by row unless it is progressive, so what it costs are the pixels that come out.
    """
    if image.format not in {"JPEG", "MPO"} or image.info.get("progressive"):
        return max_pixels
    scale = next((scale for scale in (8, 4) if min(image.size) >= scale * enough), 2)
    return max_pixels * (scale // 2) ** 2


def _formats(content: bytes) -> tuple[str, ...]:
    """The formats that this may be in.

    Raises:
        DecodeError: it is HEIC, and the extra that reads it is not installed.
    """
    if content.startswith(ICON):
        return ("ICO",)
    box = content[: int.from_bytes(content[:4])][4:]
    if box[:4] != b"ftyp" or box[4:8] not in HEIF_BRANDS:
        return FORMATS
    if any(brand in box for brand in AVIF_BRANDS):
        return FORMATS  # the container's own brand comes first in some of them
    if not _reads_heif():
        raise DecodeError(WITHOUT_HEIF)
    return (HEIF,)


@cache
def _reads_heif() -> bool:
    """Teach Pillow to read HEIC, where the extra is installed."""
    try:
        from pillow_heif import register_heif_opener  # noqa: PLC0415 - an extra
    except ImportError:
        return False
    # One thread for each picture: the processes are as many as there are cores.
    register_heif_opener(thumbnails=False, decode_threads=1, allow_incorrect_headers=False)
    return True


def _refuse_large(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        msg = f"{width} x {height} is more than {max_pixels:,} pixels"
        raise DecodeError(msg)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; metadata that cannot be read count as upright.

    To be called after `load`, except for formats whose EXIF data stand before the pixels: an error of the
    pixels must not be swallowed here.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = image.getexif().get(ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_mode(image: Image.Image, mode: Literal["L", "RGB"]) -> Image.Image:
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    return image if image.mode == mode else image.convert(mode)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:200] or f"cannot be decoded ({type(error).__name__})"
