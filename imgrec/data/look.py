"""One look at each picture: decoded once, for the store and for what is found out about it.

It runs in processes of its own, which import no torch.
"""

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from imgrec.data.content import Content, Missing, read_all
from imgrec.data.decode import (
    REDUCED_SIDE,
    Decoding,
    Header,
    Picture,
    Pixels,
    decode,
    fitted,
    read_header,
    read_picture,
)
from imgrec.data.depth import DEEP_MODES
from imgrec.data.encoded import encode_jpeg
from imgrec.data.parallel import within_limits
from imgrec.errors import DecodeError

LOOK = np.dtype(
    [
        ("digest", "V16"),  # of the decoded pixels
        ("hash", "<u8"),  # perceptual: alike pictures differ in few bits
        ("height", "<i4"),
        ("width", "<i4"),
        ("mode", "U8"),  # as Pillow calls it
        ("grey", "?"),
        ("animated", "?"),
        ("mean", "<f4"),  # brightness, 0 to 255
        ("std", "<f4"),  # of the brightness within the picture
        ("peak", "<f8"),  # of greys with more than 8 bits: the brightest value but for a few
    ]
)
"""What is known of a picture beside its pixels."""
Looks = npt.NDArray[np.void]
THUMBNAIL = 32
BYTES_AT_ONCE = 1 << 18
HASH_SIDE = 8


@dataclass(frozen=True, slots=True)
class PartScan:
    """What came of some contents.

    Attributes:
        kept: (n,) bool: those that could be read.
        looks: Of those.
        reasons: Of the others.
        unread: How many of them could not be had at all, rather than be decoded.
        encoded: The pictures that could be read, for a store that keeps them so.
    """

    kept: npt.NDArray[np.bool_]
    looks: Looks
    reasons: list[str]
    unread: int
    encoded: list[bytes]


class _Images:
    """Where pictures in the shape of a store go: into a .npy file, or to be sent back.

    Pixels do not travel between processes, but JPEG bytes do: where each of them will lie in its file
    is known only when all before it are encoded. Pixels are written some rows at a time: in a map of the file each
    of its pages would be a fault, 8 µs for each small picture.
    """

    def __init__(self, images_file: Path) -> None:
        self.encoded: list[bytes] = []
        self._rows, self._first = bytearray(), 0
        self._file = None
        if images_file.suffix == ".npy":
            images = np.load(images_file, mmap_mode="r")
            self._start, self._row_bytes = images.offset, images[0].nbytes
            self._file = images_file.open("r+b")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()
        if self._file:
            self._file.close()

    def put(self, row: int, pixels: Pixels) -> None:
        """The pixels (H, W, C) of a row; rows come in order, though some may be left out."""
        if not self._file:
            self.encoded.append(encode_jpeg(pixels))
            return
        held = len(self._rows) // self._row_bytes
        if row != self._first + held or len(self._rows) > BYTES_AT_ONCE:
            self._write()
            self._first = row
        self._rows += np.ascontiguousarray(pixels).data

    def _write(self) -> None:
        if self._file and self._rows:
            self._file.seek(self._start + self._first * self._row_bytes)
            self._file.write(self._rows)
            self._rows.clear()


def look_at(start: int, contents: Sequence[Content], images_file: Path, how: Decoding) -> PartScan:
    """Decode what lies there, put it where the images (N, H, W, C) of a store are, and describe it.

    Args:
        start: Which row of the images belongs to the first of the contents.
        contents: Where the pictures are.
        images_file: Of the store; of pixels (.npy), or encoded.
        how: They are brought to the shape of the images.
    """
    with _Images(images_file) as images:
        return _looked_at(start, contents, images, how)


def _looked_at(start: int, contents: Sequence[Content], images: _Images, how: Decoding) -> PartScan:
    kept = np.ones(len(contents), dtype=bool)
    thumbnails = np.empty((len(contents), THUMBNAIL, THUMBNAIL), dtype=np.float32)
    small: dict[int, Pixels] = {}
    digests: list[bytes] = []
    headers: list[tuple[int, int, str, bool, bool, float]] = []
    reasons: list[str] = []
    unread = 0
    for place, content in enumerate(read_all(contents)):
        try:
            if isinstance(content, DecodeError):
                unread += not isinstance(contents[place], Missing)
                raise content
            with within_limits():
                picture = read_picture(content, max_pixels=how.max_pixels, depth=how.depth)
                images.put(start + place, _shaped(content, picture, how))
        except DecodeError as error:
            kept[place] = False
            reasons.append(str(error))
            continue
        # A picture may be a thousand times larger than what is kept of it.
        pixels, header = picture.pixels, picture.header
        if pixels.shape == (THUMBNAIL, THUMBNAIL, 3):
            small[place] = pixels
        else:
            thumbnails[place] = _thumbnail(pixels)
        digests.append(_digest(pixels))
        headers.append(
            (
                header.height,
                header.width,
                header.mode,
                header.grey,
                picture.animated,
                picture.peak,
            )
        )
    if small:
        # One below the other they are one picture, for which Pillow takes a tenth of the time.
        below = np.concatenate(list(small.values()))
        grey = np.asarray(Image.fromarray(below).convert("L"))
        thumbnails[list(small)] = grey.reshape(-1, THUMBNAIL, THUMBNAIL)
    looks = _looks(digests, headers, thumbnails[kept])
    return PartScan(kept, looks, reasons, unread, images.encoded)


def peek(
    _start: int, contents: Sequence[Content], max_pixels: int, wants_peaks: bool
) -> list[tuple[Header, float]]:
    """What those that can be read say of themselves, and, where they are wanted, the peaks of deep greys.

    These are decoded for that.
    """
    peeked = []
    for content in read_all(contents):
        with contextlib.suppress(DecodeError), within_limits():  # the pass over all will say so
            if isinstance(content, DecodeError):
                continue
            header, peak = read_header(content, max_pixels=max_pixels), 0.0
            if wants_peaks and header.mode in DEEP_MODES:
                peak = read_picture(content, max_pixels=max_pixels).peak
            peeked.append((header, peak))
    return peeked


def only_write(
    start: int, contents: Sequence[Content], images_file: Path, how: Decoding
) -> tuple[int, list[bytes]]:
    """Put the images of contents that could be read before where they belong; how many, and encoded."""
    with _Images(images_file) as images:
        for place, content in enumerate(read_all(contents)):
            if isinstance(content, DecodeError):
                msg = f"{contents[place]}: could be read a moment ago, and now {content}"
                raise DecodeError(msg)
            with within_limits():
                images.put(start + place, decode(content, how))
    return len(contents), images.encoded


def _shaped(content: bytes | Pixels, picture: Picture, how: Decoding) -> Pixels:
    """The picture in the shape of the store, exactly as `decode` has it."""
    reduced = picture.pixels.shape[0] < picture.header.height
    if reduced and 2 * max(how.image_shape[:2]) > REDUCED_SIDE:
        # It was decoded smaller than this store wants it.
        return decode(content, how)
    return fitted(picture.pixels, how.image_shape, how.resize)


def _looks(
    digests: Sequence[bytes],
    headers: Sequence[tuple[int, int, str, bool, bool, float]],
    thumbnails: npt.NDArray[np.float32],
) -> Looks:
    looks = np.empty(len(digests), dtype=LOOK)
    looks["digest"] = np.frombuffer(b"".join(digests), dtype="V16")
    if headers:
        fields = ("height", "width", "mode", "grey", "animated", "peak")
        for name, column in zip(fields, zip(*headers, strict=True), strict=True):
            looks[name] = column
    looks["hash"] = perceptual_hashes(thumbnails)
    looks["mean"] = thumbnails.mean(axis=(1, 2))
    looks["std"] = thumbnails.std(axis=(1, 2))
    return looks


def _digest(pixels: Pixels) -> bytes:
    """16 bytes of the shape and the pixels."""
    digest = hashlib.sha256(b"%d %d %d" % (pixels.ndim, *pixels.shape[:2]))
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()[:16]


def _thumbnail(pixels: Pixels) -> npt.NDArray[np.float32]:
    """(32, 32) brightness."""
    grey = Image.fromarray(pixels).convert("L")
    small = grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return np.asarray(small, dtype=np.float32)


def perceptual_hashes(thumbnails: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    """Thumbnails (n, 32, 32) to hashes (n,): pHash, bit for bit as `imagehash.phash` has it.

    A bit for each of the 64 lowest frequencies of the cosine transform: whether it is above their
    median. Written for batches, because imagehash takes four times as long as decoding does.

    Source: Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions".
    """
    cosines = _cosines()
    lowest = cosines @ thumbnails.astype(np.float64) @ cosines.T  # (n, 8, 8)
    flat = lowest.reshape(-1, HASH_SIDE**2)
    bits = flat > np.median(flat, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)


@cache
def _cosines() -> npt.NDArray[np.float64]:
    """The first 8 rows of the type-2 cosine transform of 32 values."""
    frequencies = np.arange(HASH_SIDE)[:, None]
    places = np.arange(THUMBNAIL) + 0.5
    return 2 * np.cos(np.pi * frequencies * places / THUMBNAIL)
