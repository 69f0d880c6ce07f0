"""Train, val and test: disjoint, complete, and mostly the same when pictures are added."""

import hashlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from imgrec.config import DataConfig
from imgrec.data.look import LOOK, Looks
from imgrec.data.splits import Indices, make_splits
from imgrec.data.store import NO_SPLIT, Store
from imgrec.errors import DataError
from tests.unit.data.made import MakeFolder, prepared, with_splits


def test_splits_that_the_source_brings_are_kept(make_folder: MakeFolder, tmp_path: Path) -> None:
    """Benchmarks are only comparable on their own test split."""
    root = with_splits(make_folder, "train", "valid", "test")
    store = prepared(root, tmp_path)
    splits = make_splits(store, DataConfig())

    assert [len(rows) for rows in (splits.train, splits.val, splits.test)] == [60, 60, 60]
    assert (store.given_splits[splits.val] == 1).all()


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


@pytest.mark.parametrize("seed", [0, 1])
def test_what_calibrates_has_chosen_nothing(digits: Store, seed: int) -> None:
    """Two halves of val, evenly of each class, without a picture or a pair of duplicates in both."""
    splits = make_splits(digits, DataConfig(split_seed=seed))
    parts = splits.choosing, splits.calibrating
    counts = [np.bincount(digits.labels[rows], minlength=10) for rows in parts]

    assert sorted(np.concatenate(parts).tolist()) == splits.val.tolist()
    assert np.abs(counts[0] - counts[1]).max() <= 2
    assert not set(digits.groups[parts[0]]) & set(digits.groups[parts[1]])


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
