"""Tables of paths and labels as people write them, and what is said of those that are none."""

import os
from pathlib import Path

import pytest

from imgrec.config import DataConfig
from imgrec.data.store import prepare_store
from imgrec.errors import DataError
from tests.conftest import no_progress
from tests.unit.data.sources.made import (
    as_csv,
    samples_of,
    stored,
)


def test_rows_without_label_or_path_go_to_quarantine(tmp_path: Path) -> None:
    """They are counted like every other picture that cannot be used."""
    source = Path(as_csv(tmp_path))
    with source.open("a", encoding="utf-8") as file:
        file.write("photos/train/left/00.png,,train\n,left,train\n")
    reasons = {reject.reason for reject in stored(str(source), tmp_path).rejected()}

    assert reasons == {"it has no label", "the manifest gives no path"}


def test_what_is_no_file_and_what_is_no_path_go_to_quarantine(tmp_path: Path) -> None:
    """To open a pipe would wait for ever."""
    source = Path(as_csv(tmp_path))
    os.mkfifo(tmp_path / "pipe.png")
    with source.open("a", encoding="utf-8") as file:
        file.write("pipe.png,left,train\n/dev/zero,left,train\nfile:///etc/passwd,left,train\n")
    reasons = {reject.id: reject.reason for reject in stored(str(source), tmp_path).rejected()}

    assert reasons["pipe.png"] == reasons["/dev/zero"]
    assert "not a file" in reasons["pipe.png"]
    assert "without file:" in reasons["file:///etc/passwd"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_columns_may_be_parted_in_several_ways(delimiter: str, tmp_path: Path) -> None:
    """Spreadsheets write semicolons where a comma is the decimal mark."""
    rows = [("file", "class", "split"), ("a b.png", "x", "valid"), ("b.png", "y", "val")]
    rows += [("c.png", "x", ""), ("d.png", "y", "train")]
    table = tmp_path / "table.csv"
    table.write_text("".join(delimiter.join(row) + "\r\n" for row in rows), encoding="utf-8-sig")

    assert [(one.id, one.label, one.split) for one in samples_of(str(table), tmp_path)] == [
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
        samples_of(str(tmp_path / "table.csv"), tmp_path)


def test_a_table_whose_paths_are_all_wrong_names_the_first_that_was_tried(tmp_path: Path) -> None:
    """It is the table that is wrong then, not a class."""
    table = tmp_path / "table.csv"
    table.write_text("path,label\nphotos/a.png,x\nphotos/b.png,y\n,y\n")

    said = rf"none of 2 files can be read \(such as photos/a.png: there is no {tmp_path}/photos/a"
    with pytest.raises(DataError, match=said):
        prepare_store(DataConfig(source=str(table)), tmp_path / "work", progress=no_progress)
