"""What is wrong with a data set, or at least odd, before anything is spent on it."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from imgrec.data.look import Looks
from imgrec.data.scan import Rejected
from imgrec.data.sources.sample import SPLITS
from imgrec.data.store import NO_SPLIT, Store
from imgrec.errors import DataError

Kind = Literal["same class", "other class", "other split", "train and test"]
# Train, val and test each need one.
LEAST_PICTURES = 3
FEW_GREY = 0.1
FEW_PICTURES = 20
GROUPED = re.compile(r"(?P<group>[^/:_.-]*[0-9])[_.-][^/:_.-]*[0-9]\.[^./]+$")
"""`patient12_3.png`, `video7.frame0012.jpg`: a name with a number, and a number within it."""
LEAST_GROUPS = 5
MOST_NAMES = 10_000
"""Evenly of all, that are looked at for groups."""
MOST_SHOWN = 20
"""Classes in a line."""
UNEVEN = 2.0
LONGEST_SHAPE = 4.0
BLANK = 1.0
# Distance from the median in quartile ranges; of a normal distribution one in 10**8 is further off.
FAR_OUT = 4.0


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Pictures that are the same, or nearly.

    Attributes:
        rows: Of the store, ascending.
        exact: The same pixels; otherwise alike.
        kind: The worst that applies.
    """

    rows: tuple[int, ...]
    exact: bool
    kind: Kind


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that a person should know; `error` stops a run."""

    level: Literal["error", "warning", "note"]
    text: str


@dataclass(frozen=True)
class Findings:
    """What is wrong or odd about the pictures of a store."""

    store: Store
    allow_leakage: bool

    @cached_property
    def looks(self) -> Looks:
        """What is known of each picture, (N,) of LOOK."""
        return self.store.looks()

    @cached_property
    def ids(self) -> list[str]:
        """What the source calls each picture."""
        return self.store.ids()

    @cached_property
    def rejected(self) -> list[Rejected]:
        """What was left out."""
        return self.store.rejected()

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """Pictures by class and by given split, (K, 4): train, val, test, none given."""
        table = np.zeros((len(self.store.class_names), len(SPLITS) + 1), dtype=np.int64)
        np.add.at(table, (self.store.labels, self.store.given_splits), 1)  # NO_SPLIT is the last
        return table

    @cached_property
    def _splits(self) -> npt.NDArray[np.int8]:
        """The given splits; where there are some, what has none will be train."""
        given = self.store.given_splits
        if (given == NO_SPLIT).all():
            return given
        return np.where(given == NO_SPLIT, SPLITS.index("train"), given)

    def understood(self) -> list[str]:
        """What was taken for what, and the classes with their counts, for a person to verify."""
        names, counts = self.store.class_names, self.counts
        order = np.argsort(-counts.sum(axis=1), kind="stable")
        shown = [*range(len(names))]
        title = f"{len(names):,} classes"
        if len(names) > MOST_SHOWN:
            shown, title = (
                [*order[: MOST_SHOWN // 2], *order[-MOST_SHOWN // 2 :]],
                f"{title}, the largest and smallest",
            )
        parts = [f"{names[k]} {_by_split(counts[k])}" for k in shown]
        reading = self.store.reading.lines() if self.store.reading else []
        given = " + ".join(
            split for split, some in zip(SPLITS, counts.sum(axis=0), strict=False) if some
        )
        return [*reading, f"{title}{f' ({given})' if given else ''}: {', '.join(parts)}"]

    @property
    def to_train_on(self) -> npt.NDArray[np.int64]:
        """Pictures of each class from which train is taken, (K,)."""
        return self.counts[:, SPLITS.index("train")] + self.counts[:, NO_SPLIT]

    @property
    def imbalance(self) -> float:
        """How many times more pictures the largest class has than the smallest."""
        return float(self.to_train_on.max() / max(1, self.to_train_on.min()))

    @cached_property
    def duplicates(self) -> list[Duplicates]:
        """All of them, the worst first."""
        duplicates = [*self._exact(), *self._near()]
        order: list[Kind] = ["train and test", "other class", "other split", "same class"]
        return sorted(duplicates, key=lambda one: (order.index(one.kind), not one.exact, one.rows))

    @cached_property
    def odd(self) -> list[tuple[int, str]]:
        """Pictures unlike the others: row and what is odd."""
        looks = self.looks
        sides = np.stack([looks["height"], looks["width"]]).astype(float)
        shape = sides.max(axis=0) / sides.min(axis=0)
        checks = [
            (looks["std"] < BLANK, "of one colour"),
            (_far_out(looks["mean"], least=40.0), "far darker or brighter than the others"),
            (
                _far_out(np.log(sides.prod(axis=0)), least=float(np.log(4))),
                "far smaller or larger than the others",
            ),
            (shape > LONGEST_SHAPE, "a long strip"),
        ]
        reasons: dict[int, str] = {}
        for mask, reason in checks:
            for row in np.flatnonzero(mask).tolist():
                reasons.setdefault(row, reason)
        return sorted(reasons.items())

    @cached_property
    def problems(self) -> list[Problem]:
        """In one line each, the worst first."""
        problems = [
            *self._group_problems(),
            *self._duplicate_problems(),
            *self._class_problems(),
            *self._picture_problems(),
        ]
        return sorted(problems, key=lambda one: ("error", "warning", "note").index(one.level))

    @property
    def usable(self) -> bool:
        """Whether a run would start with these data."""
        return not any(problem.level == "error" for problem in self.problems)

    def refuse_unusable(self, source: str) -> None:
        """Raise DataError where a run must not start with these data."""
        if not self.usable:
            reasons = "; ".join(one.text for one in self.problems if one.level == "error")
            msg = f"{source}: {reasons}"
            raise DataError(msg)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        looks, store = self.looks, self.store
        return {
            "usable": self.usable,
            "pictures": len(store.labels),
            "fingerprint": store.fingerprint,
            "reading": store.reading and store.reading.as_json(),
            "image_shape": list(store.image_shape),
            "classes": {
                name: dict(zip((*SPLITS, "unsplit"), row, strict=True))
                for name, row in zip(store.class_names, self.counts.tolist(), strict=True)
            },
            "imbalance_ratio": self.imbalance,
            "height": _spread(looks["height"]),
            "width": _spread(looks["width"]),
            "brightness": _spread(looks["mean"]),
            "modes": dict(Counter(looks["mode"].tolist())),
            "animated": int(looks["animated"].sum()),
            "quarantined": [
                {"id": one.id, "label": one.label, "reason": one.reason} for one in self.rejected
            ],
            "duplicates": [
                {"kind": one.kind, "exact": one.exact, "ids": [self.ids[row] for row in one.rows]}
                for one in self.duplicates
            ],
            "odd": [{"id": self.ids[row], "reason": reason} for row, reason in self.odd],
            "problems": [{"level": one.level, "text": one.text} for one in self.problems],
        }

    def _exact(self) -> Iterator[Duplicates]:
        _, which, counts = np.unique(self.looks["digest"], return_inverse=True, return_counts=True)
        several = np.flatnonzero(counts[which] > 1)
        by_kind = several[np.argsort(which[several], kind="stable")]
        for rows in np.split(by_kind, np.flatnonzero(np.diff(which[by_kind])) + 1):
            if len(rows):
                yield Duplicates(tuple(rows.tolist()), exact=True, kind=self._kind(rows))

    def _near(self) -> Iterator[Duplicates]:
        for rows in self.store.near():
            yield Duplicates(tuple(rows.tolist()), exact=False, kind=self._kind(rows))

    def _kind(self, rows: npt.NDArray[np.int64]) -> Kind:
        splits = set(self._splits[rows].tolist())
        if {SPLITS.index("train"), SPLITS.index("test")} <= splits:
            return "train and test"
        if len(set(self.store.labels[rows].tolist())) > 1:
            return "other class"
        return "other split" if len(splits) > 1 else "same class"

    def _duplicate_problems(self) -> Iterator[Problem]:
        told: dict[tuple[Kind, bool], str] = {
            ("train and test", True): "in train and in test: the test score would be too good",
            ("train and test", False): "alike in train and in test",
            ("other class", True): "in several classes: a label of each is wrong",
            ("other class", False): "alike in several classes: is a label wrong?",
            ("other split", True): "in several splits",
            ("other split", False): "alike in several splits",
            ("same class", True): "more than once in the same class",
            ("same class", False): "alike in the same class",
        }
        for (kind, exact), text in told.items():
            alike = [one for one in self.duplicates if (one.kind, one.exact) == (kind, exact)]
            if not alike:
                continue
            level: Literal["error", "warning", "note"] = (
                "note" if kind == "same class" else "warning"
            )
            cure = ""
            if kind == "train and test" and exact and not self.allow_leakage:
                level, cure = "error", "; remove them, or set data.allow_leakage = true"
            such_as = " = ".join(self.ids[row] for row in alike[0].rows[:2])
            count = _counted(len(alike), "picture" if exact else "pair")
            yield Problem(level, f"{count} {text} (such as {such_as}){cure}")

    def _group_problems(self) -> Iterator[Problem]:
        named, splits = self.store.named_groups(), self._splits
        if (named < 0).all():
            yield from self._names_like_groups()
            return
        pairs = np.unique(np.stack([named, splits], axis=1)[named >= 0], axis=0)
        numbers, counts = np.unique(pairs[:, 0], return_counts=True)
        several = numbers[counts > 1].tolist()
        if without := int((named < 0).sum()):
            first = self.ids[int(np.flatnonzero(named < 0)[0])]
            text = f"{_counted(without, 'picture')} of no group of data.group (such as {first})"
            yield Problem("warning", text)
        if several:
            rows = np.flatnonzero(named == several[0])
            level: Literal["error", "warning"] = "warning" if self.allow_leakage else "error"
            cure = "" if self.allow_leakage else "; move them, or set data.allow_leakage = true"
            text = f"{_counted(len(several), 'group')} of data.group in several splits (such as that of {self.ids[rows[0]]})"
            yield Problem(level, text + cure)

    def _names_like_groups(self) -> Iterator[Problem]:
        """Pictures of one patient or film are often numbered within it; a person is to say so."""
        ids = self.ids[:: max(1, len(self.ids) // MOST_NAMES)]
        found = [GROUPED.search(name) for name in ids]
        sizes = Counter(one["group"] for one in found if one)
        count = sum(sizes.values())
        if (
            len(sizes) >= LEAST_GROUPS
            and count >= 0.9 * len(ids)
            and 2 * len(sizes) <= count
            and max(sizes.values()) <= 0.2 * count
        ):
            such_as = next(name for name, one in zip(ids, found, strict=True) if one)
            yield Problem(
                "warning",
                f"names look like those of {len(sizes):,} groups (such as {such_as}); if these are one patient, animal "
                f"or film each, set data.group = '{GROUPED.pattern}', or the test score is too good",
            )

    def _class_problems(self) -> Iterator[Problem]:
        names, counts = self.store.class_names, self.to_train_on
        for number, split in enumerate(SPLITS):
            absent = self.counts[:, number] == 0
            if split != "train" and absent.any() and not absent.all():
                text = f"{split} lacks {_some(names, absent)}: its scores say nothing of that"
                yield Problem("warning", text)
        splits_given = (self.counts[:, :NO_SPLIT].sum(axis=0) > 0).all()
        # Duplicates stay together, so it takes three different pictures to be in three splits.
        firsts = self.store.groups == np.arange(len(self.store.groups))
        different = np.bincount(self.store.labels[firsts], minlength=len(names))
        small = different < LEAST_PICTURES
        if small.any() and not splits_given:
            text = f"too few different pictures for train, val and test: {_some(names, small)}"
            yield Problem(
                "warning", f"{text}; such a class is missing from val, from test, or from both"
            )
            counts = np.where(small, FEW_PICTURES, counts)
        few = counts < FEW_PICTURES
        if few.any():
            text = f"fewer than {FEW_PICTURES} pictures to train on: {_some(names, few)}"
            yield Problem("note", text)
        yield from self._suspicious_classes()
        counts = self.to_train_on
        if self.imbalance >= UNEVEN:
            most, least = names[int(counts.argmax())], names[int(counts.argmin())]
            yield Problem(
                "note",
                f"classes are uneven, {self.imbalance:.0f} to 1: {most} has {counts.max():,}, "
                f"{least} has {counts.min():,} (train.imbalance decides what is done)",
            )

    def _suspicious_classes(self) -> Iterator[Problem]:
        """Classes that a model could tell by their colour alone."""
        names = self.store.class_names
        grey = np.bincount(self.store.labels, self.looks["grey"], len(names))
        share = grey / np.bincount(self.store.labels, minlength=len(names))
        if 0 < (share == 1).sum() < len(names) and share[share < 1].mean() < FEW_GREY:
            text = f"every picture is grey, and hardly any of other classes: {_some(names, share == 1)}"
            yield Problem("warning", f"{text}; a model may learn that instead of what they show")

    def _picture_problems(self) -> Iterator[Problem]:
        if self.rejected:
            first = self.rejected[0]
            yield Problem(
                "warning",
                f"{_counted(len(self.rejected), 'file')} left out (such as {first.id}: {first.reason})",
            )
        if self.store.near_cut_off:
            yield Problem(
                "warning",
                "so many pictures look alike that the search for near duplicates was given up; "
                "splits that are cut at random will leak: bring your own",
            )
        if animated := int(self.looks["animated"].sum()):
            yield Problem(
                "note", f"{_counted(animated, 'file')} with several frames: the first is taken"
            )
        if self.odd:
            row, reason = self.odd[0]
            yield Problem(
                "note",
                f"{_counted(len(self.odd), 'picture')} unlike the others (such as {self.ids[row]}: {reason})",
            )


def _far_out(values: npt.NDArray[np.floating[Any]], least: float) -> npt.NDArray[np.bool_]:
    """Far from the median for these values, and by at least this much."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return np.abs(values - middle) > max(FAR_OUT * float(high - low), least)


def _spread(values: npt.NDArray[Any]) -> dict[str, float]:
    return {
        "min": float(values.min()),
        "median": float(np.median(values)),
        "max": float(values.max()),
        "mean": float(values.mean()),
        "std": float(values.std()),
    }


def _by_split(counts: npt.NDArray[np.int64]) -> str:
    """`40 + 8`: of the splits that are given, or all together."""
    given = [int(count) for count in counts[:NO_SPLIT]]
    unsplit = int(counts[NO_SPLIT])
    if not any(given):
        return f"{unsplit:,}"
    given[SPLITS.index("train")] += unsplit
    return " + ".join(f"{count:,}" for count in given if count)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _some(names: Sequence[str], mask: npt.NDArray[np.bool_], most: int = 5) -> str:
    chosen = [names[k] for k in np.flatnonzero(mask).tolist()]
    more = f" and {len(chosen) - most:,} more" if len(chosen) > most else ""
    return ", ".join(chosen[:most]) + more
