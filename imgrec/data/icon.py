"""Windows icons: several pictures in one file, of which the largest is read.

What a picture in it is as large as, its own header says; the file's table of contents may say anything. So
every header is read before anything is decoded, and only kinds whose header is what is decoded: PNG as a file of
its own, and bitmaps with the usual header.
"""

import struct
from dataclasses import dataclass

from imgrec.errors import DecodeError

ICON = b"\0\0\1\0"
PNG = b"\x89PNG\r\n\x1a\n"
ENTRY = 16
"""Bytes of an entry of the table: sides, colours, and where its picture lies."""
BITMAP_HEADER = 40


@dataclass(frozen=True, slots=True)
class _Frame:
    """One of the pictures: its entry in the table, its bytes, and the size that they say it has."""

    entry: bytes
    content: bytes
    height: int
    width: int


def largest_of_icon(content: bytes, max_pixels: int) -> bytes:
    """The largest picture of an icon, of equal ones the last, as a PNG file or an icon of it alone.

    Args:
        content: Begins with ICON.
        max_pixels: Where any of the pictures has more, none is read.

    Raises:
        DecodeError: one is too large, none is there, or one is of another kind.
    """
    count = int.from_bytes(content[4:6], "little")
    entries = [content[start : start + ENTRY] for start in range(6, 6 + ENTRY * count, ENTRY)]
    frames = [_frame(entry, content) for entry in entries]
    if not frames:
        msg = "an icon without a picture"
        raise DecodeError(msg)
    for frame in frames:
        if frame.height * frame.width > max_pixels:
            msg = f"{frame.width} x {frame.height} is more than {max_pixels:,} pixels"
            raise DecodeError(msg)
    chosen = max(reversed(frames), key=lambda frame: frame.height * frame.width)
    if chosen.content.startswith(PNG):
        return chosen.content
    start = struct.pack("<I", len(ICON) + 2 + ENTRY)
    # Its bits a pixel say whether it has transparency of its own; the table often leaves them out.
    bits = chosen.content[14:16]
    return ICON + b"\1\0" + chosen.entry[:6] + bits + chosen.entry[8:12] + start + chosen.content


def _frame(entry: bytes, icon: bytes) -> _Frame:
    if len(entry) < ENTRY:
        msg = "an icon that ends in the middle"
        raise DecodeError(msg)
    size, start = struct.unpack("<II", entry[8:])
    content = icon[start : start + size]
    if len(content) < max(size, BITMAP_HEADER):
        msg = "an icon that ends in the middle"
        raise DecodeError(msg)
    if content.startswith(PNG):
        width, height = struct.unpack(">II", content[16:24])
    elif int.from_bytes(content[:4], "little") == BITMAP_HEADER:
        # The bitmap has its mask below it.
        width, height = struct.unpack("<ii", content[4:12])
        height = abs(height) // 2
    else:
        msg = "an icon with a picture of an unusual kind in it"
        raise DecodeError(msg)
    return _Frame(entry, content, height, abs(width))
