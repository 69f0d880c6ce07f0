"""A table of paths and labels: CSV, JSON lines, parquet, or a list."""

import itertools
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from imgrec.data.content import Content, File, Missing
from imgrec.data.sources.clutter import is_clutter
from imgrec.data.sources.columns import Used, column, hot_of, path_column, refuse_several, split_of
from imgrec.data.sources.folder import file_state
from imgrec.data.sources.node import looks_like_picture
from imgrec.data.sources.reading import Reading
from imgrec.data.sources.remote import identity_of
from imgrec.data.sources.sample import SPLIT_NAMES, Named, Remote, Sample, Split
from imgrec.data.sources.table import UTF_8, Table
from imgrec.data.sources.web import HTTP_PREFIXES, checked, own_places
from imgrec.errors import DataError, DecodeError

NAMES_OF_NUMBERS = ("labels.txt", "classes.txt", "class_names.txt")
"""Files beside a table whose lines name the classes that it counts."""
FOLDER = "folder"
"""As data.group: the folder that a picture lies in."""
SEVERAL = re.compile(r"\[.*,.*\]")
"""A list of labels, as JSON has it."""
QUOTED = re.compile(r"%[0-9A-Fa-f]{2}")
FIRST_ROWS = 20
"""Of a table, which tell whether its paths are those of this machine."""


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
    _stems: dict[str, Mapping[str, list[str]]] = field(default_factory=dict, repr=False)
    _told: dict[str, bool] = field(default_factory=dict, repr=False)

    def __iter__(self) -> Iterator[Sample]:
        """In the tables' order."""
        name_of = self._naming()
        for table in self.tables:
            place = self._place(table)
            whole = self._split_of_name(table)
            for number, (path, label, split, group) in enumerate(self._rows(table), start=1):
                own = split_of(split, table.path, number) or whole
                content = self._content(path, place)
                shared = _folder_of(content) if self.group == FOLDER else group
                yield Sample(name_of(table, path, number), content, label, own, shared)

    def pictures(self) -> Iterator[Named]:
        """The same by their paths alone."""
        name_of = self._naming()
        for table in self.tables:
            place, column_of_paths = self._place(table), path_column(table, self.columns)
            for number, row in enumerate(table.rows(), start=1):
                path = row.get(column_of_paths, "").strip()
                yield name_of(table, path, number), self._content(path, place)

    def state(self) -> Any:
        """Of the tables and of every file in them."""
        contents = [sample.content for sample in self]
        files = [file_state(Path(one.path), one.path) for one in contents if isinstance(one, File)]
        remote = identity_of([one for one in contents if isinstance(one, Remote)])
        beside = [_names_of_numbers(table.path) for table in self.tables]
        tables = [file_state(table.path, table.path.name) for table in self.tables]
        return [tables, beside, self.base, files, remote]

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
        notes: list[str] = []
        if table.encoding not in {"", UTF_8}:
            notes.append(f"{table.path.name} is read as {table.encoding}")
        file, names = _names_of_numbers(table.path)
        if used.label and names:
            first = ", ".join(f"{number} is {name}" for number, name in enumerate(names[:2]))
            notes.append(f"numbers are classes by {file}: {first}, ...")
        return Reading(layout, label, splits, notes=tuple(notes))

    def _split_of_name(self, table: Table) -> Split | None:
        if len(self.tables) == 1:
            return None
        return SPLIT_NAMES.get(table.path.stem.lower()) or SPLIT_NAMES.get(
            table.path.parent.name.lower()
        )

    def _place(self, table: Table) -> str:
        """What paths in a table count from: its own folder, where it lies in one of this machine."""
        return self.base if "://" in self.base else str(table.path.parent)

    def _naming(self) -> Callable[[Table, str, int], str]:
        """What to call the file of a row, of its table, its path and the row's number; no two alike."""
        seen: set[str] = set()

        def name_of(table: Table, path: str, number: int) -> str:
            # Of several tables each may call its files alike, and one file may stand for two classes.
            place = self._place(table)
            prefix = f"{os.path.relpath(place, self.base)}/" if place != self.base else ""
            name = prefix + path
            if name in seen:
                name = f"{name} (row {number})"
            if name in seen:
                name = f"{prefix}{path} (row {number} of {table.path.name})"
            seen.add(name)
            return name

        return name_of

    def _used(self, table: Table) -> "Used":
        return Used.of(table, self.columns, self.group)

    def _rows(self, table: Table) -> Iterator[tuple[str, str, str, str]]:
        """Path, class, split and group, row by row."""
        used = self._used(table)
        group_of = self._grouping(table)
        file, names = _names_of_numbers(table.path) if used.label else ("", [])
        for number, row in enumerate(table.rows(), start=1):
            label = row.get(used.label, "") if used.label else hot_of(used, row, table.path, number)
            if SEVERAL.fullmatch(label):
                refuse_several(table.path, number, label)
            if names and label.isdecimal():
                if int(label) >= len(names):
                    msg = (
                        f"{table.path}: row {number} has class {label}, and {file} beside it names {len(names)}, from "
                        f"0 on; correct one, or rename {file}"
                    )
                    raise DataError(msg)
                label = names[int(label)]
            path = row.get(used.path, "").strip()
            split = row.get(used.split, "").strip() if used.split else ""
            yield path, label.strip(), split, group_of(row, path)

    def _grouping(self, table: Table) -> Callable[[Mapping[str, str], str], str]:
        if self.group in {"", FOLDER}:
            return lambda _row, _path: ""
        if "(?P" in self.group:
            pattern = re.compile(self.group)
            return lambda _row, path: hit["group"] or "" if (hit := pattern.search(path)) else ""
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
            path = re.sub(r"\\+", "/", path)  # as Windows writes them
        if "://" in path or "://" in self.base:
            return self._remote(path)
        if looks_like_picture(path) and self._lie_as_told(place):
            return File(str(Path(place, path)))
        return self._named(path, place)

    def _lie_as_told(self, place: str) -> bool:
        """Whether any of the first files of the table in this folder lies where it says."""
        if place not in self._told:
            some = [
                row.get(path_column(table, self.columns), "")
                for table in self.tables
                if self._place(table) == place
                for row in itertools.islice(table.rows(), FIRST_ROWS)
            ]
            self._told[place] = any(
                path and "\0" not in path and Path(place, path.replace("\\", "/")).is_file()
                for path in some
            )
        return self._told[place]

    def _named(self, name: str, place: str) -> Content:
        """A file that is called by its name, with or without an ending, wherever it lies below the table."""
        if Path(place, name).is_file():
            return File(str(Path(place, name)))
        whole = PurePosixPath(name)
        stem = whole.stem if looks_like_picture(name) else whole.name
        # The whole of it must fit: 001 of cats is not 001 of dogs. Of a path of another machine the name must.
        wanted = f"/{whole.name if whole.is_absolute() or ':' in name else name}"
        alike = [
            path
            for path in self._by_stem(place).get(stem, ())
            if (path if looks_like_picture(name) else path.rpartition(".")[0]).endswith(wanted)
        ]
        if len(alike) == 1:
            return File(alike[0])
        if alike:
            return Missing(
                f"{len(alike)} files are called {name}, such as {alike[0]} and {alike[1]}"
            )
        return File(str(Path(place, name)))

    def _by_stem(self, place: str) -> Mapping[str, list[str]]:
        """The pictures below a folder, by their names without endings."""
        if place not in self._stems:
            by_stem = defaultdict[str, list[str]](list)
            for folder, folders, files in os.walk(place):
                folders[:] = sorted(name for name in folders if not is_clutter(name))
                for file in sorted(files):
                    if looks_like_picture(file):
                        by_stem[file.rpartition(".")[0]].append(f"{folder}/{file}")
            self._stems[place] = by_stem
        return self._stems[place]

    def _remote(self, path: str) -> Content:
        """A file behind a URL. A table from elsewhere may not name addresses inside this machine's network."""
        allowed = frozenset(self.allow_hosts)
        if "://" not in path:
            name = _quoted(path) if self.base.startswith(HTTP_PREFIXES) else path
            return Remote(f"{self.base}/{name}", allowed)
        # A table on this machine is the user's own, and may name any place.
        within = allowed | own_places(self.base) if "://" in self.base else None
        try:
            return Remote(checked(path, within), allowed)
        except DecodeError as error:
            return Missing(str(error))


def _quoted(path: str) -> str:
    """The name of a file as a part of an address, which holds neither space nor `#`; one that is quoted already stays so."""
    return quote(path, safe="/?=&%" if QUOTED.search(path) else "/?=&")


def _folder_of(content: Content) -> str:
    match content:
        case File(path=path):
            return path.rpartition("/")[0]
        case Remote(url=url):
            return url.rpartition("/")[0]
    return ""


def _names_of_numbers(table: Path) -> tuple[str, list[str]]:
    """A file beside a table that names the classes 0, 1, 2, ...: what it is called, and the names."""
    for name in NAMES_OF_NUMBERS:
        file = table.parent / name
        if file != table and file.is_file():
            lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
            return name, [line.strip() for line in lines if line.strip()]
    return "", []
