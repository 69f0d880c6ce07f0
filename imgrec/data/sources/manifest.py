"""A table of paths and labels: CSV, JSON lines, parquet, or a list."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from imgrec.data.content import Content, Missing
from imgrec.data.sources.clutter import is_clutter
from imgrec.data.sources.folder import file_state
from imgrec.data.sources.reading import Reading
from imgrec.data.sources.remote import identity_of
from imgrec.data.sources.sample import SPLIT_NAMES, File, Remote, Sample, Split
from imgrec.data.sources.table import UTF_8, Table
from imgrec.data.sources.tree import looks_like_picture
from imgrec.data.sources.web import checked, own_places
from imgrec.errors import DataError, DecodeError

PATH_COLUMNS = (
    "path",
    "file",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "image",
    "img",
    "image_path",
    "img_path",
    "image_file",
    "image_name",
    "image_id",
    "id",
)
LABEL_COLUMNS = ("label", "class", "category", "target", "class_name", "label_name", "labels")
SPLIT_COLUMN = "split"
NAMES_OF_NUMBERS = ("labels.txt", "classes.txt", "class_names.txt")
"""Files beside a table whose lines name the classes that it counts."""
TRUE, FALSE = frozenset({"1", "true"}), frozenset({"0", "false", ""})


@dataclass(frozen=True)
class Manifest:
    """A row for each picture: where it is, its class and, if the data bring their own, its split.

    Columns have the usual names in any case, or those that the settings say. In place of one column for the class
    there may be one for each class, with a 1 in that of the picture.

    Attributes:
        tables: The files; of several each says by its name which split it is.
        base: What relative paths count from: the folder or the URL that the tables came from.
        allow_hosts: Where rows of a table from a URL may lie, beside the table's own host or bucket.
        group: `data.group`: a column, `folder`, or a regular expression.
        columns: `data.columns`.
    """

    tables: tuple[Table, ...]
    base: str
    allow_hosts: tuple[str, ...] = ()
    group: str = ""
    columns: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __iter__(self) -> Iterator[Sample]:
        """In the tables' order."""
        seen: set[str] = set()
        for table in self.tables:
            place = self._place(table)
            whole = self._split_of_name(table)
            for number, (path, label, split, group) in enumerate(self._rows(table), start=1):
                # One file may stand for two classes; their ids must not be the same.
                name = path if path not in seen else f"{path} (row {number})"
                seen.add(path)
                own = split_of(split, table.path, number) or whole
                yield Sample(name, self._content(path, place), label, own, group)

    def state(self) -> Any:
        """Of the tables and of every file in them."""
        contents = [sample.content for sample in self]
        files = [file_state(Path(one.path), one.path) for one in contents if isinstance(one, File)]
        remote = identity_of([one for one in contents if isinstance(one, Remote)])
        tables = [file_state(table.path, table.path.name) for table in self.tables]
        return [tables, self.base, files, remote]

    def reading(self) -> Reading:
        """What was taken for what."""
        table = self.tables[0]
        used = self._used(table)
        label = (
            f"column {used.label}"
            if used.label
            else f"the one of {len(used.one_hot)} columns with a 1"
        )
        splits: dict[str, str] = {}
        if used.split:
            splits = {"each split": f"in column {used.split}"}
        for one in self.tables:
            if split := self._split_of_name(one):
                splits[split] = one.path.name
        layout = f"a table of files, in column {used.path}"
        if not table.has_header:
            layout = "a list of files without a header"
        notes: tuple[str, ...] = ()
        if table.encoding not in {"", UTF_8}:
            notes = (f"{table.path.name} is read as {table.encoding}",)
        return Reading(layout, label, splits, notes=notes)

    def _split_of_name(self, table: Table) -> Split | None:
        if len(self.tables) == 1:
            return None
        return SPLIT_NAMES.get(table.path.stem.lower()) or SPLIT_NAMES.get(
            table.path.parent.name.lower()
        )

    def _place(self, table: Table) -> str:
        """What paths in a table count from: its own folder, where it lies in one of this machine."""
        return self.base if "://" in self.base else str(table.path.parent)

    def _used(self, table: Table) -> "_Used":
        return _Used.of(table, self.columns, self.group)

    def _rows(self, table: Table) -> Iterator[tuple[str, str, str, str]]:
        """Path, class, split and group, row by row."""
        used = self._used(table)
        group_of = self._grouping(table)
        names = _names_of_numbers(table.path.parent) if used.label else []
        for number, row in enumerate(table.rows(), start=1):
            label = row.get(used.label, "") if used.label else _hot(used, row, table.path, number)
            if names and label.isdecimal() and int(label) < len(names):
                label = names[int(label)]
            path = row.get(used.path, "").strip()
            yield path, label.strip(), row.get(used.split, "").strip(), group_of(row, path)

    def _grouping(self, table: Table) -> Callable[[Mapping[str, str], str], str]:
        if not self.group:
            return lambda _row, _path: ""
        if self.group == "folder":
            return lambda _row, path: str(PurePosixPath(path).parent)
        if "(?P" in self.group:
            pattern = re.compile(self.group)
            return lambda _row, path: (
                found["group"] or "" if (found := pattern.search(path)) else ""
            )
        name = column(table.names, (self.group,), table.path)
        return lambda row, _path: row.get(name, "")

    def _content(self, path: str, place: str) -> Content:
        if not path:
            return Missing("the manifest gives no path")
        if "\0" in path:
            return Missing("its path is not one")
        if path.startswith("file:") and "://" not in self.base:
            return Missing("write paths of this machine without file:")
        if "\\" in path and "/" not in path:
            path = path.replace("\\", "/")  # as Windows writes them
        if "://" in path or "://" in self.base:
            return self._remote(path)
        if looks_like_picture(path):
            return File(str(Path(place, path)))
        return self._named(path, place)

    def _named(self, name: str, place: str) -> Content:
        """A file that is called by its name without an ending, wherever it lies below the table."""
        if Path(place, name).is_file():
            return File(str(Path(place, name)))
        found = self._by_stem.get(PurePosixPath(name).name, ())
        if len(found) == 1:
            return File(found[0])
        if found:
            return Missing(
                f"{len(found)} files are called {name}, such as {found[0]} and {found[1]}"
            )
        return File(str(Path(place, name)))

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        """The pictures below the tables, by their names without endings."""
        found = defaultdict[str, list[str]](list)
        for folder, folders, files in os.walk(self.base):
            folders[:] = sorted(name for name in folders if not is_clutter(name))
            for file in sorted(files):
                if looks_like_picture(file):
                    found[file.rpartition(".")[0]].append(os.path.join(folder, file))  # noqa: PTH118 - there may be a million
        return found

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
    """The first of the wanted columns that is there, in any case.

    Raises:
        DataError: none is.
    """
    names, wanted = list(names), list(wanted)
    if name := _found(names, wanted):
        return name
    shown = wanted[:2] if len(wanted) > 1 else wanted
    part = "path" if tuple(wanted) == PATH_COLUMNS else "label"
    msg = (
        f"{where}: no column {' or '.join(shown)}; it has {', '.join(map(str, names))}: name the right one, as in "
        f"data.columns = {{{part} = {str(names[-1])!r}}}"
    )
    raise DataError(msg)


@dataclass(frozen=True, slots=True)
class _Used:
    """Which columns of a table say what; `one_hot` those of the classes, where no column names the class."""

    path: str
    label: str
    split: str
    one_hot: tuple[str, ...] = ()

    @classmethod
    def of(cls, table: Table, columns: Mapping[str, str], group: str) -> "_Used":
        """As the settings say, or else by the usual names.

        Raises:
            DataError: a column is not there.
        """
        wanted = {"path": PATH_COLUMNS, "label": LABEL_COLUMNS, "split": (SPLIT_COLUMN,)}
        for part, name in columns.items():
            if part in wanted:
                wanted[part] = (column(table.names, (name,), table.path),)
        path = column(table.names, wanted["path"], table.path)
        split = _found(table.names, wanted["split"])
        label = _found(table.names, wanted["label"])
        if label:
            return cls(path, label, split)
        others = tuple(name for name in table.names if name not in {path, split, group})
        if len(others) > 1 and _are_flags(table, others):
            return cls(path, "", split, others)
        return cls(path, column(table.names, wanted["label"], table.path), split)


def _found(names: Iterable[str], wanted: Iterable[str]) -> str:
    """The first of the wanted columns that is there, in any case; empty where none is."""
    by_name = {name.strip().casefold(): name for name in reversed(list(names))}
    return next((by_name[one.casefold()] for one in wanted if one.casefold() in by_name), "")


def _are_flags(table: Table, names: tuple[str, ...]) -> bool:
    """Whether these columns hold 0 and 1 only, in the first row."""
    row = next(iter(table.rows()), None)
    return row is not None and all(row.get(name, "").lower() in TRUE | FALSE for name in names)


def _hot(used: _Used, row: Mapping[str, str], where: Path, number: int) -> str:
    """The name of the one column with a 1."""
    hot = [name for name in used.one_hot if row.get(name, "").lower() in TRUE]
    if len(hot) > 1:
        msg = (
            f"{where}: row {number} has several classes ({', '.join(hot[:3])}): a table of labels, of which imgrec "
            f"takes one for a picture; keep the rows with one, or name the column of the class in data.columns"
        )
        raise DataError(msg)
    return hot[0] if hot else ""


def _names_of_numbers(folder: Path) -> list[str]:
    """What a file beside the table calls the classes 0, 1, 2, ...; empty where there is none."""
    for name in NAMES_OF_NUMBERS:
        file = folder / name
        if file.is_file():
            lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
            return [line.strip() for line in lines if line.strip()]
    return []
