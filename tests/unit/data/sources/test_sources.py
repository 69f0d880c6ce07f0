"""Every kind of source gives the same pictures with the same labels and splits, or says why not."""

import os
import tarfile
from pathlib import Path

import pytest

from imgrec.config import DataConfig
from imgrec.data.findings import Findings, Problem
from imgrec.data.sources import open_source
from imgrec.data.store import Store
from imgrec.errors import DataError
from tests.conftest import picture
from tests.unit.data.sources.made import (
    CLASSES,
    EVERY,
    Build,
    add,
    as_folder,
    as_hugging_face,
    png,
    refuse_other_data,
    samples_of,
    stored,
)


@pytest.mark.parametrize("build", EVERY, ids=lambda build: build.__name__)
def test_every_kind_of_source_is_the_same_data(
    build: Build, reference: Store, tmp_path: Path
) -> None:
    """The fingerprint is of contents, labels and splits: how they are packed does not matter."""
    refuse_other_data(stored(build(tmp_path), tmp_path), reference)


@pytest.mark.parametrize("build", EVERY, ids=lambda build: build.__name__)
def test_a_source_says_when_it_has_changed(build: Build, tmp_path: Path) -> None:
    """Otherwise the next run would train on what is no longer there."""
    source = build(tmp_path)
    before = open_source(DataConfig(source=source), tmp_path).state()
    assert open_source(DataConfig(source=source), tmp_path).state() == before
    files = (path for path in tmp_path.rglob("*") if path.suffix in {".png", ".parquet", ".tar"})
    os.utime(next(files), ns=(0, 0))

    assert open_source(DataConfig(source=source), tmp_path).state() != before


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("http://127.0.0.1:9/table.csv", "cannot be read"),
        ("memory://nothing/here", "memory://: no kind of address that is read"),
        ("nosuch://x/y.csv", "nosuch://: no kind of address that is read"),
        ("photos.tar.gz", "no such file"),
        ("nowhere.csv", "no such file"),
        ("nowhere/*.tar", "no such file"),
        ("torchvision:NoSuch", "torchvision has no such data set; it has"),
    ],
)
def test_a_source_that_is_not_there_is_refused_in_one_line(
    source: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong, where, and the cure."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=said) as caught:
        samples_of(source, tmp_path)

    assert "\n" not in str(caught.value)


def test_a_class_map_leaves_the_others_out(tmp_path: Path) -> None:
    """data.classes names what is wanted; what is not is counted, not lost in silence."""
    source = as_folder(tmp_path)
    store = stored(source, tmp_path, classes=("left", "right"))

    assert store.class_names == ("left", "right")
    assert store.quarantined == 16
    assert "class middle is not in data.classes" in store.rejected()[0].reason
    with pytest.raises(DataError, match=r"no picture of centre, which data\.classes names"):
        samples_of(source, tmp_path, classes=("left", "centre"))


def test_a_test_split_that_lacks_a_class_is_told(tmp_path: Path) -> None:
    """Scores say nothing of that class, and are not taken for scores over all."""
    source = Path(as_folder(tmp_path))
    for path in (source / "test" / "left").iterdir():
        path.unlink()
    (source / "test" / "left").rmdir()

    store = stored(str(source), tmp_path)
    findings = Findings(store, allow_leakage=False)

    assert store.class_names == CLASSES
    (problem,) = (one for one in findings.problems if "lacks" in one.text)
    assert problem == Problem("warning", "test lacks left: its scores say nothing of that")


def test_the_same_tree_has_the_same_classes_packed_or_not(tmp_path: Path) -> None:
    """A class is the first folder, however deep its pictures lie."""
    for place in ("photos/cat/front", "photos/cat", "photos/dog/a/b"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        picture(0, 0).save(tmp_path / place / "1.png")
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(tmp_path / "photos", "photos")
    unpacked, packed = (
        [sample.label for sample in samples_of(str(tmp_path / name), tmp_path)]
        for name in ("photos", "photos.tar")
    )

    assert sorted(packed) == sorted(unpacked) == ["cat", "cat", "dog"]


@pytest.mark.parametrize("splits", [("",), ("train/", "test/")])
@pytest.mark.parametrize("packed", [False, True])
def test_pictures_beside_class_folders_go_to_quarantine(
    splits: tuple[str, ...], packed: bool, tmp_path: Path
) -> None:
    """They are of no class, and somebody forgot them there; other files are nobody's business."""
    folder = tmp_path / "photos"
    for split in splits:
        for label, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for number in range(6):
                (folder / split / name / f"{number}.png").write_bytes(
                    png(label, number + len(split))
                )
    strays = {"stray.jpg", *(f"{split}stray.png" for split in splits)}
    for name in strays:
        (folder / name).write_bytes(png(0, 0))
    before = open_source(DataConfig(source=str(folder)), tmp_path).state()
    if packed:
        with tarfile.open(tmp_path / "photos.tar", "w") as tar:
            tar.add(folder, ".")
    else:
        (folder / "license.txt").write_text("as you like")
    store = stored(f"{folder}.tar" if packed else str(folder), tmp_path)

    assert store.class_names == CLASSES
    assert {reject.id.removeprefix("photos.tar:") for reject in store.rejected()} == strays
    if not packed:
        assert open_source(DataConfig(source=str(folder)), tmp_path).state() == before
        (folder / "stray.jpg").unlink()
        assert open_source(DataConfig(source=str(folder)), tmp_path).state() != before


def test_a_folder_with_classes_and_shards_is_refused(tmp_path: Path) -> None:
    """Which of the two was meant only a person can tell."""
    folder = Path(as_folder(tmp_path)) / "train"
    with tarfile.open(folder / "old.tar", "w") as tar:
        add(tar, "x/1.png", png(0, 0))

    with pytest.raises(DataError, match=r"has class folders \(left\) and old.tar; name the file"):
        samples_of(str(folder), tmp_path)


def test_a_test_split_that_cannot_be_read_stops_the_run(tmp_path: Path) -> None:
    """Otherwise another one would be cut from train, or a class would go unscored."""
    source = Path(as_folder(tmp_path))
    for path in (source / "test" / "left").iterdir():
        path.write_bytes(b"git-lfs pointer")

    with pytest.raises(DataError, match="class left: every one of its 4 files in test is unread"):
        stored(str(source), tmp_path)


def test_a_folder_of_parquet_in_a_single_folder_is_found(tmp_path: Path) -> None:
    """Data sets of the hub have a folder for each configuration; of several one is asked for."""
    made = Path(as_hugging_face(tmp_path))
    (made / "data").rename(made / "plain_text")

    assert len(list(open_source(DataConfig(source=str(made)), tmp_path))) == 48
    (made / "other").mkdir()
    (made / "other" / "train.parquet").write_bytes(b"x")
    with pytest.raises(DataError, match=r"each of its folders is a data set \(other, plain_text\)"):
        open_source(DataConfig(source=str(made)), tmp_path)
