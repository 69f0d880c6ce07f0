"""From folders to batches: nothing invented, nothing lost, the same every time."""

import csv
import hashlib
import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from imgrec.config import DataConfig
from imgrec.data.loader import Pictures, Shard, evaluation_batches, training_batches
from imgrec.data.look import LOOK, Looks
from imgrec.data.sources import list_samples, open_source
from imgrec.data.sources.sample import Sample
from imgrec.data.splits import Indices, make_splits
from imgrec.data.store import NO_SPLIT, Store, open_store, prepare_store
from imgrec.errors import DataError
from imgrec.machine import locked
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


def test_splits_that_the_source_brings_are_kept(make_folder: MakeFolder, tmp_path: Path) -> None:
    """Benchmarks are only comparable on their own test split."""
    root = with_splits(make_folder, "train", "valid", "test")
    store = prepared(root, tmp_path)
    splits = make_splits(store, DataConfig())

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
    config = DataConfig(split_seed=seed)
    splits = make_splits(digits, config)
    parts = [splits.train, splits.val, splits.test]
    shares = [np.bincount(digits.labels[rows], minlength=10) / len(rows) for rows in parts]
    other = make_splits(digits, DataConfig(split_seed=seed + 1))

    assert sorted(np.concatenate(parts).tolist()) == list(range(1797))
    # Four pairs of digits look alike and stay together, so it may be one fewer a class.
    assert abs(len(splits.test) - 0.2 * 1797) < 5
    assert abs(len(splits.val) - 0.1 * 1797) < 5
    assert np.abs(shares[0] - shares[2]).max() < 0.01
    assert make_splits(digits, config).digest(digits) == splits.digest(digits)
    assert other.digest(digits) != splits.digest(digits)


class Bare(Store):
    """A store without pictures: what decides the splits, each picture with contents of its own."""

    def looks(self) -> Looks:
        looks = np.zeros(len(self.labels), dtype=LOOK)
        digests = [hashlib.sha256(b"%d" % row).digest()[:16] for row in range(len(self.labels))]
        looks["digest"] = np.frombuffer(b"".join(digests), dtype="V16")
        return looks


def store_of(
    labels: Sequence[int], groups: Sequence[int] | None = None, given: Sequence[int] | None = None
) -> Store:
    """A store of these labels; by default without duplicates and given splits."""
    count = len(labels)
    return Bare(
        folder=Path(),
        image_shape=(1, 1, 1),
        depth=16,
        labels=np.array(labels),
        given_splits=np.array([NO_SPLIT] * count if given is None else given, dtype=np.int8),
        groups=np.arange(count) if groups is None else np.array(groups),
        class_names=tuple(f"class {label}" for label in range(max(labels) + 1)),
        fingerprint="",
        quarantined=0,
        near_cut_off=False,
    )


def classes_in(store: Store, rows: Indices) -> set[int]:
    return set(store.labels[rows].tolist())


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("count", [3, 4, 10])
def test_every_class_that_is_large_enough_is_in_every_split(count: int, seed: int) -> None:
    """A class that is not tested may be as bad as it likes."""
    store = store_of(np.repeat(np.arange(100), count).tolist())
    splits = make_splits(store, DataConfig(split_seed=seed))

    for rows in (splits.train, splits.val, splits.test):
        assert classes_in(store, rows) == set(range(100))


def test_of_tiny_classes_no_place_in_the_alphabet_decides() -> None:
    """Of 100 classes of two the first 40 were the test and the next 20 the validation, always."""
    store = store_of(np.repeat(np.arange(100), 2).tolist())
    tested = []
    for seed in (0, 1):
        splits = make_splits(store, DataConfig(split_seed=seed))
        test, val = classes_in(store, splits.test), classes_in(store, splits.val)
        assert classes_in(store, splits.train) == set(range(100))
        assert not test & val
        assert len(test | val) == 100
        assert 60 <= len(test) <= 73  # two thirds, as the fractions are
        assert 35 < np.mean(sorted(test)) < 65
        tested.append(test)

    assert tested[0] != tested[1]


@pytest.mark.parametrize("seed", range(8))
def test_fractions_count_pictures_and_not_groups_of_duplicates(seed: int) -> None:
    """A burst of 600 pictures in a class of 1,000 is one group: the test has 200 all the same."""
    groups = np.arange(2000)
    groups[:600] = 0
    store = store_of(np.repeat([0, 1], 1000).tolist(), groups.tolist())
    splits = make_splits(store, DataConfig(split_seed=seed))

    assert np.bincount(store.labels[splits.test]).tolist() == [200, 200]
    assert np.bincount(store.labels[splits.val]).tolist() == [100, 100]


def test_a_class_of_two_bursts_is_tested_with_the_smaller_one() -> None:
    """Rather with more than was asked for than not at all."""
    groups = [0] * 60 + [60] * 40 + list(range(100, 200))
    store = store_of([0] * 100 + [1] * 100, groups)
    splits = make_splits(store, DataConfig())
    counts = [np.bincount(store.labels[rows], minlength=2)[0] for rows in (splits.val, splits.test)]

    assert sorted(counts) == [0, 40]


def test_a_picture_mostly_stays_in_its_split_when_others_are_added() -> None:
    """Models of different days can be compared, and what was tested is not trained on next week."""
    labels = np.tile([0, 1, 2], 500).tolist()
    before, after = (make_splits(store_of(some), DataConfig()) for some in (labels[:1350], labels))

    assert np.isin(before.train, after.train).mean() > 0.95
    assert np.isin(before.test, after.test).mean() > 0.95


def test_splits_do_not_come_from_the_seed_of_training() -> None:
    """Models of different seeds are scored on the same pictures."""
    assert "seed" not in inspect.signature(make_splits).parameters


@pytest.mark.parametrize("test_from", ["train", "val"])
def test_where_a_source_has_val_but_no_test_the_test_is_as_large_as_val(
    test_from: Literal["train", "val"],
) -> None:
    """A fifth of all pictures would be 266,233 of ImageNet's."""
    given = [0] * 900 + [1] * 100
    store = store_of(np.tile(np.arange(10), 100).tolist(), given=given)
    splits = make_splits(store, DataConfig(test_from=test_from))
    brought = splits.val if test_from == "train" else splits.test

    assert (len(splits.train), len(splits.val), len(splits.test)) == (800, 100, 100)
    assert brought.tolist() == list(range(900, 1000))
    assert len(splits.notes) == 1
    assert "data.test_from" in splits.notes[0]


def test_too_few_pictures_to_split_is_an_error(make_folder: MakeFolder, tmp_path: Path) -> None:
    """A score over nothing is no score."""
    store = prepared(make_folder(count=1), tmp_path)

    with pytest.raises(DataError, match="leave none for"):
        make_splits(store, DataConfig())


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
