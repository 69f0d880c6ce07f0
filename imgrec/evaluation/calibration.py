"""How sure a classifier may be of itself, and what it may promise: fitted on pictures that have chosen nothing."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from imgrec.promises import Abstention, PredictionSets

LEAST, MOST = 0.05, 20.0
LEVEL = 0.05
"""How often the precision of `abstention` may miss what it promises."""
Floats = npt.NDArray[np.float64]


def fit_temperature(logits: Tensor, labels: Tensor, log_priors: Tensor | None = None) -> float:
    """The temperature with the lowest log loss.

    A split without a single error would ask for a temperature of zero, and so for certainty about
    pictures that nobody has seen. The targets are therefore as sure as N pictures can make one: one
    error is assumed in N + 2.

    Args:
        logits: Of the calibrating part of the validation split, (N, K).
        labels: (N,).
        log_priors: Added after the temperature, (K,), where training has set them aside.

    Returns:
        A number in [0.05, 20] to divide logits by. Which class is chosen does not change.

    Sources: Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv:1706.04599); the
    targets as in Platt 1999, "Probabilistic Outputs for Support Vector Machines".
    """
    logits = logits.double()
    count, classes = logits.shape
    if not count:
        return 1.0
    # What label smoothing gives away falls to the true class too, a K-th of it.
    doubt = min(1.0, classes / (classes - 1) / (count + 2))

    def log_loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        if log_priors is not None:
            scaled = scaled + log_priors
        return float(F.cross_entropy(scaled, labels, label_smoothing=doubt))

    from scipy.optimize import minimize_scalar  # noqa: PLC0415 - a fifth of a second, while models are trained

    bounds = (math.log(LEAST), math.log(MOST))
    return math.exp(minimize_scalar(log_loss, bounds=bounds, method="bounded").x)


def prediction_sets(
    probabilities: Tensor, labels: Tensor, coverage: float, *, by_class: bool
) -> PredictionSets | None:
    """Sets of classes that hold the true one in this share of all cases; None where the pictures are too few.

    A class is in the set of a picture where its probability is not below a threshold, which so many of the
    calibrating pictures reach that the next picture of the kind does too (split conformal prediction).

    Args:
        probabilities: Of the calibrating pictures, (N, K).
        labels: Theirs, (N,).
        coverage: The share.
        by_class: Promise it for the pictures of each class, and not for all together; where each class has enough.

    Sources: Papadopoulos et al. 2002, "Inductive Confidence Machines for Regression"; Sadinle et al. 2019, "Least
    Ambiguous Set-Valued Classifiers with Bounded Error Levels" (arXiv:1609.00451), also for the form by class.
    """
    classes = probabilities.shape[1]
    true = probabilities.double().gather(1, labels[:, None]).squeeze(1).numpy()
    by_label = [true[labels.numpy() == k] for k in range(classes)]
    parts = by_label if by_class else [true]
    if min(map(len, parts)) < least_pictures(coverage):
        if by_class:
            return prediction_sets(probabilities, labels, coverage, by_class=False)
        return None
    thresholds = [_threshold(part, coverage) for part in parts]
    if not by_class:
        thresholds *= classes
    return PredictionSets(
        coverage=coverage, thresholds=tuple(thresholds), by_class=by_class, pictures=len(true)
    )


def least_pictures(coverage: float) -> int:
    """With fewer pictures no threshold below certainty promises this coverage."""
    return math.ceil(round(coverage / (1 - coverage), 9))


def _threshold(true: Floats, coverage: float) -> float:
    """What the probability of the true class is at least, in this share of all cases."""
    place = math.ceil(round((len(true) + 1) * coverage, 9))  # of the scores 1 - p, from the lowest
    return float(np.sort(true)[::-1][place - 1])


def abstention(
    confidence: Sequence[float], right: Sequence[bool], precision: float
) -> Abstention | None:
    """The lowest confidence from which on answers have a precision; None where so few pictures cannot promise it.

    The promise fails in at most LEVEL of all cases: thresholds are tried by bisection, and each trial has its share
    of LEVEL in an exact binomial bound.

    Args:
        confidence: The probability of each answer, (N,).
        right: Whether it was right, (N,).
        precision: Share of right ones among answers that are given.

    Source: Geifman and El-Yaniv 2017, "Selective Classification for Deep Neural Networks" (arXiv:1705.08500),
    algorithm 1.
    """
    from scipy.stats import beta  # noqa: PLC0415 - half a second, and only at the end of a run

    order = np.argsort(-np.asarray(confidence), kind="stable")
    sure, wrong = np.asarray(confidence)[order], ~np.asarray(right, dtype=bool)[order]
    total = len(sure)
    tries = max(1, math.ceil(math.log2(total + 1)))
    low, high, found = 1, total, None
    for _ in range(tries):
        if low > high:
            break
        # Equal confidences are answered or not, all of them.
        count = int(np.searchsorted(-sure, -sure[(low + high) // 2 - 1], side="right"))
        errors = int(wrong[:count].sum())
        bound = beta.ppf(1 - LEVEL / tries, errors + 1, count - errors) if errors < count else 1.0
        if bound <= 1 - precision:
            found, low = count, count + 1
        else:
            high = (low + high) // 2 - 1
    if found is None:
        return None
    below = 0.0 if found == total else float(sure[found - 1])
    return Abstention(below=below, precision=precision, pictures=total)


def calibration_error(confidence: Tensor, right: Tensor, bins: int = 15) -> float:
    """How far confidence is from accuracy, as a mean over bins of equal width weighted by their pictures.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv:1706.04599), equation 3.
    """
    return sum(
        share * abs(sure - accuracy)
        for share, sure, accuracy in reliability(confidence, right, bins)
    )


def reliability(
    confidence: Tensor, right: Tensor, bins: int = 15
) -> list[tuple[float, float, float]]:
    """For each bin of confidence, of equal width, that has pictures: their share of all, mean confidence and accuracy."""
    confidence = confidence.double()
    place = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    counts = torch.bincount(place, minlength=bins).double()
    sure = torch.bincount(place, confidence, minlength=bins)
    hits = torch.bincount(place, right.double(), minlength=bins)
    kept = counts > 0
    columns = (counts[kept] / counts.sum(), sure[kept] / counts[kept], hits[kept] / counts[kept])
    return list(zip(*(column.tolist() for column in columns), strict=True))
