"""A folder that Hugging Face `datasets` wrote with `save_to_disk`: Arrow files, with what they are beside them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from imgrec.data.content import Missing
from imgrec.data.sources.folder import file_state
from imgrec.data.sources.parquet import features_of, image_column, label_column, label_text
from imgrec.data.sources.reading import Reading
from imgrec.data.sources.sample import SPLIT_NAMES, Named, Sample, Split
from imgrec.errors import DataError, DecodeError, reason_of

STATE, SPLITS = "state.json", "dataset_dict.json"


@dataclass(frozen=True, slots=True)
class ArrowCell:
    """A picture in a row of an Arrow file."""

    path: Path
    row: int
    column: str

    def read(self) -> bytes:
        """The cell's bytes."""
        try:
            value: Any = _table(self.path).column(self.column)[self.row].as_py()
        except (OSError, ValueError) as error:
            msg = f"cannot be read: {reason_of(error)}"
            raise DecodeError(msg) from error
        content: bytes | None = value["bytes"] if isinstance(value, dict) else value
        if content is None:
            msg = "the row holds no bytes"
            raise DecodeError(msg)
        return content


@dataclass(frozen=True)
class SavedDataset:
    """What `save_to_disk` wrote: of a data set, or of several splits."""

    path: Path

    def __iter__(self) -> Iterator[Sample]:
        """Split by split, in the rows' order."""
        for name, split in self._parts.items():
            for file in self._files(self.path / name):
                table = _table(file)
                label = _label_column(file)
                features = features_of(table.schema)
                names = features[label].get("names") if label in features else None
                labels = table.column(label).to_pylist()
                for (place, cell), value in zip(self._cells(file), labels, strict=True):
                    text, problem = label_text(value, names)
                    yield Sample(place, Missing(problem) if problem else cell, text, split)

    def pictures(self) -> Iterator[Named]:
        """The same without labels."""
        for name in self._parts:
            for file in self._files(self.path / name):
                yield from self._cells(file)

    def state(self) -> Any:
        """Of the files."""
        files = [file for name in self._parts for file in self._files(self.path / name)]
        return [file_state(file, str(file)) for file in files]

    def reading(self) -> Reading:
        """What was taken for what."""
        first = self._files(self.path / next(iter(self._parts)))[0]
        splits: dict[str, str] = {split: name for name, split in self._parts.items() if split}
        layout = f"a data set that Hugging Face saved, pictures in column {_image_column(first)}"
        return Reading(layout, f"column {_label_column(first)}", splits)

    @cached_property
    def _parts(self) -> dict[str, Split | None]:
        """The folder of each split; of a data set alone the folder itself."""
        if not (self.path / SPLITS).is_file():
            return {"": None}
        names = _read_json(self.path / SPLITS).get("splits", [])
        parts: dict[str, Split | None] = {}
        for name in map(str, names):
            if name.lower() not in SPLIT_NAMES:
                msg = f"{self.path / SPLITS}: split {name!r} is neither train, val nor test; give its folder"
                raise DataError(msg)
            parts[name] = SPLIT_NAMES[name.lower()]
        return parts

    def _cells(self, file: Path) -> Iterator[tuple[str, ArrowCell]]:
        place, column = file.relative_to(self.path).as_posix(), _image_column(file)
        for row in range(_table(file).num_rows):
            yield f"{place}:{row}", ArrowCell(file, row, column)

    def _files(self, folder: Path) -> list[Path]:
        state = _read_json(folder / STATE)
        if state.get("_indices_files"):
            msg = f"{folder}: rows were chosen or shuffled; save it after flatten_indices()"
            raise DataError(msg)
        # Names alone: what somebody else wrote must not lead out of the folder.
        return [folder / Path(str(one["filename"])).name for one in state.get("_data_files", [])]


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` wrote it."""
    return (folder / SPLITS).is_file() or (
        (folder / STATE).is_file() and (folder / "dataset_info.json").is_file()
    )


def _image_column(file: Path) -> str:
    schema = _table(file).schema
    if (image := image_column(schema)) is None:
        msg = f"{file}: no column holds pictures; it has {', '.join(schema.names)}"
        raise DataError(msg)
    return image


def _label_column(file: Path) -> str:
    schema = _table(file).schema
    return label_column(schema.names, features_of(schema), file)


@lru_cache(maxsize=8)
def _table(file: Path) -> Any:
    """The rows, mapped and not read.

    Raises:
        DataError: it is no such file.
    """
    import pyarrow as pa  # noqa: PLC0415 - not for other sources

    try:
        return pa.ipc.open_stream(pa.memory_map(str(file))).read_all()
    except (OSError, pa.ArrowException) as error:
        msg = f"{file}: cannot be read as Arrow ({reason_of(error)}); save it again"
        raise DataError(msg) from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        msg = f"{file}: cannot be read ({reason_of(error)}); save the data set again"
        raise DataError(msg) from error
    if not isinstance(found, dict):
        msg = f"{file}: is no object of JSON; save the data set again"
        raise DataError(msg)
    return found
