"""Tars that are compressed as a whole: parts of them cannot be read by themselves, so they are unpacked once."""

import bz2
import gzip
import hashlib
import lzma
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

from imgrec.errors import DataError, disk_failure, reason_of

OPEN: dict[str, Callable[[Path], object]] = {
    ".tar.gz": gzip.open,
    ".tgz": gzip.open,
    ".tar.xz": lzma.open,
    ".tar.bz2": bz2.open,
}
COMPRESSED = tuple(OPEN)
MOST_BYTES = 1 << 40
MOST_TIMES = 100
"""Photos are no smaller compressed; what becomes so much larger was made to fill the disk."""
LEAST_SUSPECT = 1 << 30
CHUNK = 1 << 22


def as_plain_tar(file: Path, downloads: Path) -> Path:
    """The tar in a compressed file, unpacked into a folder unless it is there already.

    Args:
        file: Of an ending in COMPRESSED.
        downloads: Plain ones lie in its subfolder `unpacked`.

    Raises:
        DataError: it is broken, or far larger than it looks.
        StorageError: there is no room.
    """
    status = file.stat()
    identity = f"{file}\0{status.st_size}\0{status.st_mtime_ns}"
    folder = (
        downloads
        / "unpacked"
        / hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    )
    ending = next(ending for ending in COMPRESSED if file.name.lower().endswith(ending))
    target = folder / f"{file.name[: -len(ending)]}.tar"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{uuid.uuid4().hex}.part"
    most = min(MOST_BYTES, max(LEAST_SUSPECT, MOST_TIMES * status.st_size))
    try:
        with cast("IO[bytes]", OPEN[ending](file)) as packed, part.open("wb") as plain:
            while chunk := packed.read(CHUNK):
                plain.write(chunk)
                if plain.tell() > most:
                    msg = f"{file}: becomes more than {most >> 30} GiB; unpack it yourself, and give the folder"
                    raise DataError(msg)
        part.rename(target)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        if isinstance(error, OSError) and (failure := disk_failure(error)):
            raise failure from error
        msg = f"{file}: cannot be unpacked ({reason_of(error)}); copy or pack it again"
        raise DataError(msg) from error
    finally:
        part.unlink(missing_ok=True)
    return target
