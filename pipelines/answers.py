"""Answers as a file: what is written of a picture, and in which kinds of files."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self

import pyarrow as pa
import pyarrow.parquet as pq

from imgrec.classifier import Prediction
from imgrec.errors import DecodeError

SCHEMA = pa.schema(
    [
        ("picture", pa.string()),
        ("label", pa.string()),
        ("probability", pa.float32()),
        ("abstained", pa.bool_()),
        ("possible", pa.list_(pa.string())),
        ("top_labels", pa.list_(pa.string())),
        ("top_probabilities", pa.list_(pa.float32())),
        ("error", pa.string()),
    ]
)
"""`top_...`: the most probable classes, the most probable first. `error`: why there is no answer."""


def row_of(name: str, answer: Prediction | DecodeError, top: int) -> dict[str, Any]:
    """What is written of a picture, with so many of the most probable classes."""
    name = name.encode(errors="replace").decode()  # a name on disk may be no text
    if isinstance(answer, DecodeError):
        return {"picture": name, "error": str(answer)}
    ranked = sorted(answer.probabilities.items(), key=lambda item: -item[1])[:top]
    return {
        "picture": name,
        "label": answer.label,
        "probability": answer.probability,
        "abstained": answer.abstained,
        "possible": list(answer.possible),
        "top_labels": [label for label, _ in ranked],
        "top_probabilities": [share for _, share in ranked],
    }


class Writer(Protocol):
    """A file that is being written."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def write(self, table: pa.Table) -> None:
        """The rows of a part."""


class _Parquet:
    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, table: pa.Table) -> None:
        """A row group."""
        self._writer.write_table(table)


class _Text:
    """Lines of text."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class _JsonLines(_Text):
    def write(self, table: pa.Table) -> None:
        """An object a line; what a row does not have is left out."""
        for row in table.to_pylist():
            told = {key: value for key, value in row.items() if value is not None}
            self._file.write(json.dumps(told, ensure_ascii=False) + "\n")


class _Csv(_Text):
    """Lists as JSON, for a table has no lists."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._rows = csv.writer(self._file)
        self._rows.writerow(SCHEMA.names)

    def write(self, table: pa.Table) -> None:
        """A line each."""
        for row in table.to_pylist():
            self._rows.writerow(
                [
                    json.dumps(one, ensure_ascii=False) if isinstance(one, list) else one
                    for one in row.values()
                ]
            )


WRITERS: dict[str, Callable[[Path], Writer]] = {
    ".parquet": _Parquet,
    ".jsonl": _JsonLines,
    ".csv": _Csv,
}
