"""Even shares of the classes in splits whose groups hold several classes, such as the pictures of a patient."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
# How often all groups are gone through, how many others each may change places with, and the difference in a
# class's share of a split from which on it is even.
MOST_ROUNDS, EXCHANGES, EVEN = 20, 256, 0.001
LEAST = -1e-9
"""Of chi-squared; what lowers it by less is rounding."""


def even_out(
    place: Indices, counts: Indices, ranks: npt.NDArray[np.uint64], wanted: Sequence[float]
) -> None:
    """Let groups of several classes change splits, in place, as long as the classes' shares become more even.

    What falls is Pearson's chi-squared of the pictures of each class in each split: by one group that moves, or two
    that change places. No split loses its last group of a class.

    Args:
        place: The split of each group, (G,); the last split is train.
        counts: Pictures of each class in each group, (G, K).
        ranks: The order in which groups are tried, (G,).
        wanted: Pictures of each split but train.
    """
    mixed = np.flatnonzero((counts > 0).sum(axis=1) > 1)
    mixed = mixed[np.argsort(ranks[mixed], kind="stable")]
    balance = _Balance(place, counts, wanted)
    for _ in range(MOST_ROUNDS):
        if balance.is_even():
            return
        # Not any(): each is to be tried.
        moved = [
            balance.try_to_move(group, mixed[np.arange(next_, next_ + EXCHANGES) % len(mixed)])
            for next_, group in enumerate(mixed.tolist(), start=1)
        ]
        if not any(moved):
            return


class _Balance:
    """How many pictures of each class are in each split, and how many should be."""

    def __init__(self, place: Indices, counts: Indices, wanted: Sequence[float]) -> None:
        splits = range(len(wanted) + 1)
        totals = counts.sum(axis=0)
        shares = np.array([*wanted, max(0.0, totals.sum() - sum(wanted))]) / totals.sum()
        self.place, self.counts = place, counts
        self.target = np.maximum(np.outer(shares, totals), 1e-9)  # (S, K), as what follows
        self.over = np.stack([counts[place == n].sum(axis=0) for n in splits]) - self.target
        self.holders = np.stack([(counts[place == n] > 0).sum(axis=0) for n in splits])

    def is_even(self) -> bool:
        """Whether there is nothing to be gained that anybody would notice."""
        return bool((np.abs(self.over).max(axis=1) < EVEN * self.target.sum(axis=1)).all())

    def try_to_move(self, group: int, others: Indices) -> bool:
        """Move a group, or exchange it with one of the others, if that makes the shares more even."""
        here, count = int(self.place[group]), self.counts[group]
        if self._are_last(np.array([group]))[0]:
            return False
        alone = self._rise(count, slice(None)) + self._rise(-count, here)
        alone[here] = 0
        others = others[self.place[others] != here]
        others = others[~self._are_last(others)]
        change = self.counts[others] - count
        both = self._rise(change, here) + self._rise(-change, self.place[others])
        best = int(alone.argmin())
        if len(both) and both.min() < min(alone[best], LEAST):
            other = int(others[both.argmin()])
            there = int(self.place[other])
            self._move(other, here)
            self._move(group, there)
            return True
        if alone[best] < LEAST:
            self._move(group, best)
            return True
        return False

    def _are_last(self, groups: Indices) -> npt.NDArray[np.bool_]:
        """Whether a split would be without one of a group's classes if the group left it."""
        last: npt.NDArray[np.bool_] = (
            (self.holders[self.place[groups]] == 1) & (self.counts[groups] > 0)
        ).any(axis=1)
        return last

    def _rise(self, change: Indices, split: int | Indices | slice) -> npt.NDArray[np.float64]:
        """Of chi-squared, where splits gain so many pictures of each class."""
        rise: npt.NDArray[np.float64] = (
            change * (change + 2 * self.over[split]) / self.target[split]
        ).sum(axis=-1)
        return rise

    def _move(self, group: int, split: int) -> None:
        for where, sign in ((self.place[group], -1), (split, 1)):
            self.over[where] += sign * self.counts[group]
            self.holders[where] += sign * (self.counts[group] > 0)
        self.place[group] = split
