"""Which pictures train, which choose, and which are held out."""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imgrec.config import DataConfig
from imgrec.data.sources.sample import SPLITS
from imgrec.data.store import NO_SPLIT, Store
from imgrec.errors import DataError

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Splits:
    """Rows of the store, each in exactly one split, ascending."""

    train: Indices
    val: Indices
    test: Indices

    @property
    def digest(self) -> str:
        """A short hash of who is in which split: equal means that scores can be compared."""
        hashed = hashlib.sha256()
        for rows in (self.train, self.val, self.test):
            hashed.update(rows.tobytes() + b"|")
        return hashed.hexdigest()[:16]


def make_splits(store: Store, config: DataConfig, seed: int) -> Splits:
    """The splits that the source brings; what it lacks is cut from train, stratified by class.

    Duplicates, exact and near, stay together: one in train and one in test would be a question with
    its answer. Fractions count from all pictures of the source, so val_fraction = 0.1 of 60,000
    pictures is 6,000 whether test was given or not. Pure in (store, fractions, seed). scikit-learn's splitter
    refuses classes of one picture; here such a class goes to train alone.

    Raises:
        DataError: a split ends up empty.
    """
    given = store.given_splits
    train = np.flatnonzero((given == SPLITS.index("train")) | (given == NO_SPLIT))
    rows = {"train": train}
    cuts = {"test": config.test_fraction, "val": config.val_fraction}
    rng = np.random.default_rng([seed, 0x51])
    for name, fraction in cuts.items():
        brought = np.flatnonzero(given == ("train", "val", "test").index(name))
        if len(brought):
            rows[name] = brought
            continue
        share = fraction * len(store.labels) / len(rows["train"])
        rows["train"], rows[name] = _cut(store, rows["train"], share, rng)
    for name, chosen in rows.items():
        if not len(chosen):
            different = len(np.unique(store.groups))
            msg = (
                f"{len(store.labels)} pictures, {different} different ones, leave none for {name}: "
                f"add pictures, or lower data.near_duplicates"
            )
            raise DataError(msg)
    return Splits(rows["train"], rows["val"], rows["test"])


def _cut(
    store: Store, rows: Indices, share: float, rng: np.random.Generator
) -> tuple[Indices, Indices]:
    """Cut a share of every class off: what remains, and what was cut, both ascending.

    Sizes are rounded class by class so that their sum is right to one picture (largest remainder),
    and every class keeps at least one.
    """
    groups = store.groups[rows]
    firsts = rows[np.sort(np.unique(groups, return_index=True)[1])]
    labels = store.labels[firsts]
    classes = [rng.permutation(firsts[labels == label]) for label in np.unique(labels)]
    sizes = np.array([len(members) for members in classes])
    wanted = sizes * min(share, 0.9)
    counts = np.floor(wanted).astype(int)
    missing = round(wanted.sum()) - counts.sum()
    counts[np.argsort(counts - wanted, kind="stable")[:missing]] += 1
    counts = np.minimum(counts, sizes - 1)
    chosen = [members[:count] for members, count in zip(classes, counts, strict=True)]
    is_cut = np.isin(groups, store.groups[np.concatenate(chosen)])
    return rows[~is_cut], rows[is_cut]
