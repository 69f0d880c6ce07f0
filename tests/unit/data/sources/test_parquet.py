"""Parquet files with the pictures inside."""

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from imgrec.data.sources import parquet as parquet_of
from imgrec.errors import DecodeError
from tests.unit.data.sources.made import (
    as_hugging_face,
    stored,
)


def test_rows_of_a_large_group_are_read_some_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pandas writes up to a million rows as one group; forwards or not, each row is its own."""
    monkeypatch.setattr(parquet_of, "ROWS_AT_ONCE", 3)
    rows = [{"image": {"bytes": b"%d" % row if row != 5 else None}} for row in range(20)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    cells = [parquet_of.Cell(tmp_path / "a.parquet", 0, row, "image") for row in range(20)]

    for row in (0, 1, 4, 19, 2, 2, 18):
        assert cells[row].read() == b"%d" % row
    with pytest.raises(DecodeError, match="holds no bytes"):
        cells[5].read()


def test_a_label_without_a_name_goes_to_quarantine(tmp_path: Path) -> None:
    """A number beyond the names of the classes: some row of some other version of the data."""
    folder = Path(as_hugging_face(tmp_path))
    path = folder / "data" / "train-00000-of-00001.parquet"
    table = parquet.read_table(path)
    labels = table["label"].to_pylist()
    labels[0], labels[1] = 7, None
    table = table.set_column(1, "label", pa.array(labels))
    parquet.write_table(table, path)
    reasons = {reject.reason for reject in stored(str(folder), tmp_path).rejected()}

    assert reasons == {"label 7 is not one of the 3 named classes", "the row gives no label"}
