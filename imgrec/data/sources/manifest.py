"""A table of paths and labels, as CSV or parquet."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgrec.data.content import Content, Missing
from imgrec.data.sources.folder import file_state
from imgrec.data.sources.reading import Reading
from imgrec.data.sources.remote import identity_of
from imgrec.data.sources.sample import SPLIT_NAMES, File, Remote, Sample, Split
from imgrec.data.sources.web import checked, own_places
from imgrec.errors import DataError, DecodeError, reason_of

PATH_COLUMNS = ("path", "file", "filename", "file_name", "image")
LABEL_COLUMNS = ("label", "class")
DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class Manifest:
    """Columns path, label and, if the data bring their own, split.

    The columns of a CSV may be parted by commas, semicolons, tabs or bars.

    Attributes:
        path: The table.
        base: What relative paths count from: the folder or the URL that the table came from.
        allow_hosts: Where rows of a table from a URL may lie, beside the table's own host or bucket.
    """

    path: Path
    base: str
    allow_hosts: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Sample]:
        """In the table's order."""
        rows = _parquet_rows(self.path) if self.path.suffix == ".parquet" else _csv_rows(self.path)
        seen: set[str] = set()
        for number, (path, label, split) in enumerate(rows, start=1):
            # One file may stand for two classes; their ids must not be the same.
            name = path if path not in seen else f"{path} (row {number})"
            seen.add(path)
            yield Sample(name, self._content(path), label, split_of(split, self.path, number))

    def state(self) -> Any:
        """Of the table and of every file in it."""
        contents = [sample.content for sample in self]
        files = [file_state(Path(one.path), one.path) for one in contents if isinstance(one, File)]
        remote = identity_of([one for one in contents if isinstance(one, Remote)])
        return [file_state(self.path, self.path.name), self.base, files, remote]

    def reading(self) -> Reading:
        """What was taken for what."""
        names = _columns(self.path)
        of, label = (column(names, wanted, self.path) for wanted in (PATH_COLUMNS, LABEL_COLUMNS))
        splits = {"each split": "in column split"} if "split" in names else {}
        return Reading(f"a table of files, in column {of}", f"column {label}", splits)

    def _content(self, path: str) -> Content:
        if not path:
            return Missing("the manifest gives no path")
        if "\0" in path:
            return Missing("its path is not one")
        if path.startswith("file:") and "://" not in self.base:
            return Missing("write paths of this machine without file:")
        if "://" in path or "://" in self.base:
            return self._remote(path)
        return File(str(Path(self.base, path)))

    def _remote(self, path: str) -> Content:
        """A file behind a URL. A table from elsewhere may not name addresses inside this machine's network."""
        allowed = frozenset(self.allow_hosts)
        if "://" not in path:
            return Remote(f"{self.base}/{path}", allowed)
        # A table on this machine is the user's own, and may name any place.
        within = allowed | own_places(self.base) if "://" in self.base else None
        try:
            return Remote(checked(path, within), allowed)
        except DecodeError as error:
            return Missing(str(error))


def split_of(name: str, where: Path, row: int) -> Split | None:
    """The split of a name such as `valid`.

    Raises:
        DataError: it is the name of none.
    """
    if not name:
        return None
    try:
        return SPLIT_NAMES[name.lower()]
    except KeyError:
        msg = f"{where}: row {row} has split {name!r}; write train, val or test"
        raise DataError(msg) from None


def column(names: Iterable[str], wanted: Iterable[str], where: Path) -> str:
    """The first of the wanted columns that is there.

    Raises:
        DataError: none is.
    """
    names, wanted = list(names), list(wanted)
    for name in wanted:
        if name in names:
            return name
    msg = f"{where}: no column {' or '.join(wanted)}; it has {', '.join(map(str, names))}"
    raise DataError(msg)


def _columns(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        from pyarrow import parquet  # noqa: PLC0415 - as in _parquet_rows

        return list(parquet.read_schema(path).names)
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
    return next(csv.reader([header], delimiter=max(DELIMITERS, key=header.count)))


def _csv_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            if not header.strip():
                msg = f"{path}: its first line is empty; name the columns there: path,label"
                raise DataError(msg)
            file.seek(0)
            reader = csv.DictReader(file, delimiter=max(DELIMITERS, key=header.count))
            names = reader.fieldnames or []
            of = column(names, PATH_COLUMNS, path)
            label = column(names, LABEL_COLUMNS, path)
            for row in reader:
                if None in row:
                    msg = (
                        f"{path}: line {reader.line_num} has more than the {len(names)} fields of "
                        f'the first one; put what holds a {reader.reader.dialect.delimiter} in ""'
                    )
                    raise DataError(msg)
                yield (
                    (row[of] or "").strip(),
                    (row[label] or "").strip(),
                    (row.get("split") or "").strip(),
                )
    except UnicodeDecodeError as error:
        msg = f"{path}: not a text file in UTF-8"
        raise DataError(msg) from error
    except (OSError, csv.Error) as error:
        msg = f"{path}: {getattr(error, 'strerror', None) or error}"
        raise DataError(msg) from error


def _parquet_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    # Half a second, for this kind of source alone.
    from pyarrow import ArrowException, parquet  # noqa: PLC0415

    try:
        with parquet.ParquetFile(path) as file:
            yield from _rows_of(file, path)
    except (OSError, ArrowException) as error:
        msg = f"{path}: cannot be read as parquet ({reason_of(error)}); write it again"
        raise DataError(msg) from error


def _rows_of(file: Any, path: Path) -> Iterator[tuple[str, str, str]]:
    names = file.schema_arrow.names
    chosen = [column(names, PATH_COLUMNS, path), column(names, LABEL_COLUMNS, path)]
    wanted = [*chosen, *(["split"] if "split" in names else [])]
    for batch in file.iter_batches(columns=wanted):
        for row in batch.to_pylist():
            values = [row[name] for name in wanted]
            texts = ["" if value is None else str(value) for value in values]
            yield texts[0], texts[1], texts[2] if len(texts) > 2 else ""
