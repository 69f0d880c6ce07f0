"""Models compared with each other, by what they said of the same pictures."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imgrec.evaluation.answers import Answers
from imgrec.evaluation.comparison import Comparison, Difference, Pair, Standing
from imgrec.evaluation.intervals import (
    chance_of_zero,
    difference_interval,
    holm,
    macro_f1,
    mcnemar,
    needed_pictures,
    over_seeds,
    percentiles,
    resampled_accuracy,
    resampled_macro_f1,
    share_interval,
)

SMALL_DIFFERENCE = 0.01
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Contender:
    """A model that is compared.

    Attributes:
        name: For people.
        begins_with: The name of the weights that it began with.
        answers: What it said of the test pictures, one for each seed that it was trained with.
    """

    name: str
    begins_with: str
    answers: tuple[Answers, ...]

    @property
    def seeds(self) -> int:
        """How many there are."""
        return len(self.answers)

    @property
    def accuracy(self) -> float:
        """The mean over its seeds."""
        return float(np.mean([one.right.mean() for one in self.answers]))

    @property
    def macro_f1(self) -> float:
        """The same of that."""
        return float(np.mean([macro_f1(one) for one in self.answers]))


def compare(contenders: Sequence[Contender]) -> Comparison:
    """Scores with intervals, and a test of each pair on the same pictures.

    Accuracies are tested by McNemar's exact test, macro-F1 by a paired bootstrap; all of these tests together are
    held to LEVEL by Holm's correction. Where architectures were trained with several seeds scores are means over them,
    and both are tested by a bootstrap of pictures and seeds.

    Raises:
        ValueError: they were not asked about the same pictures.
    """
    everything = [one for contender in contenders for one in contender.answers]
    ends = np.cumsum([len(one.answers) for one in contenders])[:-1]
    accuracy, macro_f1 = (
        [over_seeds(part) for part in np.split(resampled(everything), ends, axis=1)]
        for resampled in (resampled_accuracy, resampled_macro_f1)
    )
    sides = [_Side(*one) for one in zip(contenders, accuracy, macro_f1, strict=True)]
    pairs = _pairs(sides)
    worse = [pair.second if pair.sign == 1 else pair.first for pair in pairs if pair.sign]
    standings = []
    for side in sides:
        one = side.contender
        right = one.answers[0].right
        standing = Standing(
            name=one.name,
            begins_with=one.begins_with,
            rank=1 + worse.count(one.name),
            accuracy=one.accuracy,
            accuracy_interval=share_interval(int(right.sum()), len(right))
            if one.seeds == 1
            else percentiles(side.accuracy),
            macro_f1=one.macro_f1,
            macro_f1_interval=percentiles(side.macro_f1),
            seeds=one.seeds,
        )
        standings.append(standing)
    return Comparison(len(everything[0].labels), tuple(standings), tuple(pairs))


@dataclass(frozen=True, slots=True)
class _Side:
    """A contender with its resampled scores, each (R,)."""

    contender: Contender
    accuracy: Floats
    macro_f1: Floats


def _pairs(sides: Sequence[_Side]) -> list[Pair]:
    couples = [_Couple.of(*two) for two in itertools.combinations(sides, 2)]
    chances = [one.chance_of_accuracy for one in couples]
    chances += [chance_of_zero(one.first.macro_f1 - one.second.macro_f1) for one in couples]
    tests = list(zip(chances, holm(chances), strict=True))
    by_pair = zip(couples, tests[: len(couples)], tests[len(couples) :], strict=True)
    return [one.tested(accuracy, macro_f1) for one, accuracy, macro_f1 in by_pair]


@dataclass(frozen=True, slots=True)
class _Couple:
    """Two models, the more accurate one first, before their differences are judged beside all others.

    Attributes:
        only: Pictures that the first alone, and that the second alone recognized, with their first seeds.
    """

    first: _Side
    second: _Side
    only: tuple[int, int]

    @classmethod
    def of(cls, one: _Side, other: _Side) -> "_Couple":
        if other.contender.accuracy > one.contender.accuracy:
            one, other = other, one
        first, second = (side.contender.answers[0].right for side in (one, other))
        only = int((first & ~second).sum()), int((second & ~first).sum())
        return cls(one, other, only)

    @property
    def of_one_seed(self) -> bool:
        return self.first.contender.seeds == self.second.contender.seeds == 1

    @property
    def chance_of_accuracy(self) -> float:
        if self.of_one_seed:
            return mcnemar(*self.only)
        return chance_of_zero(self.first.accuracy - self.second.accuracy)

    def tested(self, accuracy: tuple[float, float], macro_f1: tuple[float, float]) -> Pair:
        """With the chance of each difference, by itself and corrected."""
        first, second = self.first.contender, self.second.contender
        total = len(first.answers[0].labels)
        interval = (
            difference_interval(*self.only, total)
            if self.of_one_seed
            else percentiles(self.first.accuracy - self.second.accuracy)
        )
        return Pair(
            first.name,
            second.name,
            Difference(first.accuracy - second.accuracy, interval, *accuracy),
            Difference(
                first.macro_f1 - second.macro_f1,
                percentiles(self.first.macro_f1 - self.second.macro_f1),
                *macro_f1,
            ),
            total,
            needed_pictures((sum(self.only) + 1) / (total + 2), SMALL_DIFFERENCE),
        )
