"""Where pictures come from: each kind of source is a small file with one class (`Source`).

| `data.source` | is |
|---|---|
| `digits` | `digits.py` |
| a folder of class folders | `folder.py` |
| `table.csv`, or `table.parquet` with paths | `manifest.py` |
| `*.parquet` with the pictures inside, or a folder of such files | `parquet.py` |
| `*.tar` or `*.zip`, or a folder of such files | `archive.py` |
| `*.tar.gz`, `*.7z`, and others that are compressed as a whole | `compressed.py` |
| a folder of `save_to_disk` | `saved.py` |
| `torchvision:NAME` | `torchvision.py` |
| any but the first and last of these behind `s3://`, `gs://`, `https://`, ... | `remote.py` |
"""

import glob
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from imgrec.config import DataConfig
from imgrec.data.sources.archive import Archives
from imgrec.data.sources.clutter import is_clutter
from imgrec.data.sources.compressed import COMPRESSED, as_plain_tar
from imgrec.data.sources.digits import Digits
from imgrec.data.sources.folder import Folder
from imgrec.data.sources.manifest import Manifest
from imgrec.data.sources.parquet import EmbeddedParquet, image_column
from imgrec.data.sources.remote import RemoteFolder, fetch, folders_in, shards_in
from imgrec.data.sources.sample import SPLIT_NAMES, Progress, Source, nothing_told
from imgrec.data.sources.saved import SavedDataset, is_saved_dataset
from imgrec.data.sources.table import TABLES, Table
from imgrec.data.sources.torchvision import PREFIX, Torchvision
from imgrec.data.sources.tree import Rule
from imgrec.errors import DataError, reason_of

PACKED = (".tar", ".zip")
FILES = (*TABLES, *PACKED, *COMPRESSED)
METADATA = ("metadata.csv", "metadata.jsonl")
SHARDS = ((".parquet",), PACKED)
"""Kinds of files that may lie in a folder together, by their endings."""
# No deeper, for a folder of pictures would be walked through for nothing.
SHARD_PLACES = ("", "data", *SPLIT_NAMES)
NAMED: dict[str, Callable[[str, Path], Source]] = {
    "digits": lambda _rest, _downloads: Digits(),
    PREFIX: lambda rest, downloads: Torchvision(rest, downloads / "torchvision"),
}
"""Sources that are not files of the user: a name, or its part up to the colon, and how one is made of the rest
of the name and the folder for downloads."""


WITHOUT_EFFECT: dict[str, tuple[type, ...]] = {
    "columns": (Manifest,),
    "encoding": (Manifest,),
    "image_ending": (Archives,),
    "label_from": (Folder, RemoteFolder, Archives),
    "label_pattern": (Folder, RemoteFolder, Archives),
}
"""Settings, and the sources on which alone they have an effect."""


def open_source(config: DataConfig, downloads: Path, progress: Progress = nothing_told) -> Source:
    """The source that the settings name, as `DataConfig.source` describes them.

    Args:
        config: The settings.
        downloads: Folder for what is fetched from elsewhere, or unpacked.
        progress: Told what takes long.

    Raises:
        DataError: there is no such thing, it is of no known kind, or a setting has no effect on it.
    """
    source = _source(config, downloads, progress)
    for setting, kinds in WITHOUT_EFFECT.items():
        default = DataConfig.model_fields[setting].get_default(call_default_factory=True)
        if getattr(config, setting) != default and not isinstance(source, kinds):
            what = source.reading().layout
            msg = f"data.{setting} has no effect on {config.source}, which is {what}"
            raise DataError(msg)
    return source


def open_pictures(config: DataConfig, downloads: Path) -> Source:
    """The same for what is to be recognized, of which nothing need say what it shows: settings about classes count for nothing.

    Raises:
        DataError: there is no such thing, or it is of no known kind.
    """
    return _source(config, downloads)


def _source(config: DataConfig, downloads: Path, progress: Progress = nothing_told) -> Source:
    name = config.source
    if build := _named(name):
        return build(name.partition(":")[2], downloads)
    name = name.removeprefix("file://")
    opener = _Opener(config, downloads, progress)
    if "://" in name:
        return opener.remote(name.rstrip("/"))
    refuse_missing(name)
    path = _absolute(name)
    if path.is_dir():
        try:
            if is_saved_dataset(path):
                return SavedDataset(path)
            if files := _shards(path) or _tables_in(path):
                return opener.of_files(name, files, str(path))
        except OSError as error:
            msg = f"{error.filename}: {error.strerror}"
            raise DataError(msg) from error
        return Folder(path, opener.rule)
    return opener.of_files(name, _local_files(path), str(path.parent))


@dataclass(frozen=True, slots=True)
class _Opener:
    """What is known of a source when its kind is being found out."""

    config: DataConfig
    downloads: Path
    progress: Progress

    @property
    def rule(self) -> Rule:
        """How folders are read."""
        return Rule(self.config.label_from, self.config.label_pattern)

    def remote(self, url: str) -> Source:
        """What is behind a URL: files are copied, a folder is not."""
        allowed = frozenset(self.config.allow_hosts)
        if url.endswith(FILES):
            files = fetch([url], self.downloads, allowed)
            return self.of_files(url, files, url.rpartition("/")[0])
        folders = folders_in(url, allowed)
        for endings in SHARDS:
            urls = [
                found
                for ending in endings
                for found in shards_in(url, _places(folders), ending, allowed)
            ]
            if urls:
                return self.of_files(url, fetch(urls, self.downloads, allowed), url)
        if len(folders) > 1:
            # Of the hub many a data set has a folder of parquet for each of its configurations.
            for ending in itertools.chain.from_iterable(SHARDS):
                if shards_in(url, folders[:1], ending, allowed):
                    raise _several(url, folders)
        return RemoteFolder(url, allowed, self.rule)

    def of_files(self, name: str, paths: tuple[Path, ...], base: str) -> Source:
        """Files of this machine.

        Args:
            name: Of all together, for errors.
            paths: They.
            base: What paths in a table count from.
        """
        plain = tuple(
            as_plain_tar(path, self.downloads) if path.name.lower().endswith(COMPRESSED) else path
            for path in paths
        )
        kinds = {path.suffix for path in plain}
        if kinds <= set(PACKED):
            return Archives(
                paths,
                self.rule,
                self.config.image_ending,
                plain,
                self.config.decode_workers,
                self.progress,
            )
        if kinds == {".parquet"} and _holds_pictures(paths[0]):
            return EmbeddedParquet(paths)
        if len(paths) > 1 and not all(_says_split(path) for path in paths):
            msg = (
                f"{name}: {len(paths)} tables of paths; give one, or call them train, val and test"
            )
            raise DataError(msg)
        tables = tuple(Table(path, self.config.encoding) for path in paths)
        return Manifest(
            tables,
            base,
            self.config.allow_hosts,
            self.config.group,
            {str(part): name for part, name in self.config.columns.items()},
        )


def _named(name: str) -> Callable[[str, Path], Source] | None:
    head, colon, _ = name.partition(":")
    return NAMED.get(head + colon)


def refuse_missing(name: str) -> None:
    """Stop at once where the source is not there, before anything heavy is even imported.

    Raises:
        DataError: a path that does not exist, or is of no known kind.
    """
    if _named(name) or "://" in name:
        return
    path = _absolute(name)
    try:
        if path.is_dir():
            return
        if not _local_files(path):
            msg = f"{path}: no such {'file' if path.name.endswith(FILES) else 'folder'}"
        elif path.name.endswith(FILES):
            return
        else:
            msg = f"{path}: a file; give the folder that holds the class folders, or a file of kind {', '.join(FILES)}"
    except OSError as error:
        msg = f"{path}: {error.strerror}"
    raise DataError(msg)


def _shards(folder: Path) -> tuple[Path, ...]:
    """Parquet or tar files in a folder, or in its data/, train/, val/ and test/.

    Raises:
        DataError: there are class folders too.
    """
    folders = _folders_in(folder)
    places = _places(folders)
    for endings in SHARDS:
        files = sorted(
            file
            for place in places
            for ending in endings
            for file in (folder / place).glob(f"*{ending}")
            if not is_clutter(file.name)
        )
        if not files:
            continue
        known = {"data", *SPLIT_NAMES, *places}
        classes = sorted(
            one.relative_to(folder).as_posix()
            for place in places
            if (folder / place).is_dir()
            for one in (folder / place).iterdir()
            if one.is_dir() and not is_clutter(one.name) and one.name.lower() not in known
        )
        if classes:
            msg = (
                f"{folder}: has class folders ({classes[0]}) and {files[0].name}; name the file "
                f"itself, or move it away"
            )
            raise DataError(msg)
        return tuple(files)
    if len(folders) > 1:
        first = next((one.name for one in (folder / folders[0]).iterdir()), "")
        if first.endswith(tuple(itertools.chain.from_iterable(SHARDS))):
            raise _several(str(folder), folders)
    return ()


def _folders_in(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(one.name for one in entries if one.is_dir() and not is_clutter(one.name))


def _places(folders: Sequence[str]) -> tuple[str, ...]:
    """Where shards may lie, below a folder that has these folders: the only one there is wraps them."""
    return tuple(dict.fromkeys([*SHARD_PLACES, *(folders if len(folders) == 1 else ())]))


def _several(name: str, folders: Sequence[str]) -> DataError:
    some = ", ".join(folders[:4]) + (", ..." if len(folders) > 4 else "")
    msg = f"{name}: each of its folders is a data set ({some}); name one: {name}/{folders[0]}"
    return DataError(msg)


def _says_split(path: Path) -> bool:
    """Whether a table is called train, say, or lies in a folder that is."""
    return bool({path.stem.lower(), path.parent.name.lower()} & set(SPLIT_NAMES))


def _tables_in(folder: Path) -> tuple[Path, ...]:
    """The metadata.csv or metadata.jsonl in a folder, or in its split folders, as Hugging Face lays them."""
    for name in METADATA:
        places = (
            folder,
            *(one for one in sorted(folder.iterdir()) if one.name.lower() in SPLIT_NAMES),
        )
        found = tuple(place / name for place in places if (place / name).is_file())
        if (
            found and "file_name" in Table(found[0]).names
        ):  # others note other things in such a file
            return found
    return ()


def _holds_pictures(path: Path) -> bool:
    from pyarrow import ArrowException, parquet  # noqa: PLC0415 - not for other sources

    try:
        return image_column(parquet.read_schema(path)) is not None
    except (OSError, ArrowException) as error:
        msg = f"{path}: cannot be read as parquet ({reason_of(error)}); write it again"
        raise DataError(msg) from error


def _local_files(path: Path) -> tuple[Path, ...]:
    if path.is_file():
        return (path,)
    return tuple(Path(file) for file in sorted(glob.glob(str(path))))  # noqa: PTH207 - any depth


def _absolute(name: str) -> Path:
    return Path(name).expanduser().absolute()
