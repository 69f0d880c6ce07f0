"""Tables as people write them: CSV of any delimiter and encoding, JSON lines, parquet, or a list without a header."""

import codecs
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from imgrec.data.sources.node import looks_like_picture
from imgrec.errors import DataError, reason_of

TEXT_TABLES = (".csv", ".tsv", ".txt")
JSON_LINES = (".jsonl", ".ndjson")
TABLES = (*TEXT_TABLES, *JSON_LINES, ".parquet")
DELIMITERS = ",;\t|"
BLANKS = " "
LIST_COLUMNS = ("path", "label", "split")
"""Of a table without a header."""
UTF_8 = "utf-8-sig"
AUTO = "auto"
MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: UTF_8}
SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True)
class Table:
    """A table in a file.

    Attributes:
        path: The file; its ending says what kind it is.
        written_in: `data.encoding`.
    """

    path: Path
    written_in: str = AUTO

    @cached_property
    def names(self) -> list[str]:
        """Of its columns, in their order."""
        return self._format[0]

    @cached_property
    def encoding(self) -> str:
        """Of its text; empty for parquet."""
        if self.path.suffix == ".parquet":
            return ""
        if self.written_in != AUTO:
            return self.written_in
        with self._reading(), self.path.open("rb") as file:
            return _encoding_of(file.read(SAMPLE_BYTES))

    @property
    def has_header(self) -> bool:
        """Whether its first line names the columns."""
        return self._format[2]

    def rows(self) -> Iterator[dict[str, str]]:
        """Row by row, every value as text; what is not there is empty.

        Raises:
            DataError: it cannot be read, or a row has more fields than the first.
        """
        if self.path.suffix == ".parquet":
            yield from self._parquet_rows()
        elif self.path.suffix in JSON_LINES:
            yield from self._json_rows()
        else:
            yield from self._text_rows()

    @cached_property
    def _format(self) -> tuple[list[str], str, bool]:
        """Names of the columns, the delimiter, and whether the first line is a header."""
        if self.path.suffix == ".parquet":
            from pyarrow import parquet  # noqa: PLC0415 - half a second, for this kind alone

            with self._reading():
                return _plain_columns(parquet.read_schema(self.path)), "", True
        if self.path.suffix in JSON_LINES:
            names: dict[str, None] = {}
            for row in self._json_rows():  # all, for the first may lack some
                names |= dict.fromkeys(row)
            return list(names), "", True
        with self._reading(), self.path.open(encoding=self.encoding, newline="") as file:
            line = file.readline()
        if not line.strip():
            msg = f"{self.path}: its first line is empty; name the columns there: path,label"
            raise DataError(msg)
        delimiter = max(DELIMITERS, key=line.count)
        if not line.count(delimiter):
            delimiter = BLANKS
        fields = _fields(line, delimiter)
        if looks_like_picture(fields[0]) and len(fields) <= len(LIST_COLUMNS):
            return list(LIST_COLUMNS[: len(fields)]), delimiter, False
        return [field.strip() for field in fields], delimiter, True

    def _text_rows(self) -> Iterator[dict[str, str]]:
        names, delimiter, has_header = self._format
        with self._reading(), self.path.open(encoding=self.encoding, newline="") as file:
            if delimiter == BLANKS:
                lines = (line for line in file if line.strip())
                if has_header:
                    next(lines)
                for line in lines:
                    yield dict(zip(names, _fields(line, delimiter), strict=False))
                return
            reader = csv.reader(file, delimiter=delimiter)
            if has_header:
                next(reader)
            for values in reader:
                if not values:
                    continue
                if len(values) > len(names):
                    msg = (
                        f"{self.path}: line {reader.line_num} has more than the {len(names)} fields of "
                        f'the first one; put what holds a {delimiter} in ""'
                    )
                    raise DataError(msg)
                yield dict.fromkeys(names, "") | {
                    name: value.strip() for name, value in zip(names, values, strict=False)
                }

    def _json_rows(self) -> Iterator[dict[str, str]]:
        with self._reading(), self.path.open(encoding=self.encoding) as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    msg = f"{self.path}: line {number} is not JSON ({reason_of(error)}); write an object in each line"
                    raise DataError(msg) from error
                if not isinstance(row, dict):
                    msg = f"{self.path}: line {number} is no object of JSON; write an object in each line"
                    raise DataError(msg)
                yield {str(name): _text(value) for name, value in row.items()}

    def _parquet_rows(self) -> Iterator[dict[str, str]]:
        from pyarrow import parquet  # noqa: PLC0415 - as in _format

        with self._reading(), parquet.ParquetFile(self.path) as file:
            plain = _plain_columns(file.schema_arrow)
            for batch in file.iter_batches(columns=plain):
                for row in batch.to_pylist():
                    yield {name: _text(value) for name, value in row.items()}

    def _reading(self) -> "_Reading":
        return _Reading(self.path)


@dataclass(frozen=True, slots=True)
class _Reading:
    """What cannot be read inside is a DataError."""

    path: Path

    def __enter__(self) -> None:
        """Nothing."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Say what is wrong, and what to do."""
        if error is None or isinstance(error, DataError | GeneratorExit):
            return
        if isinstance(error, UnicodeError):
            msg = f"{self.path}: not a text file in one encoding; save it as UTF-8"
        elif self.path.suffix == ".parquet" and (
            isinstance(error, OSError) or type(error).__module__.startswith("pyarrow")
        ):
            msg = f"{self.path}: cannot be read as parquet ({reason_of(error)}); write it again"
        elif isinstance(error, OSError | csv.Error):
            msg = f"{self.path}: {getattr(error, 'strerror', None) or error}"
        else:
            return
        raise DataError(msg) from error


def _encoding_of(sample: bytes) -> str:
    """UTF-8 where it is that; else what a mark at the start says, or what the bytes are most like.

    Excel writes UTF-16, and in China GBK.
    """
    for mark, name in MARKS.items():
        if sample.startswith(mark):
            return name
    if _is(sample, "utf-8"):
        return UTF_8
    from charset_normalizer import from_bytes  # noqa: PLC0415 - only for what is not UTF-8

    best = from_bytes(sample).best()
    if (best is None or not best.coherence) and _is(sample, "gb2312"):
        return "gb18030"  # too few words to tell its language, and Chinese is what is met most
    return best.encoding if best else UTF_8


def _is(sample: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(sample)  # it may end inside a character
    except UnicodeDecodeError:
        return False
    return True


def _fields(line: str, delimiter: str) -> list[str]:
    if delimiter == BLANKS:
        # The names of files may hold blanks; what stands behind one has none.
        if looks_like_picture(line.strip()):
            return [line.strip()]
        return [field.strip() for field in line.strip().rsplit(None, 1)]
    return next(csv.reader(io.StringIO(line), delimiter=delimiter))


def _plain_columns(schema: Any) -> list[str]:
    """Those that hold text or numbers, and no bytes, lists or structs."""
    from pyarrow import types  # noqa: PLC0415 - only for parquet

    return [
        field.name
        for field in schema
        if not (
            types.is_nested(field.type)
            or types.is_binary(field.type)
            or types.is_large_binary(field.type)
        )
    ]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list) and len(value) == 1:
        return _text(value[0])
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
