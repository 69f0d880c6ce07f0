"""Folders of class folders, as people have them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from imgrec.errors import DataError
from tests.unit.data.made import MakeFolder, prepared, samples_of, with_splits


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda _: None, "no such folder"),
        (lambda folder: folder.write_text("x"), "a file; give the folder"),
        (lambda folder: folder.mkdir(), "no class folder"),
        (lambda folder: (folder / "cat").mkdir(parents=True), "no file in cat; add pictures"),
    ],
)
def test_a_useless_folder_is_refused_with_the_cure(
    tmp_path: Path, build: Callable[[Path], object], said: str
) -> None:
    """Before anything is spent."""
    folder = tmp_path / "pictures"
    build(folder)

    with pytest.raises(DataError, match=said):
        samples_of(str(folder))


def test_one_class_is_not_enough(make_folder: MakeFolder) -> None:
    """A model that always answers the same would be perfect."""
    with pytest.raises(DataError, match="only one class"):
        samples_of(str(make_folder(classes=("left",))))


def test_names_in_any_script_links_and_clutter(make_folder: MakeFolder, tmp_path: Path) -> None:
    """Files come from people: spaces, Chinese, Persian with its joiners, links that go in circles, .DS_Store."""
    folder = make_folder(classes=("红 色", "می‌خواهم", "näkemiin"))
    (folder / "näkemiin" / "a link").symlink_to(folder / "红 色")
    (folder / "می‌خواهم" / "circle").symlink_to(folder)
    (folder / "红 色" / ".DS_Store").write_bytes(b"clutter")
    (folder / "می‌خواهم" / "Thumbs.db").write_bytes(b"clutter")
    (folder / ".hidden").mkdir()

    store = prepared(folder, tmp_path)

    assert store.class_names == tuple(sorted(("红 色", "می‌خواهم", "näkemiin")))
    assert store.quarantined == 0
    assert len(store.labels) == 60  # what links lead to is there already


def test_a_class_that_only_test_has_is_an_error(make_folder: MakeFolder) -> None:
    """Labels must never shift silently."""
    root = with_splits(make_folder, "train", "test")
    (root / "test" / "left").rename(root / "test" / "lleft")

    with pytest.raises(DataError, match="test has classes that train has not: lleft"):
        samples_of(str(root))


def test_a_folder_beside_train_that_is_no_split_is_an_error(make_folder: MakeFolder) -> None:
    """Otherwise train, spare and test would become the classes."""
    root = with_splits(make_folder, "train", "spare", "test")

    with pytest.raises(DataError, match="spare beside train is neither val nor test"):
        samples_of(str(root))


def test_a_class_name_that_is_no_text_is_refused(make_folder: MakeFolder) -> None:
    """It could not be written into a model, which is known only after training."""
    folder = make_folder()
    (folder / "left").rename(os.fsdecode(bytes(folder) + b"/\xff\xfe"))

    with pytest.raises(DataError, match="must be text in UTF-8"):
        samples_of(str(folder))


def test_a_class_may_be_called_train(make_folder: MakeFolder) -> None:
    """Among cars and planes a train is a train."""
    samples = samples_of(str(make_folder(classes=("car", "plane", "train"))))

    assert {sample.label for sample in samples} == {"car", "plane", "train"}
    assert {sample.split for sample in samples} == {None}
