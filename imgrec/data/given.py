"""Pictures as a program has them: paths, bytes, arrays, or Pillow's images."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from imgrec.data.content import Content, File, InMemoryFile, InMemoryPixels, Missing

Given = str | os.PathLike[str] | bytes | npt.NDArray[np.uint8] | Image.Image
KEPT = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
"""Modes that PNG keeps as they are."""


def as_several(pictures: Given | Sequence[Given]) -> Sequence[Given]:
    """The pictures, where it is one in a list: text and bytes are sequences too."""
    if isinstance(pictures, str | os.PathLike | bytes | np.ndarray | Image.Image):
        return [pictures]
    return pictures


def contents_of(pictures: Sequence[Given | Content]) -> list[Content]:
    """Where the bytes of each are. What is no picture at all is missing, with the reason."""
    contents = [_content_of(one) for one in pictures]
    pixels = [isinstance(one, InMemoryPixels) for one in contents]
    if all(pixels) or not any(pixels):
        return contents
    # Files are decoded in processes of their own; pixels among them go the same way.
    return [_as_file(one.array) if isinstance(one, InMemoryPixels) else one for one in contents]


def name_of(picture: Given | Content, row: int) -> str:
    """What to call it in an error."""
    return str(picture) if isinstance(picture, str | os.PathLike) else f"row {row}"


def _content_of(picture: Given | Content) -> Content:
    if isinstance(picture, bytes):
        return InMemoryFile(picture)
    if isinstance(picture, str | os.PathLike):
        return File(str(Path(picture)))
    if isinstance(picture, np.ndarray):
        return _of_array(picture)
    if isinstance(picture, Image.Image):
        return _of_image(picture)
    return picture


def _of_array(pixels: npt.NDArray[np.uint8]) -> Content:
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype != np.uint8 or pixels.ndim not in {2, 3} or channels not in {1, 3, 4}:
        return Missing(
            f"an array of {pixels.dtype} {pixels.shape}; write uint8 (H, W) or (H, W, C)"
        )
    if not pixels.size:
        return Missing("an array without pixels")
    if channels == 4:
        return _as_file(pixels)
    return InMemoryPixels(pixels[:, :, 0] if pixels.ndim == 3 and channels == 1 else pixels)


def _of_image(image: Image.Image) -> Content:
    """Without loss, as a file: transparency, palette and the turning of a camera count as those of files do."""
    try:
        kept = image if image.mode in KEPT else image.convert("RGB")
        buffer = io.BytesIO()
        kept.save(buffer, "PNG", compress_level=1, exif=image.getexif())
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        return Missing(f"Pillow cannot read it: {error}")
    return InMemoryFile(buffer.getvalue())


def _as_file(pixels: npt.NDArray[np.uint8]) -> Content:
    return _of_image(Image.fromarray(pixels))
