"""Archives that are compressed as a whole: parts of them cannot be read by themselves, so they are unpacked once."""

import bz2
import gzip
import hashlib
import lzma
import tarfile
import tempfile
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

from imgrec.errors import DataError, disk_failure, reason_of

SEVEN_ZIP = ".7z"
OPEN: dict[str, Callable[[Path], object]] = {
    ".tar.gz": gzip.open,
    ".tgz": gzip.open,
    ".tar.xz": lzma.open,
    ".tar.bz2": bz2.open,
}
COMPRESSED = (*OPEN, SEVEN_ZIP)
MOST_BYTES = 1 << 40
MOST_TIMES = 100
"""Photos are no smaller compressed; what becomes so much larger was made to fill the disk."""
LEAST_SUSPECT = 1 << 30
CHUNK = 1 << 22


def as_plain_tar(file: Path, downloads: Path) -> Path:
    """What is in a compressed file as a tar, unpacked into a folder unless it is there already.

    Args:
        file: Of an ending in COMPRESSED.
        downloads: Plain ones lie in its subfolder `unpacked`.

    Raises:
        DataError: it is broken, far larger than it looks, or needs an extra or a password.
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
        if ending == SEVEN_ZIP:
            _from_seven_zip(file, part, most)
        else:
            with cast("IO[bytes]", OPEN[ending](file)) as packed, part.open("wb") as plain:
                while chunk := packed.read(CHUNK):
                    plain.write(chunk)
                    if plain.tell() > most:
                        raise _too_large(file, most)
        part.rename(target)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        if isinstance(error, OSError) and (failure := disk_failure(error)):
            raise failure from error
        msg = f"{file}: cannot be unpacked ({reason_of(error)}); copy or pack it again"
        raise DataError(msg) from error
    finally:
        part.unlink(missing_ok=True)
    return target


def _from_seven_zip(file: Path, tar: Path, most: int) -> None:
    """Its files as a tar, by way of a folder beside it that is removed."""
    try:
        import py7zr  # noqa: PLC0415 - an extra
    except ImportError as error:
        msg = f"{file}: .7z is read by imgrec[7z]; install that, or unpack it and give the folder"
        raise DataError(msg) from error
    try:
        with (
            py7zr.SevenZipFile(file) as archive,
            tempfile.TemporaryDirectory(dir=tar.parent) as folder,
        ):
            if sum(one.uncompressed for one in archive.list()) > most:
                raise _too_large(file, most)
            archive.extractall(folder)  # noqa: S202 - it refuses names that lead out of the folder
            with tarfile.open(tar, "w") as plain:
                for path in sorted(Path(folder).rglob("*")):
                    if path.is_file() and not path.is_symlink():
                        plain.add(path, path.relative_to(folder).as_posix())
                        path.unlink()  # or all of it would be on the disk twice
    except py7zr.PasswordRequired as error:
        msg = f"{file}: needs a password; unpack it yourself, and give the folder"
        raise DataError(msg) from error
    except (py7zr.exceptions.ArchiveError, py7zr.exceptions.AbsolutePathError) as error:
        msg = f"{file}: cannot be unpacked ({reason_of(error)}); copy or pack it again"
        raise DataError(msg) from error


def _too_large(file: Path, most: int) -> DataError:
    msg = f"{file}: becomes more than {most >> 30} GiB; unpack it yourself, and give the folder"
    return DataError(msg)
