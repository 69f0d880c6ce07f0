"""Sources behind a URL."""

from pathlib import Path

import pytest

from imgrec.data.content import FETCHED_AT_ONCE, read_all
from imgrec.data.sources.sample import Remote
from imgrec.data.store import Store
from tests.unit.data.sources.made import (
    Build,
    as_csv,
    as_packed_folder,
    refuse_other_data,
    stored,
)


@pytest.mark.parametrize("build", [as_csv, as_packed_folder], ids=lambda build: build.__name__)
def test_files_behind_a_url_are_the_same_data(
    build: Build, web: tuple[Path, str], reference: Store, tmp_path: Path
) -> None:
    """A table's relative paths count from the table's address; a tar is fetched once."""
    folder, address = web
    here = folder / build.__name__
    here.mkdir()
    name = Path(build(here)).name

    refuse_other_data(stored(f"{address}/{here.name}/{name}", tmp_path), reference)


def test_of_remote_pictures_few_are_in_memory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk of hundreds of large ones would fill it."""
    read: list[str] = []
    monkeypatch.setattr(Remote, "_content", lambda self: read.append(self.url) or b"x")
    found = read_all([Remote(f"http://a/{number}") for number in range(256)])

    assert next(found) == b"x"
    assert len(read) <= FETCHED_AT_ONCE + 1
    assert len(list(found)) == 255


def test_a_file_that_cannot_be_fetched_goes_to_quarantine(
    web: tuple[Path, str], tmp_path: Path
) -> None:
    """One dead link in a million must not stop the run, nor be filled with something else."""
    folder, address = web
    here = folder / "dead"
    here.mkdir()
    path = Path(as_csv(here))
    (here / "photos" / "train" / "left" / "03.png").unlink()
    store = stored(f"{address}/dead/{path.name}", tmp_path)

    assert [reject.id for reject in store.rejected()] == ["photos/train/left/03.png"]
    assert "cannot be fetched" in store.rejected()[0].reason
