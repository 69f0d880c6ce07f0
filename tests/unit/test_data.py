"""From folders to batches: nothing invented, nothing lost, the same every time."""

import csv
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from imgrec.config import DataConfig
from imgrec.data.loader import Pictures, Shard, evaluation_batches, training_batches
from imgrec.data.sources import list_samples, open_source
from imgrec.data.sources.sample import Sample
from imgrec.data.splits import make_splits
from imgrec.data.store import Store, prepare_store
from imgrec.errors import DataError
from tests.conftest import no_progress, picture

CPU = torch.device("cpu")
MakeFolder = Callable[..., Path]


def prepared(folder: Path, storage: Path, **settings: object) -> Store:
    config = DataConfig(source=str(folder), **settings)
    return prepare_store(config, storage, progress=no_progress)


def samples_of(source: str) -> list[Sample]:
    config = DataConfig(source=source)
    return list_samples(open_source(source, Path("downloads")), config)


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


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda _: None, "no such folder"),
        (lambda folder: folder.write_text("x"), "a file; give the folder"),
        (lambda folder: folder.mkdir(), "no class folder"),
        (lambda folder: (folder / "cat").mkdir(parents=True), "no file in it"),
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


def test_a_class_without_a_readable_picture_stops_the_run(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    """It would vanish from the model without a word."""
    folder = make_folder(count=3)
    for path in (folder / "right").iterdir():
        path.write_bytes(b"no picture")

    with pytest.raises(DataError, match="class right: every one of its 3 files is unreadable"):
        prepared(folder, tmp_path)


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
    assert len(store.labels) >= 80  # 60, and 20 again through the first link


def test_a_file_name_that_is_no_text_does_not_stop_the_run(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    """On Linux a name is bytes."""
    folder = make_folder()
    Path(os.fsdecode(bytes(folder / "left") + b"/\xff\xfe.png")).write_bytes(b"broken")

    assert prepared(folder, tmp_path).quarantined == 1


def with_splits(make_folder: MakeFolder, *names: str) -> Path:
    folder = make_folder()
    root = folder.parent / "splits"
    root.mkdir()
    for name in names:
        for label in ("left", "middle", "right"):
            (root / name / label).mkdir(parents=True)
        for path in sorted(folder.glob("*/*.png")):
            (root / name / path.parent.name / path.name).write_bytes(path.read_bytes())
    return root


def test_splits_that_the_source_brings_are_kept(make_folder: MakeFolder, tmp_path: Path) -> None:
    """Benchmarks are only comparable on their own test split."""
    root = with_splits(make_folder, "train", "valid", "test")
    store = prepared(root, tmp_path)
    splits = make_splits(store, DataConfig(), seed=0)

    assert [len(rows) for rows in (splits.train, splits.val, splits.test)] == [60, 60, 60]
    assert (store.given_splits[splits.val] == 1).all()


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


def test_a_class_that_is_readable_in_test_alone_stops_the_run(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    """The model would have a class that it never saw."""
    root = with_splits(make_folder, "train", "test")
    for path in (root / "train" / "left").iterdir():
        path.write_bytes(b"git-lfs pointer")

    with pytest.raises(DataError, match="class left: every one of its 20 files is unreadable"):
        prepared(root, tmp_path)


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


@pytest.mark.parametrize("seed", [0, 1])
def test_splits_are_disjoint_complete_stratified_and_repeatable(digits: Store, seed: int) -> None:
    """The test split must never be trained on, and look like the rest."""
    config = DataConfig()
    splits = make_splits(digits, config, seed)
    parts = [splits.train, splits.val, splits.test]
    shares = [np.bincount(digits.labels[rows], minlength=10) / len(rows) for rows in parts]

    assert sorted(np.concatenate(parts).tolist()) == list(range(1797))
    # Four pairs of digits look alike and stay together, so it may be one or two more.
    assert abs(len(splits.test) - 0.2 * 1797) < 3
    assert abs(len(splits.val) - 0.1 * 1797) < 3
    assert np.abs(shares[0] - shares[2]).max() < 0.01
    assert make_splits(digits, config, seed).digest == splits.digest
    assert make_splits(digits, config, seed + 1).digest != splits.digest


def test_too_few_pictures_to_split_is_an_error(make_folder: MakeFolder, tmp_path: Path) -> None:
    """A score over nothing is no score."""
    store = prepared(make_folder(count=1), tmp_path)

    with pytest.raises(DataError, match="leave none for"):
        make_splits(store, DataConfig(), seed=0)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_workers_shares_make_up_the_same_batches(
    digits: Store, world_size: int, balanced: bool
) -> None:
    """The number of workers must not change what is learned."""
    rows = np.arange(100)

    def batches(rank: int, size: int) -> list[list[int]]:
        loaded = training_batches(
            Pictures(digits, CPU),
            rows,
            batch_size=16,
            seed=3,
            epoch=5,
            shard=Shard(rank, size),
            balanced=balanced,
        )
        return [batch.images.flatten(1).sum(1).tolist() for batch in loaded]

    alone = batches(0, 1)
    shares = [batches(rank, world_size) for rank in range(world_size)]

    assert len(alone) == 6
    for step, batch in enumerate(alone):
        together = [image for share in shares for image in share[step]]
        assert sorted(together) == sorted(batch)


def test_every_picture_takes_turns_to_be_mirrored(digits: Store) -> None:
    """In every other epoch; and in each about half of them."""

    def turns(epoch: int) -> dict[bytes, bool]:
        loaded = training_batches(
            Pictures(digits, CPU),
            np.arange(256),
            batch_size=64,
            seed=1,
            epoch=epoch,
            shard=Shard(),
        )
        return {
            image.numpy().tobytes(): bool(turn)
            for batch in loaded
            for image, turn in zip(batch.images, batch.turns, strict=True)
        }

    first, second, third = (turns(epoch) for epoch in range(3))
    assert all(second[image] is not turn for image, turn in first.items())
    assert first == third
    assert 90 < sum(first.values()) < 166


def test_the_order_depends_on_seed_and_epoch_alone(digits: Store) -> None:
    """So that a resumed run sees the same batches."""

    def labels(seed: int, epoch: int) -> list[int]:
        loaded = training_batches(
            Pictures(digits, CPU),
            np.arange(64),
            batch_size=64,
            seed=seed,
            epoch=epoch,
            shard=Shard(),
        )
        return next(iter(loaded)).labels.tolist()

    assert labels(0, 0) == labels(0, 0)
    assert labels(0, 0) != labels(0, 1)
    assert labels(0, 0) != labels(1, 0)


@pytest.mark.parametrize("world_size", [1, 2, 7])
def test_evaluation_sees_every_picture_exactly_once(digits: Store, world_size: int) -> None:
    """Padding, as samplers do it, would count some twice."""
    rows = np.arange(100, 203)
    seen = [
        label
        for rank in range(world_size)
        for _, labels in evaluation_batches(
            Pictures(digits, CPU), rows, batch_size=10, shard=Shard(rank, world_size)
        )
        for label in labels.tolist()
    ]

    assert sorted(seen) == sorted(digits.labels[rows].tolist())
