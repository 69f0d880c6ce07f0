"""How far a score may be from the truth, and whether two scores differ by more than chance."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imgrec.evaluation.answers import Answers, refuse_other_pictures

LEVEL = 0.05
"""Of tests; intervals hold what they say in all other cases."""
POWER = 0.8
RESAMPLES, RESAMPLES_AT_ONCE = 2000, 100
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """Holds the truth in 95 of 100 cases."""

    low: float
    high: float


def share_interval(count: int, total: int) -> Interval:
    """Of a share that was counted (Wilson 1927)."""
    from scipy.stats import binomtest  # noqa: PLC0415 - half a second, and only at the end of a run

    found = binomtest(count, total).proportion_ci(1 - LEVEL, method="wilson")
    return Interval(float(found.low), float(found.high))


def difference_interval(
    only_first: int, only_second: int, total: int, *, level: float = LEVEL
) -> Interval:
    """Of the difference of two models' accuracies on the same pictures.

    Source: Bonett and Price 2012, "Adjusted Wald Confidence Interval for a Difference of Binomial Proportions
    Based on Paired Data".

    Args:
        only_first: Pictures that the first alone recognized.
        only_second: Those that the second alone recognized.
        total: All pictures.
        level: How often it may miss the truth.
    """
    first, second = (only_first + 1) / (total + 2), (only_second + 1) / (total + 2)
    difference = first - second
    reach = _normal(1 - level / 2) * np.sqrt((first + second - difference**2) / (total + 2))
    return Interval(float(max(-1, difference - reach)), float(min(1, difference + reach)))


def mcnemar(only_first: int, only_second: int, *, one_sided: bool = False) -> float:
    """How often two equal models would differ so much on the same pictures, exactly (McNemar 1947).

    Args:
        only_first: Pictures that the first alone recognized.
        only_second: Those that the second alone recognized.
        one_sided: Ask only whether the first is better.
    """
    from scipy.stats import binomtest  # noqa: PLC0415

    differing = only_first + only_second
    if not differing:
        return 1.0
    side = "greater" if one_sided else "two-sided"
    return float(binomtest(only_first, differing, alternative=side).pvalue)


def holm(chances: Sequence[float]) -> list[float]:
    """Chances of several tests, corrected so that LEVEL holds for all of them together (Holm 1979)."""
    order = np.argsort(chances, kind="stable")
    left = len(chances) - np.arange(len(chances))
    corrected = np.empty(len(chances))
    corrected[order] = np.minimum(1, np.maximum.accumulate(np.asarray(chances)[order] * left))
    return [float(chance) for chance in corrected]


def needed_pictures(disagreement: float, difference: float) -> int:
    """How many pictures would show a difference in accuracy in four of five cases.

    Source: Connor 1987, "Sample Size for Testing Differences in Proportions for the Paired-Sample Design".

    Args:
        disagreement: Share of the pictures that one of the two models alone recognizes.
        difference: Of the two accuracies.
    """
    disagreement = max(disagreement, difference)
    spread = _normal(1 - LEVEL / 2) * np.sqrt(disagreement)
    spread += _normal(POWER) * np.sqrt(disagreement - difference**2)
    return int(np.ceil((spread / difference) ** 2))


def expected_optimism(scores: Sequence[float], pictures: int) -> float:
    """How much better the best of several trials is to be expected to look than it is.

    What the pictures add to a score by chance has the variance p (1 - p) / n; what is more than that in the scores is
    real. The best one is drawn back towards the mean by the share of chance, as in the empirical Bayes estimate of a
    normal mean. Trials are judged by the same pictures and so share a part of their chance: the truth is rather below.

    Args:
        scores: Of the trials that may be chosen, as shares.
        pictures: That judged them.

    Source: Efron and Morris 1973, "Stein's Estimation Rule and Its Competitors: An Empirical Bayes Approach".
    """
    if len(scores) < 2:
        return 0.0
    mean = float(np.mean(scores))
    chance = max(mean * (1 - mean), 1e-12) / max(1, pictures)
    spread = float(np.var(scores, ddof=1))
    return (max(scores) - mean) * min(1.0, chance / max(spread, 1e-12))


def resampled_macro_f1(answers: Sequence[Answers]) -> Floats:
    """Macro-F1 of models on sets drawn from the pictures with replacement, the same sets for all: (R, M).

    Source: Efron 1979, "Bootstrap Methods: Another Look at the Jackknife".
    """
    refuse_other_pictures(answers)
    classes = len(answers[0].class_names)
    scores = [
        [_macro_f1(one, weights, classes) for one in answers]
        for weights in _resamples(len(answers[0].labels))
    ]
    return np.concatenate([np.stack(part, axis=1) for part in scores])


def macro_f1(answers: Answers) -> float:
    """Of all pictures, each once."""
    once = np.ones((1, len(answers.labels)))
    return float(_macro_f1(answers, once, len(answers.class_names))[0])


def resampled_accuracy(answers: Sequence[Answers]) -> Floats:
    """The same of accuracy, on the same sets: (R, M)."""
    refuse_other_pictures(answers)
    right = np.stack([one.right for one in answers], axis=1).astype(np.float64)
    total = len(right)
    return np.concatenate([weights @ right / total for weights in _resamples(total)])


def over_seeds(resampled: Floats) -> Floats:
    """The mean over an architecture's seeds, (R, S) to (R,), with what other seeds would change.

    In every row as many seeds are drawn from those that there are, with replacement. Few seeds lie closer together than
    all there could be, so how far the drawn ones are from the mean is enlarged by sqrt(S / (S - 1)).

    Source: Davison and Hinkley 1997, "Bootstrap Methods and their Application", section 2.4, on the bootstrap of two
    levels; the factor makes its variance unbiased.
    """
    rows, seeds = resampled.shape
    mean: Floats = resampled.mean(axis=1)
    if seeds == 1:
        return mean
    drawn = np.random.default_rng(1).integers(0, seeds, (rows, seeds))
    among = np.take_along_axis(resampled, drawn, axis=1).mean(axis=1)
    spread: Floats = mean + np.sqrt(seeds / (seeds - 1)) * (among - mean)
    return spread


def percentiles(values: Floats) -> Interval:
    """The middle of resampled values."""
    low, high = np.quantile(values, [LEVEL / 2, 1 - LEVEL / 2])
    return Interval(float(low), float(high))


def chance_of_zero(differences: Floats) -> float:
    """How likely resampled differences come from one that is zero, two-sided."""
    below, above = (differences <= 0).sum(), (differences >= 0).sum()
    return float(min(1.0, 2 * (min(below, above) + 1) / (len(differences) + 1)))


def _resamples(total: int) -> Iterator[Floats]:
    """How often each picture is in each of some sets, (r, N); always the same."""
    rng = np.random.default_rng(0)
    for _ in range(RESAMPLES // RESAMPLES_AT_ONCE):
        drawn = rng.integers(0, total, (RESAMPLES_AT_ONCE, total))
        cells = drawn + total * np.arange(RESAMPLES_AT_ONCE)[:, None]
        counts = np.bincount(cells.ravel(), minlength=total * RESAMPLES_AT_ONCE)
        yield counts.reshape(RESAMPLES_AT_ONCE, total).astype(np.float64)


def _macro_f1(answers: Answers, weights: Floats, classes: int) -> Floats:
    """Of weighted pictures, (r, N) to (r,); classes that neither occur nor are predicted do not count."""
    hits = _by_class(answers.labels[answers.right], weights[:, answers.right], classes)
    true = _by_class(answers.labels, weights, classes)
    predicted = _by_class(answers.predicted, weights, classes)
    both = true + predicted
    f1 = 2 * hits / np.maximum(both, 1)
    mean: Floats = f1.sum(axis=1) / np.maximum((both > 0).sum(axis=1), 1)
    return mean


def _by_class(labels: npt.NDArray[np.int64], weights: Floats, classes: int) -> Floats:
    """Sums of weights (r, N) for each class, (r, K)."""
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    sums = np.zeros((len(weights), classes))
    if len(present):
        sums[:, present] = np.add.reduceat(weights[:, order], starts, axis=1)
    return sums


def _normal(share: float) -> float:
    from scipy.special import ndtri  # noqa: PLC0415

    return float(ndtri(share))
