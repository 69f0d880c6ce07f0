"""The same kinds of sources behind a URL that fsspec understands: s3://, gs://, https://, ..."""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from imgrec.data.sources.folder import CLUTTER
from imgrec.data.sources.sample import SPLIT_NAMES, Remote, Sample, Split
from imgrec.errors import DataError


@dataclass(frozen=True)
class RemoteFolder:
    """A folder of class folders; its files are fetched by the processes that decode them."""

    url: str

    def __iter__(self) -> Iterator[Sample]:
        """Every file below a class folder, sorted by path."""
        paths = [path for path, _ in self._files()]
        tops = {path.parts[0] for path in paths}
        splits = {top: SPLIT_NAMES[top.lower()] for top in tops if top.lower() in SPLIT_NAMES}
        with_splits = "train" in splits.values() and all(
            len(path.parts) > 2 for path in paths if path.parts[0] in splits
        )
        if with_splits and (strangers := sorted(tops - set(splits))):
            msg = f"{self.url}: {strangers[0]} beside train is neither val nor test; move it"
            raise DataError(msg)
        for path in paths:
            split: Split | None = splits[path.parts[0]] if with_splits else None
            label = path.parts[1] if with_splits else path.parts[0]
            yield Sample(str(path), Remote(f"{self.url}/{path}"), label, split)

    def state(self) -> Any:
        """Names, sizes, and what the storage says of their contents."""
        return [[str(path), found] for path, found in self._files()]

    def _files(self) -> list[tuple[PurePosixPath, list[str]]]:
        filesystem, root = _open(self.url)
        with _answering(self.url):
            found = filesystem.find(root, detail=True)
        files = []
        for path, details in found.items():
            below = PurePosixPath(path).relative_to(PurePosixPath(root))
            hidden = any(part.startswith(".") for part in below.parts)
            if len(below.parts) > 1 and not hidden and below.name.lower() not in CLUTTER:
                files.append((below, _identity(details)))
        if not files:
            msg = f"{self.url}: no class folder with pictures in it"
            raise DataError(msg)
        return sorted(files)


def fetch(url: str, folder: Path) -> tuple[Path, ...]:
    """Local copies of the files that a URL names, which may have `*` in it.

    Copies are kept, and fetched again only when the original has changed.

    Raises:
        DataError: it cannot be reached, or names no file.
    """
    filesystem, path = _open(url)
    with _answering(url):
        names = sorted(filesystem.glob(path)) if "*" in path else [path]
        copies = []
        for name in names:
            text = f"{url}\0{name}\0{_identity(filesystem.info(name))}"
            target = folder / hashlib.sha256(text.encode()).hexdigest()[:16] / Path(name).name
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as part:
                    with filesystem.open(name, "rb") as original:
                        shutil.copyfileobj(original, part, length=1 << 22)
                    Path(part.name).rename(target)
            copies.append(target)
    if not copies:
        msg = f"{url}: names no file"
        raise DataError(msg)
    return tuple(copies)


def _identity(details: dict[str, Any]) -> list[str]:
    keys = ("size", "ETag", "etag", "md5Hash", "crc32c", "LastModified", "mtime", "updated")
    return [str(details[key]) for key in keys if key in details]


def _open(url: str) -> tuple[Any, str]:
    import fsspec  # noqa: PLC0415 - only for what is not on this machine

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = re.search(r"[Ii]nstall (\w+)", str(error))
        cure = f"uv pip install {package[1]}" if package else str(error)
        msg = f"{url}: this kind of address needs another package: {cure}"
        raise DataError(msg) from error
    except ValueError as error:
        msg = f"{url}: {error}"
        raise DataError(msg) from error
    return filesystem, path


@contextmanager
def _answering(url: str) -> Iterator[None]:
    """Turns whatever a storage answers into an error for people."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # each storage has its own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        msg = f"{url}: cannot be read ({reason})"
        raise DataError(msg) from error
