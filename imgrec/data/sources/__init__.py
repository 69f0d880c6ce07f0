"""Where pictures come from: each kind of source is a small file with one class (`Source`).

| `data.source` | is |
|---|---|
| `digits` | `digits.py` |
| a folder of class folders | `folder.py` |
| `table.csv`, or `table.parquet` with paths | `manifest.py` |
| `*.parquet` with the pictures inside, or a folder of such files | `parquet.py` |
| `*.tar`, or a folder of such files | `tar.py` |
| `torchvision:NAME` | `torchvision.py` |
| any but the first and last of these behind `s3://`, `gs://`, `https://`, ... | `remote.py` |
"""

import glob
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from imgrec.config import DataConfig
from imgrec.data.content import Missing
from imgrec.data.sources.digits import Digits
from imgrec.data.sources.folder import Folder, subfolders
from imgrec.data.sources.manifest import Manifest
from imgrec.data.sources.parquet import EmbeddedParquet, image_column
from imgrec.data.sources.remote import RemoteFolder, fetch, shards_in
from imgrec.data.sources.sample import SPLIT_NAMES, Sample, Source, Split
from imgrec.data.sources.tar import Shards
from imgrec.data.sources.torchvision import PREFIX, Torchvision
from imgrec.errors import DataError, reason_of

TABLES = (".csv", ".parquet")
# Control characters, and halves of characters.
NO_TEXT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
FILES = (*TABLES, ".tar")
SHARDS = (".parquet", ".tar")
# No deeper, for a folder of pictures would be walked through for nothing.
SHARD_PLACES = ("", "data", *SPLIT_NAMES)
COMPRESSED = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".zip")
NAMED: dict[str, Callable[[str, Path], Source]] = {
    "digits": lambda _rest, _downloads: Digits(),
    PREFIX: lambda rest, downloads: Torchvision(rest, downloads / "torchvision"),
}
"""Sources that are not files of the user: a name, or its part up to the colon, and how one is made of the rest
of the name and the folder for downloads."""


def open_source(name: str, downloads: Path, allow_hosts: Sequence[str] = ()) -> Source:
    """The source of a name, as `DataConfig.source` describes them.

    Args:
        name: What the settings say.
        downloads: Folder for what is fetched from elsewhere.
        allow_hosts: `DataConfig.allow_hosts`.

    Raises:
        DataError: there is no such thing, or it is of no known kind.
    """
    if build := _named(name):
        return build(name.partition(":")[2], downloads)
    name = name.removeprefix("file://")
    _refuse_compressed(name)
    if "://" in name:
        return _remote(name.rstrip("/"), downloads, tuple(allow_hosts))
    refuse_missing(name)
    path = _absolute(name)
    if path.is_dir():
        shards = _shards(path)
        return _of_files(name, shards, str(path), tuple(allow_hosts)) if shards else Folder(path)
    return _of_files(name, _local_files(path), str(path.parent), tuple(allow_hosts))


def _named(name: str) -> Callable[[str, Path], Source] | None:
    head, colon, _ = name.partition(":")
    return NAMED.get(head + colon)


def _remote(url: str, downloads: Path, allow_hosts: tuple[str, ...]) -> Source:
    allowed = frozenset(allow_hosts)
    if url.endswith(FILES):
        files = fetch([url], downloads, allowed)
        return _of_files(url, files, url.rpartition("/")[0], allow_hosts)
    for ending in SHARDS:
        if urls := shards_in(url, SHARD_PLACES, ending, allowed):
            return _of_files(url, fetch(urls, downloads, allowed), url, allow_hosts)
    return RemoteFolder(url, allowed)


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
            msg = f"{path}: no such {'file' if path.suffix in FILES else 'folder'}"
        elif path.suffix in FILES:
            return
        else:
            _refuse_compressed(name)
            msg = f"{path}: a file; give the folder that holds the class folders, or a file of kind {', '.join(FILES)}"
    except OSError as error:
        msg = f"{path}: {error.strerror}"
    raise DataError(msg)


def list_samples(source: Source, config: DataConfig) -> list[Sample]:
    """All samples of a source; those of other classes than data.classes are named as unusable.

    Raises:
        DataError: it has fewer than two classes, or its splits have other classes than train.
    """
    samples = [_in_class_map(sample, config.classes) for sample in source]
    usable = [sample for sample in samples if not isinstance(sample.content, Missing)]
    if lost := sorted(set(config.classes) - {sample.label for sample in usable}):
        msg = f"{config.source}: no picture of {', '.join(lost)}, which data.classes names"
        raise DataError(msg)
    _refuse_useless(config.source, usable)
    return samples


def _in_class_map(sample: Sample, classes: Sequence[str]) -> Sample:
    if isinstance(sample.content, Missing):
        return sample
    if not sample.label:
        problem = "it has no label"
    elif NO_TEXT.search(sample.label):
        problem = f"its label {sample.label[:50]!a} is not text in one line"
    elif classes and sample.label not in classes:
        problem = f"class {sample.label} is not in data.classes"
    else:
        return sample
    return Sample(sample.id, Missing(problem), sample.label, sample.split)


def _refuse_useless(source: str, samples: Sequence[Sample]) -> None:
    counts = Counter((sample.split, sample.label) for sample in samples)
    classes = {label for _, label in counts}
    if len(classes) < 2:
        held = f"only one class ({classes.pop()})" if classes else "no picture with a label"
        msg = f"{source}: {held}; classification needs at least two classes"
        raise DataError(msg)
    trained = {label for split, label in counts if split in {None, "train"}}
    splits: tuple[Split, ...] = ("val", "test")
    for split in splits:
        brought = {label for other, label in counts if other == split}
        if not brought:
            continue
        if strangers := sorted(brought - trained):
            msg = f"{source}: {split} has classes that train has not: {', '.join(strangers[:5])}; rename or remove them"
            raise DataError(msg)
        if absent := sorted(trained - brought):
            msg = (
                f"{source}: {split} lacks classes that train has: {', '.join(absent[:5])}; add "
                f"pictures of them, or take {split} away to have it cut from train"
            )
            raise DataError(msg)


def _of_files(
    name: str, paths: tuple[Path, ...], base: str, allow_hosts: tuple[str, ...]
) -> Source:
    kinds = {path.suffix for path in paths}
    if kinds == {".tar"}:
        return Shards(paths)
    if kinds == {".parquet"} and _holds_pictures(paths[0]):
        return EmbeddedParquet(paths)
    if len(paths) > 1:
        msg = f"{name}: {len(paths)} tables of paths; give one"
        raise DataError(msg)
    return Manifest(paths[0], base, allow_hosts)


def _shards(folder: Path) -> tuple[Path, ...]:
    """Parquet or tar files in a folder, or in its data/, train/, val/ and test/.

    Raises:
        DataError: there are class folders too.
    """
    for ending in SHARDS:
        files = [
            file
            for place in SHARD_PLACES
            for file in sorted((folder / place).glob(f"*{ending}"))
            if not file.name.startswith(".")
        ]
        if not files:
            continue
        known = {"data", *SPLIT_NAMES}
        classes = [one.name for one in subfolders(folder) if one.name.lower() not in known]
        if classes:
            msg = (
                f"{folder}: has class folders ({classes[0]}) and {files[0].name}; name the file "
                f"itself, or move it away"
            )
            raise DataError(msg)
        return tuple(files)
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


def _refuse_compressed(name: str) -> None:
    if name.endswith(COMPRESSED):
        msg = (
            f"{name}: parts of a compressed file cannot be read by themselves; unpack it, or pack "
            f"it again as plain .tar"
        )
        raise DataError(msg)


def _absolute(name: str) -> Path:
    return Path(name).expanduser().absolute()
