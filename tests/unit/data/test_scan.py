"""One pass over all pictures: what cannot be read is left out and listed, never replaced."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgrec.data.store import open_store
from imgrec.errors import DataError
from tests.conftest import picture
from tests.unit.data.made import MakeFolder, prepared, with_splits


def test_broken_files_are_left_out_counted_and_listed(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    """Never replaced by another picture: that would train on what is not there."""
    folder = make_folder()
    (folder / "left" / "000.png").write_bytes(b"")
    whole = (folder / "left" / "001.png").read_bytes()
    (folder / "left" / "001.png").write_bytes(whole[: len(whole) // 2])
    (folder / "right" / "notes.txt").write_text("hello")

    store = prepared(folder, tmp_path)
    with store.quarantine_file.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    assert len(store.labels) == 58
    assert store.quarantined == 3
    assert [row["id"] for row in rows] == ["left/000.png", "left/001.png", "right/notes.txt"]
    assert rows[0]["reason"] == "empty file"
    assert np.bincount(store.labels).tolist() == [18, 20, 20]


def test_pictures_stay_with_their_labels_when_some_are_left_out(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    """A shift by one would be the worst of silent errors."""
    folder = make_folder()
    whole = (folder / "left" / "005.png").read_bytes()
    (folder / "left" / "005.png").write_bytes(whole[:-30])
    store = prepared(folder, tmp_path)

    for images, label in zip(store.images, store.labels, strict=True):
        thirds = [images[:, 4 * third : 4 * third + 4].mean() for third in range(3)]
        assert int(np.argmax(thirds)) == label


def test_a_large_folder_is_decoded_by_several_processes_to_the_same_store(
    tmp_path: Path,
) -> None:
    """The order of the store must not depend on who was first."""
    folder = tmp_path / "many"
    for label, name in enumerate(("left", "right")):
        (folder / name).mkdir(parents=True)
        for index in range(520):
            picture(label, index, (6, 6)).save(folder / name / f"{index}.bmp")
    one = prepared(folder, tmp_path / "one", decode_workers=1)
    two = prepared(folder, tmp_path / "two", decode_workers=2)

    np.testing.assert_array_equal(one.images, two.images)
    assert one.folder.name == two.folder.name


def test_a_class_without_a_readable_picture_stops_the_run(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    """It would vanish from the model without a word."""
    folder = make_folder(count=3)
    for path in (folder / "right").iterdir():
        path.write_bytes(b"no picture")

    with pytest.raises(DataError, match="class right: every one of its 3 files is unreadable"):
        prepared(folder, tmp_path)


def test_a_file_name_that_is_no_text_does_not_stop_the_run(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    """On Linux a name is bytes."""
    folder = make_folder()
    Path(os.fsdecode(bytes(folder / "left") + b"/\xff\xfe.png")).write_bytes(b"broken")

    assert prepared(folder, tmp_path).quarantined == 1


@pytest.mark.parametrize("bright", [0, 99])
def test_one_depth_holds_for_all_pictures_of_a_set(tmp_path: Path, bright: int) -> None:
    """Wherever the brightest stand, also where a look at a few could not see them."""
    rng = np.random.default_rng(0)
    for row in range(100):
        high = 4096 if abs(row - bright) < 3 else 900
        values = rng.integers(0, high, (12, 12)).astype(np.uint16)
        folder = tmp_path / "deep" / "ab"[row % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(folder / f"{row:03d}.png")
    store = prepared(tmp_path / "deep", tmp_path / "mlruns")
    ours = store.images[0][:, :, 0]
    with Image.open(tmp_path / "deep" / "a" / "000.png") as first:
        values = np.asarray(first)

    assert store.depth == 12
    assert open_store(store.folder).depth == 12
    np.testing.assert_array_equal(ours, values >> 4)
    assert prepared(tmp_path / "deep", tmp_path / "mlruns", depth=16).images[0].max() <= 15


def test_a_class_that_is_readable_in_test_alone_stops_the_run(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    """The model would have a class that it never saw."""
    root = with_splits(make_folder, "train", "test")
    for path in (root / "train" / "left").iterdir():
        path.write_bytes(b"git-lfs pointer")

    with pytest.raises(DataError, match="class left: every one of its 20 files is unreadable"):
        prepared(root, tmp_path)
