"""Which columns of a table say what."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from imgrec.data.sources.sample import SPLIT_NAMES, Split
from imgrec.data.sources.table import Table
from imgrec.errors import DataError

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


TRUE, FALSE = frozenset({"1", "true"}), frozenset({"0", "false", ""})


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
    if not names:
        msg = f"{where}: no row in it"
        raise DataError(msg)
    if name := found(names, wanted):
        return name
    shown = wanted[:2] if len(wanted) > 1 else wanted
    part = "path" if tuple(wanted) == PATH_COLUMNS else "label"
    msg = (
        f"{where}: no column {' or '.join(shown)}; it has {', '.join(map(str, names))}: name the right one, as in "
        f"data.columns = {{{part} = {str(names[-1])!r}}}"
    )
    raise DataError(msg)


@dataclass(frozen=True, slots=True)
class Used:
    """Which columns of a table say what; `one_hot` those of the classes, where no column names the class."""

    path: str
    label: str
    split: str
    one_hot: tuple[str, ...] = ()

    @classmethod
    def of(cls, table: Table, columns: Mapping[str, str], group: str) -> "Used":
        """As the settings say, or else by the usual names.

        Raises:
            DataError: a column is not there.
        """
        path = path_column(table, columns)
        wanted = {"label": LABEL_COLUMNS, "split": (SPLIT_COLUMN,)}
        for part, name in columns.items():
            if part in wanted:
                wanted[part] = (column(table.names, (name,), table.path),)
        split = found(table.names, wanted["split"])
        label = found(table.names, wanted["label"])
        if label:
            return cls(path, label, split)
        known = {
            path,
            split,
            found(table.names, (group,)),
            "",
        }  # pandas writes a column without a name
        others = tuple(name for name in table.names if name not in known)
        if len(others) > 1 and _are_flags(table, others):
            return cls(path, "", split, others)
        return cls(path, column(table.names, wanted["label"], table.path), split)


def path_column(table: Table, columns: Mapping[str, str]) -> str:
    """The column that says where a picture is: as the settings say, or else by the usual names.

    Raises:
        DataError: there is none.
    """
    wanted = (columns["path"],) if "path" in columns else PATH_COLUMNS
    return column(table.names, wanted, table.path)


def found(names: Iterable[str], wanted: Iterable[str]) -> str:
    """The first of the wanted columns that is there, in any case; empty where none is."""
    by_name = {name.strip().casefold(): name for name in reversed(list(names))}
    return next((by_name[one.casefold()] for one in wanted if one.casefold() in by_name), "")


def _are_flags(table: Table, names: tuple[str, ...]) -> bool:
    """Whether these columns hold 0 and 1 only, in the first row."""
    row = next(iter(table.rows()), None)
    return row is not None and None not in {_flag(row.get(name, "")) for name in names}


def _flag(value: str) -> bool | None:
    """`1`, `1.0` or `true`, or the opposite; None for anything else."""
    lower = value.strip().lower()
    if lower in TRUE | FALSE:
        return lower in TRUE
    try:
        return {0.0: False, 1.0: True}.get(float(lower))
    except ValueError:
        return None


def hot_of(used: Used, row: Mapping[str, str], where: Path, number: int) -> str:
    """The name of the one column with a 1."""
    flags = {name: _flag(row.get(name, "")) for name in used.one_hot}
    if odd := [name for name, flag in flags.items() if flag is None]:
        msg = (
            f"{where}: row {number} has {row.get(odd[0], '')!r} in column {odd[0]}, which is neither 0 nor 1; name the "
            f"column of the class: data.columns = {{label = {odd[0]!r}}}"
        )
        raise DataError(msg)
    hot = [name for name, flag in flags.items() if flag]
    if len(hot) > 1:
        refuse_several(where, number, ", ".join(hot[:3]))
    return hot[0] if hot else ""


def refuse_several(where: Path, number: int, classes: str) -> None:
    """Raise DataError for a row with several classes."""
    msg = (
        f"{where}: row {number} has several classes ({classes}): imgrec takes one for a picture; keep the rows "
        f"with one, or name the column of the class in data.columns"
    )
    raise DataError(msg)
