"""Parquet files with the pictures inside, as Hugging Face `datasets` writes them."""

import itertools
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from imgrec.data.content import Missing
from imgrec.data.sources.columns import LABEL_COLUMNS, PATH_COLUMNS, column, found, split_of
from imgrec.data.sources.folder import file_state
from imgrec.data.sources.reading import Reading
from imgrec.data.sources.sample import SPLIT_NAMES, Named, Sample, Split
from imgrec.errors import DataError, DecodeError, reason_of

IMAGE_COLUMNS = (
    "image",
    "img",
    "image_bytes",
    "picture",
    "photo",
    "bytes",
    "content",
    "jpg",
    "png",
)
ROWS_AT_ONCE, BUFFER_BYTES = 64, 1 << 20


@dataclass(frozen=True, slots=True)
class Cell:
    """A picture in a row of a parquet file."""

    path: Path
    group: int
    row: int
    column: str

    def read(self) -> bytes:
        """The cell's bytes. Rows of one group are fastest read in their order."""
        content: bytes | None = _rows(self.path, self.group, self.column).cell(self.row)
        if content is None:
            msg = "the row holds no bytes"
            raise DecodeError(msg)
        return content


class _Rows:
    """A column of a row group, read forwards in batches: a whole group may hold gigabytes."""

    def __init__(self, path: Path, group: int, column: str) -> None:
        from pyarrow import parquet  # noqa: PLC0415 - not for other sources

        self._open = partial(parquet.ParquetFile, path, buffer_size=BUFFER_BYTES)
        self._wanted = {"batch_size": ROWS_AT_ONCE, "row_groups": [group], "columns": [column]}
        self._batches: Iterator[Any] = iter(())
        self._first, self._batch = 0, list[Any]()

    def cell(self, row: int) -> bytes | None:
        from pyarrow import ArrowException  # noqa: PLC0415

        try:
            if row < self._first or not self._batch:
                self._batches, self._first, self._batch = self._from_the_start(), 0, []
            while row >= self._first + len(self._batch):
                self._first += len(self._batch)
                self._batch = next(self._batches).column(0)
            value: Any = self._batch[row - self._first].as_py()
            content: bytes | None = value["bytes"] if isinstance(value, dict) else value
        except MemoryError:
            raise
        except (OSError, ArrowException) as error:
            msg = f"cannot be read: {reason_of(error)}"
            raise DecodeError(msg) from error
        return content

    def _from_the_start(self) -> Iterator[Any]:
        with self._open() as file:
            yield from file.iter_batches(**self._wanted)


_rows = lru_cache(maxsize=1)(_Rows)


@dataclass(frozen=True)
class EmbeddedParquet:
    """Columns image ({bytes, path}), label and, if the data bring their own, split.

    Attributes:
        paths: The files. Without a column split, of several those called `train-...` are the split train, and
            so on.
    """

    paths: tuple[Path, ...]

    def __iter__(self) -> Iterator[Sample]:
        """File by file, in the rows' order."""
        for path in self.paths:
            yield from self._samples(path)

    def pictures(self) -> Iterator[Named]:
        """The same without labels."""
        for path in self.paths:
            with _opened(path) as file:
                yield from self._cells(path, file, _column_of_pictures(path, file))

    def state(self) -> Any:
        """Of the files."""
        return [file_state(path, str(path)) for path in self.paths]

    def reading(self) -> Reading:
        """What was taken for what."""
        from pyarrow import parquet  # noqa: PLC0415 - not for other sources

        schema = parquet.read_schema(self.paths[0])
        label = label_column(schema.names, features_of(schema), self.paths[0])
        splits = dict[str, str]()
        if "split" in schema.names:
            splits = {"each split": "in column split"}
        else:
            for path in self.paths:
                if split := self._split(path):
                    splits[split] = (
                        f"{splits[split]}, {path.name}" if split in splits else path.name
                    )
        layout = f"pictures in column {image_column(schema)} of {len(self.paths):,} parquet files"
        return Reading(layout, f"column {label}", splits)

    def _samples(self, path: Path) -> Iterator[Sample]:
        with _opened(path) as file:
            cells = self._cells(path, file, _column_of_pictures(path, file))
            features = features_of(file.schema_arrow)
            label = label_column(file.schema_arrow.names, features, path)
            names = features[label].get("names") if label in features else None
            wanted = [label, *(["split"] if "split" in file.schema_arrow.names else [])]
            rows = (
                values
                for group in range(file.num_row_groups)
                for values in file.read_row_group(group, columns=wanted).to_pylist()
            )
            for number, ((name, cell), values) in enumerate(zip(cells, rows, strict=True), start=1):
                text, problem = label_text(values[label], names)
                split = split_of(values.get("split") or "", path, number)
                content = Missing(problem) if problem else cell
                yield Sample(name, content, text, split or self._split(path))

    def _cells(self, path: Path, file: Any, column: str) -> Iterator[tuple[str, Cell]]:
        """What each row of a file is called, and where its picture is."""
        root = os.path.commonpath([one.parent for one in self.paths])
        name, number = path.relative_to(root).as_posix(), itertools.count()
        for group in range(file.num_row_groups):
            for row in range(file.metadata.row_group(group).num_rows):
                yield f"{name}:{next(number)}", Cell(path, group, row, column)

    def _split(self, path: Path) -> Split | None:
        """The split that the file's name says; a single file holds all splits, whatever it is called."""
        return split_of_file(path) if len(self.paths) > 1 else None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A parquet file; what cannot be read of it is a DataError."""
    from pyarrow import ArrowException, parquet  # noqa: PLC0415 - not for other sources

    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (OSError, ArrowException) as error:
        msg = f"{path}: cannot be read as parquet ({reason_of(error)}); write it again"
        raise DataError(msg) from error


def _column_of_pictures(path: Path, file: Any) -> str:
    if (image := image_column(file.schema_arrow)) is None:
        msg = (
            f"{path}: no column holds pictures, as those of other files beside it do; move it away"
        )
        raise DataError(msg)
    return image


def image_column(schema: Any) -> str | None:
    """The column that holds pictures: a struct with bytes in it, or the only one of plain bytes; or None."""
    from pyarrow import types  # noqa: PLC0415

    for field in schema:
        if types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return field.name
    texts = [field.name for field in schema if types.is_string(field.type)]
    if found(texts, PATH_COLUMNS):
        return None  # a table of files, whatever else it holds
    plain = [
        field.name
        for field in schema
        if types.is_binary(field.type) or types.is_large_binary(field.type)
    ]
    return found(plain, IMAGE_COLUMNS) or (plain[0] if len(plain) == 1 else None)


def split_of_file(path: Path) -> Split | None:
    """`train-00000-of-00002.parquet`, `val_0.tar` or `test/0.tar` say which split they are."""
    start = re.split(r"[-_.]", path.name.lower(), maxsplit=1)[0]
    return SPLIT_NAMES.get(start) or SPLIT_NAMES.get(path.parent.name.lower())


def features_of(schema: Any) -> dict[str, Any]:
    """What Hugging Face notes beside the columns, with the names of the classes."""
    raw = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        noted = json.loads(raw)["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return {name: kind for name, kind in noted.items() if isinstance(kind, dict)}


def label_column(names: list[str], features: dict[str, Any], path: Path) -> str:
    """The column that names classes: by its name, or as Hugging Face notes it.

    Raises:
        DataError: none does.
    """
    classes = [name for name, kind in features.items() if kind.get("_type") == "ClassLabel"]
    return column(names, (*LABEL_COLUMNS, *classes), path)


def label_text(value: Any, names: list[str] | None) -> tuple[str, str]:
    """The name of a class, and what is wrong with it if something is."""
    if value is None:
        return "", "the row gives no label"
    if names is None or not isinstance(value, int):
        return str(value), ""
    if 0 <= value < len(names):
        return names[value], ""
    return str(value), f"label {value} is not one of the {len(names)} named classes"
