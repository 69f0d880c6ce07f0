"""From a source to a store: nothing invented, nothing lost, found again by the next run."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from imgrec.config import DataConfig
from imgrec.data.store import Store, find_store, open_store, prepare_store
from imgrec.machine import locked
from tests.conftest import no_progress
from tests.unit.data.made import MakeFolder, MakePhotos, found_in, prepared


def test_the_digits_are_all_there(digits: Store) -> None:
    """1,797 pictures of 8x8, ten classes, the full range of grey."""
    assert digits.images.shape == (1797, 8, 8, 1)
    assert digits.class_names == tuple("0123456789")
    assert (digits.images.min(), digits.images.max()) == (0, 255)


def test_a_folder_becomes_a_store_and_the_next_run_finds_it(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    """Decoding is paid once."""
    folder = make_folder()
    store = prepared(folder, tmp_path)
    seen: list[str] = []
    again = prepare_store(
        DataConfig(source=str(folder)), tmp_path, progress=lambda what, *_: seen.append(what)
    )

    assert store.images.shape == (60, 12, 12, 3)
    assert again.folder == store.folder
    assert "decoding" not in seen


def test_the_fingerprint_is_of_contents_and_not_of_places(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    """The same pictures elsewhere, or under other names, are the same data."""
    folder = make_folder()
    before = prepared(folder, tmp_path).fingerprint
    moved = folder.rename(tmp_path / "elsewhere")
    (moved / "left" / "000.png").rename(moved / "left" / "zzz.png")
    after = prepared(moved, tmp_path).fingerprint
    (moved / "left" / "zzz.png").unlink()

    assert after == before
    assert prepared(moved, tmp_path).fingerprint != before


def test_what_a_killed_run_left_of_a_store_goes_with_the_next(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    """Half-built stores of a large set would fill the disk; one that is being built stays."""
    home = tmp_path / "store"
    left, living = home / "building.left", home / "building.living"
    for folder in (left, living):
        folder.mkdir(parents=True)
        (folder / "images-00000.npy").write_bytes(b"half")
    with locked(home / "building.living.lock"):
        prepared(make_folder(), tmp_path)

        assert not left.exists()
        assert living.exists()
    assert sorted(path.name for path in home.glob("building.*")) == [
        "building.living",
        "building.living.lock",
    ]


@pytest.mark.parametrize("lost", ["store.json", "labels.npy", "note"])
def test_a_store_that_a_power_failure_left_half_is_made_again(
    lost: str, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """Names may be on the disk before what they stand for is: an empty file, of which nobody can be told."""
    config = DataConfig(source=str(make_folder()))
    whole = prepare_store(config, tmp_path, progress=no_progress)
    fingerprint, labels = whole.fingerprint, whole.labels.copy()
    file = next((tmp_path / "store" / "seen").iterdir()) if lost == "note" else whole.folder / lost
    file.write_bytes(b"")
    again = prepare_store(config, tmp_path, progress=no_progress)

    assert again.fingerprint == fingerprint
    assert (again.labels == labels).all()
    assert open_store(again.folder).fingerprint == fingerprint


def test_two_pictures_that_change_names_are_another_store(make_photos: MakePhotos) -> None:
    """What is said of a picture must be said under its name of now."""
    folder = make_photos(count=24)
    Image.new("RGB", (90, 90)).save(folder / "cat" / "zz.png")
    before = found_in(folder)
    (folder / "cat" / "00.png").rename(folder / "cat" / "tmp.png")
    (folder / "cat" / "zz.png").rename(folder / "cat" / "00.png")
    (folder / "cat" / "tmp.png").rename(folder / "cat" / "zz.png")
    after = found_in(folder)

    assert after.store.fingerprint == before.store.fingerprint
    assert [before.ids[row] for row, _ in before.odd] == ["cat/zz.png"]
    assert [after.ids[row] for row, _ in after.odd] == ["cat/00.png"]


def test_a_source_that_has_not_changed_is_not_read_again(make_photos: MakePhotos) -> None:
    """A hundred gigabytes take an hour to read, and their names and times a second."""
    folder = make_photos(count=24)
    config = DataConfig(source=str(folder))
    storage = folder.parent / "storage"
    assert find_store(config, storage) is None
    store = prepare_store(config, storage, progress=no_progress)
    found = find_store(config, storage)

    assert found
    assert found.folder == store.folder
    assert find_store(config.model_copy(update={"channels": 1}), storage) is None
    (folder / "cat" / "00.png").write_bytes((folder / "cat" / "01.png").read_bytes())
    assert find_store(config, storage) is None
