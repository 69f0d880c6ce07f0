"""Tables of paths and labels as people write them, and what is said of those that are none."""

from pathlib import Path

import pytest

from imgrec.config import DataConfig
from imgrec.data.sources import list_samples, open_source
from imgrec.data.sources.sample import Sample
from imgrec.data.store import prepare_store
from imgrec.errors import DataError
from tests.conftest import no_progress


def samples_of(table: Path) -> list[Sample]:
    return list_samples(open_source(str(table), table.parent), DataConfig(source=str(table)))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_columns_may_be_parted_in_several_ways(delimiter: str, tmp_path: Path) -> None:
    """Spreadsheets write semicolons where a comma is the decimal mark."""
    rows = [("file", "class", "split"), ("a b.png", "x", "valid"), ("b.png", "y", "val")]
    rows += [("c.png", "x", ""), ("d.png", "y", "train")]
    table = tmp_path / "table.csv"
    table.write_text("".join(delimiter.join(row) + "\r\n" for row in rows), encoding="utf-8-sig")

    assert [(one.id, one.label, one.split) for one in samples_of(table)] == [
        ("a b.png", "x", "val"),
        ("b.png", "y", "val"),
        ("c.png", "x", None),
        ("d.png", "y", "train"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "first line is empty; name the columns there: path,label"),
        ("file,kind\na.png,x\n", "no column label or class; it has file, kind"),
        ("path,label,split\na.png,x,later\n", "row 1 has split 'later'; write train, val or test"),
        ("path,label\na.png,x\n", "only one class"),
        ("path,label\na.png,x\na,b.png,y\n", "line 3 has more than the 2 fields .* a , in"),
    ],
)
def test_a_table_that_is_none_is_refused_with_the_cure(
    text: str, said: str, tmp_path: Path
) -> None:
    """Before a single picture is read."""
    (tmp_path / "table.csv").write_text(text)

    with pytest.raises(DataError, match=said):
        samples_of(tmp_path / "table.csv")


def test_a_table_whose_paths_are_all_wrong_names_the_first_that_was_tried(tmp_path: Path) -> None:
    """It is the table that is wrong then, not a class."""
    table = tmp_path / "table.csv"
    table.write_text("path,label\nphotos/a.png,x\nphotos/b.png,y\n,y\n")

    said = rf"none of 2 files can be read \(such as photos/a.png: there is no {tmp_path}/photos/a"
    with pytest.raises(DataError, match=said):
        prepare_store(DataConfig(source=str(table)), tmp_path / "work", progress=no_progress)
