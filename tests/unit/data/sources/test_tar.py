"""Tar files: shards of WebDataset, and packed folders."""

import json
import tarfile
from pathlib import Path

import pytest

from imgrec.data.store import Store
from imgrec.errors import DataError
from tests.unit.data.sources.made import (
    CLASSES,
    add,
    as_packed_folder,
    each_picture,
    png,
    refuse_other_data,
    samples_of,
    stored,
)


def test_labels_of_shards_come_from_json_too(tmp_path: Path) -> None:
    """And a file beside a picture that cannot be read makes the picture unusable, not the shard."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(6):
            add(tar, f"{number}.png", png(number % 3, number))
            label = json.dumps({"label": CLASSES[number % 3]}) if number < 5 else "{"
            add(tar, f"{number}.json", label.encode())
    found = samples_of(str(tmp_path / "a.tar"), tmp_path)

    assert [sample.label for sample in found[:3]] == list(CLASSES)
    assert "json file cannot be read" in found[5].content.reason  # type: ignore[attr-defined]


def test_pictures_of_one_name_and_names_with_dots_are_all_there(tmp_path: Path) -> None:
    """WebDataset cuts names at the first dot; pictures of a packed folder must not vanish for it."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(4):
            add(tar, f"x/IMG.{number}.png", png(0, number))
            add(tar, f"y/IMG.{number}.png", png(1, number))
        add(tar, "y/IMG.3.txt", b"a caption")
        link = tarfile.TarInfo("y/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "IMG.0.png"
        tar.addfile(link)
    found = samples_of(str(tmp_path / "a.tar"), tmp_path)

    assert len(found) == 9
    assert "a link" in found[-1].content.reason  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("label", "reason"),
    [("a\nb", "is not text in one line"), ("\ud800", "is not text in one line")],
)
def test_labels_that_are_no_text_go_to_quarantine(label: str, reason: str, tmp_path: Path) -> None:
    """They could not be written into a model, which would be known only after training."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(4):
            add(tar, f"{number}.png", png(number % 2, number))
            text = label if number == 3 else CLASSES[number % 2]
            add(tar, f"{number}.json", json.dumps({"label": text}).encode())
    store = stored(str(tmp_path / "a.tar"), tmp_path)

    (rejected,) = store.rejected()
    assert reason in rejected.reason


def test_shards_in_folders_of_the_same_names_keep_their_own(
    reference: Store, tmp_path: Path
) -> None:
    """train/0.tar and test/0.tar: ids must tell them apart, and the folder is the split."""
    for split in ("train", "test"):
        (tmp_path / "web" / split).mkdir(parents=True)
        with tarfile.open(tmp_path / "web" / split / "0.tar", "w") as tar:
            for of, label, number, content in each_picture():
                if of == split:
                    add(tar, f"{CLASSES[label]}/{number}.png", content)
    store = stored(str(tmp_path / "web"), tmp_path)

    refuse_other_data(store, reference)
    assert len(set(store.ids())) == 48


@pytest.mark.parametrize("kept", [0.3, 0.5, 0.8])
def test_a_tar_that_was_cut_off_is_refused(kept: float, tmp_path: Path) -> None:
    """Python's tarfile takes a cut between two members for the end, and pictures would be missing."""
    path = Path(as_packed_folder(tmp_path))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) // 512 * 512])

    with pytest.raises(DataError, match="ends in the middle"):
        samples_of(str(path), tmp_path)
