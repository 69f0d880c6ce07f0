"""Which pictures train, which choose, and which are held out."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from imgrec.config import DataConfig
from imgrec.data.balance import even_out
from imgrec.data.sources.sample import SPLITS, Split
from imgrec.data.store import NO_SPLIT, Store
from imgrec.errors import DataError

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Splits:
    """Rows of the store, each in exactly one split, ascending.

    Attributes:
        train: To learn from.
        val: To choose and to calibrate by, in two parts that share no picture and no duplicates.
        test: To score with, once.
        notes: What was done where the source brought some of the splits, in a line each.
        calibrating: The part of val that fits how sure a model is of itself; what chose a model makes it look surer.
    """

    train: Indices
    val: Indices
    test: Indices
    notes: tuple[str, ...] = ()
    calibrating: Indices = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def choosing(self) -> Indices:
        """The other part of val: it chooses the best epoch and the best settings."""
        return np.setdiff1d(self.val, self.calibrating, assume_unique=True)

    def digest(self, store: Store) -> str:
        """A short hash of which pictures are in which split: equal means that scores can be compared.

        Of contents and classes, so it is the same in another store of the same pictures.
        """
        hashed = hashlib.sha256()
        digests, names = store.looks()["digest"], store.class_names
        for rows in (self.train, self.val, self.test):
            lines = [
                names[label].encode() + b"\0" + bytes(digest)
                for label, digest in zip(store.labels[rows].tolist(), digests[rows], strict=True)
            ]
            hashed.update(b"".join(sorted(lines)) + b"|")
        return hashed.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class _Groups:
    """Groups of duplicates, each all or nothing.

    Attributes:
        ids: As the store has them, (G,).
        counts: Pictures of each class in each, (G, K).
        sizes: Pictures in each, (G,).
        labels: Of the classes in each the rarest, (G,): the others have pictures elsewhere.
        ranks: Hashes of the contents, (G,): within a class the groups of the lowest leave train first.
    """

    ids: Indices
    counts: Indices
    sizes: Indices
    labels: Indices
    ranks: npt.NDArray[np.uint64]


def make_splits(store: Store, config: DataConfig) -> Splits:
    """The splits that the source brings; what it lacks is cut from train, stratified by class.

    Within a class pictures are ranked by a hash of their contents and data.split_seed, so a picture mostly
    stays in its split when others are added or removed. Duplicates, exact and near, stay together: one in
    train and one in test would be a question with its answer. Fractions are shares of all pictures of the
    source: val_fraction = 0.1 of 60,000 pictures is 6,000 whether test was given or not. Where the source
    brings val but no test, see data.test_from.

    Every class keeps a group in train. Beyond that one of three groups and more is in every split, one of
    two in train and in either of the others, drawn by a hash of its name. Where groups hold several classes, groups
    then change places as long as that makes the shares of the classes in the splits more even.

    Raises:
        DataError: a split ends up empty.
    """
    given = {
        name: np.flatnonzero(store.given_splits == number)
        for number, name in enumerate(SPLITS)
        if name != "train"
    }
    in_train = (store.given_splits == SPLITS.index("train")) | (store.given_splits == NO_SPLIT)
    rows: dict[Split, Indices] = {"train": np.flatnonzero(in_train)}
    rows |= {name: brought for name, brought in given.items() if len(brought)}
    wanted: dict[Split, float] = {
        "test": config.test_fraction * len(store.labels),
        "val": config.val_fraction * len(store.labels),
    }
    notes = []
    if "val" in rows and "test" not in rows:
        count = len(rows["val"])
        if config.test_from == "val":
            rows["test"] = rows.pop("val")
            notes.append(
                f"the source has no test split: its val, {count:,} pictures, is the test "
                f"(data.test_from = val), and val is cut from train"
            )
        else:
            wanted["test"] = count
            notes.append(
                f"the source has no test split: as many pictures as val has, {count:,}, are cut from "
                f"train for it; data.test_from = val would take val itself"
            )
    cuts = {name: count for name, count in wanted.items() if name not in rows}
    rows |= _cut(store, rows["train"], cuts, config.split_seed)
    for name in SPLITS:
        if not len(rows.get(name, ())):
            different = len(np.unique(store.groups))
            msg = (
                f"{len(store.labels)} pictures, {different} different ones, leave none for {name}: "
                f"add pictures, or lower data.near_duplicates"
            )
            raise DataError(msg)
    calibrating = _every_other(store, rows["val"], config.split_seed)
    return Splits(rows["train"], rows["val"], rows["test"], tuple(notes), calibrating)


def _every_other(store: Store, rows: Indices, seed: int) -> Indices:
    """Half of a split's rows, evenly of each class: within it every other group by a hash of its contents."""
    groups = _groups_of(store, rows, seed)
    order = np.lexsort((groups.ranks, groups.labels))
    taken = np.zeros(len(order), dtype=bool)
    taken[order[1::2]] = True
    return rows[taken[np.searchsorted(groups.ids, store.groups[rows])]]


def _cut(
    store: Store, rows: Indices, wanted: dict[Split, float], seed: int
) -> dict[Split, Indices]:
    """So many pictures for each of the splits, and what remains as train; all ascending."""
    if not wanted:
        return {}
    groups = _groups_of(store, rows, seed)
    names = list(wanted)
    counts = _class_counts(store, groups, wanted, seed)
    place = np.full(len(groups.ids), len(names))  # of the split of each group; the last is train
    order = np.lexsort((groups.ranks, groups.labels))
    ends = np.flatnonzero(np.diff(groups.labels[order], append=-1)) + 1
    for members in np.split(order, ends[:-1]):
        label = groups.labels[members[0]]
        left = members
        for number, name in enumerate(names):
            later = sum(counts[other][label] > 0 for other in names[number + 1 :])
            chosen = _take(groups.sizes[left], int(counts[name][label]), len(left) - later - 1)
            place[left[chosen]] = number
            left = left[~chosen]
    even_out(place, groups.counts, groups.ranks, [*wanted.values()])
    by_row = place[np.searchsorted(groups.ids, store.groups[rows])]
    cut_off: dict[Split, Indices] = {name: rows[by_row == n] for n, name in enumerate(names)}
    return {"train": rows[by_row == len(names)], **cut_off}


def _groups_of(store: Store, rows: Indices, seed: int) -> _Groups:
    ids, which, sizes = np.unique(store.groups[rows], return_inverse=True, return_counts=True)
    digests = np.frombuffer(store.looks()["digest"][rows].tobytes(), dtype="<u8")[::2]
    ranks = np.full(len(ids), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(ranks, which, _mixed(digests, seed))
    labels = store.labels[rows]
    by_count = np.argsort(np.bincount(labels, minlength=len(store.class_names)), kind="stable")
    place = np.empty_like(by_count)
    place[by_count] = np.arange(len(by_count))
    rarest = np.full(len(ids), len(by_count), dtype=np.int64)
    np.minimum.at(rarest, which, place[labels])
    counts = np.zeros((len(ids), len(by_count)), dtype=np.int64)
    np.add.at(counts, (which, labels), 1)
    return _Groups(ids, counts, sizes.astype(np.int64), by_count[rarest], ranks)


def _class_counts(
    store: Store, groups: _Groups, wanted: dict[Split, float], seed: int
) -> dict[Split, Indices]:
    """Pictures of each class for each split, K numbers.

    Their sums are right to one picture where the classes are large enough (largest remainder).
    """
    classes = len(store.class_names)
    pictures = np.bincount(groups.labels, groups.sizes, classes)
    different = np.bincount(groups.labels, minlength=classes)
    names = [
        int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        for name in store.class_names
    ]
    by_name = np.argsort(_mixed(np.array(names, dtype=np.uint64), seed), kind="stable")
    counts: dict[Split, Indices] = {}
    for name, count in wanted.items():
        exact = pictures * min(count / max(1, pictures.sum()), 0.9)
        counts[name] = np.floor(exact).astype(np.int64)
        missing = round(exact.sum()) - int(counts[name].sum())
        by_remainder = by_name[np.argsort((counts[name] - exact)[by_name], kind="stable")]
        counts[name][by_remainder[:missing]] += 1
        counts[name] = np.where(different > len(wanted), np.maximum(counts[name], 1), counts[name])
    # Classes that cannot be in every split are in train, and in turns in one of the others.
    small = by_name[(different <= len(wanted))[by_name]]
    turns = _in_turns(list(wanted.values()), len(small))
    for number, name in enumerate(wanted):
        counts[name][small] = np.where(turns == number, 1, 0) * (different[small] > 1)
    return counts


def _in_turns(shares: Sequence[float], count: int) -> Indices:
    """Numbers of the shares, each as often as it is large, spread evenly."""
    ends = np.cumsum(shares) / max(1e-12, float(np.sum(shares)))
    golden = (np.arange(count) + 0.5) * 0.618033988749895 % 1.0
    return np.minimum(np.searchsorted(ends, golden), len(shares) - 1).astype(np.int64)


def _take(sizes: Indices, wanted: int, most: int) -> npt.NDArray[np.bool_]:
    """Which groups, in their order, make up so many pictures: never more, but at least one group.

    Args:
        sizes: Pictures of each.
        wanted: Pictures; 0 takes none.
        most: Groups that may be taken.
    """
    chosen = np.zeros(len(sizes), dtype=bool)
    if wanted <= 0 or most <= 0:
        return chosen
    if (sizes == 1).all():
        chosen[: min(wanted, most)] = True
        return chosen
    taken = groups = 0
    for place, size in enumerate(sizes.tolist()):
        if taken == wanted or groups == most:
            break
        if taken + size <= wanted:
            chosen[place] = True
            taken += size
            groups += 1
    if not taken:
        chosen[int(sizes.argmin())] = True
    return chosen


def _mixed(values: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    """Values to others that look random, by the seed (Steele et al. 2014, SplitMix64)."""
    with np.errstate(over="ignore"):
        mixed = values.astype(np.uint64) + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 & (2**64 - 1))
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
