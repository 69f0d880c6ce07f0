"""How far a classifier's probabilities, and what it promises, hold on pictures that it has not seen."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from imgrec.classifier import Classifier
from imgrec.evaluation.calibration import calibration_error

POINTS = 40
"""Of the curve of precision by answers."""
BINS, LEAST_IN_BIN = 10, 20


@dataclass(frozen=True, slots=True)
class SetsFound:
    """How prediction sets did.

    Attributes:
        promised: Share of the pictures whose set holds the true class, as it was promised.
        found: The same on these pictures.
        by_class: Whether it was promised for each class.
        worst: The lowest share of a class.
        size: Classes in a set, as a mean.
        pictures: That they were fitted on.
    """

    promised: float
    found: float
    by_class: bool
    worst: float
    size: float
    pictures: int


@dataclass(frozen=True, slots=True)
class AbstentionFound:
    """How saying "not sure" did.

    Attributes:
        below: The probability under which it does.
        promised: Share of right ones among the other answers.
        found: The same on these pictures; 1 where it answers none.
        answered: Share of the pictures that it answers.
        pictures: That the threshold was fitted on.
    """

    below: float
    promised: float
    found: float
    answered: float
    pictures: int


@dataclass(frozen=True, slots=True)
class Trust:
    """How far the probabilities hold.

    Attributes:
        pictures: How many judge it.
        temperature: That calibrated it.
        log_loss: In nats, as it is served.
        log_loss_before: Before the temperature.
        error: Expected calibration error, as it is served.
        error_before: Before the temperature.
        bins: Of confidence, with as many pictures each: share of the pictures, mean confidence and accuracy.
        curve: Where it answers only what it is surest of: share answered, confidence from which on, precision.
        sets: None where no sets were promised.
        abstention: None where no threshold was asked for, or none could be promised.
    """

    pictures: int
    temperature: float
    log_loss: float
    log_loss_before: float
    error: float
    error_before: float
    bins: tuple[tuple[float, float, float], ...]
    curve: tuple[tuple[float, float, float], ...]
    sets: SetsFound | None
    abstention: AbstentionFound | None

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Trust":
        """From what `as_json` gave, read from a file."""
        return cls(
            **dict(told)
            | {
                "bins": tuple(tuple(one) for one in told["bins"]),
                "curve": tuple(tuple(one) for one in told["curve"]),
                "sets": told["sets"] and SetsFound(**told["sets"]),
                "abstention": told["abstention"] and AbstentionFound(**told["abstention"]),
            }
        )

    def as_metrics(self, split: str) -> dict[str, float]:
        """For MLflow."""
        metrics = {
            "calibration_error": self.error,
            "calibration_error_before": self.error_before,
            "loss_before_calibration": self.log_loss_before,
        }
        if self.sets:
            metrics |= {"set_coverage": self.sets.found, "set_size": self.sets.size}
        if self.abstention:
            metrics |= {"answered": self.abstention.answered, "precision": self.abstention.found}
        return {f"{split}/{name}": value for name, value in metrics.items()}


def judge_trust(classifier: Classifier, logits: Tensor, labels: Tensor) -> Trust:
    """Judge a classifier by pictures that have neither trained nor calibrated it.

    Args:
        classifier: As it is served.
        logits: Of the pictures, (N, K).
        labels: Theirs, (N,).
    """
    raw = classifier.with_card(temperature=1.0)
    before, after = (one.calibrated(logits).double() for one in (raw, classifier))
    predicted = logits.argmax(dim=1)
    right = predicted == labels
    sure_before, sure = (
        torch.softmax(one, dim=1).gather(1, predicted[:, None]).squeeze(1)
        for one in (before, after)
    )
    return Trust(
        pictures=len(labels),
        temperature=classifier.card.temperature,
        log_loss=float(F.cross_entropy(after, labels)),
        log_loss_before=float(F.cross_entropy(before, labels)),
        error=calibration_error(sure, right),
        error_before=calibration_error(sure_before, right),
        bins=_bins(sure, right),
        curve=_curve(sure, right),
        sets=_sets_found(classifier, torch.softmax(after, dim=1), predicted, labels),
        abstention=_abstention_found(classifier, sure, right),
    )


def _bins(sure: Tensor, right: Tensor) -> tuple[tuple[float, float, float], ...]:
    """By confidence; with fewer pictures in a bin its accuracy would be chance."""
    order = torch.argsort(sure, stable=True)
    count = max(1, min(BINS, len(sure) // LEAST_IN_BIN))
    parts = np.array_split(order.numpy(), count)
    return tuple(
        (len(part) / len(sure), float(sure[part].mean()), float(right[part].double().mean()))
        for part in parts
    )


def _curve(sure: Tensor, right: Tensor) -> tuple[tuple[float, float, float], ...]:
    order = torch.argsort(sure, descending=True, stable=True)
    sorted_sure = sure[order]
    hits = right[order].double().cumsum(dim=0)
    total = len(sure)
    counts = np.unique(np.linspace(1, total, min(POINTS, total)).round().astype(int)).tolist()
    return tuple(
        (count / total, float(sorted_sure[count - 1]), float(hits[count - 1]) / count)
        for count in counts
    )


def _sets_found(
    classifier: Classifier, probabilities: Tensor, predicted: Tensor, labels: Tensor
) -> SetsFound | None:
    promised = classifier.card.sets
    if promised is None:
        return None
    inside = classifier.possible(probabilities, predicted)
    held = inside.gather(1, labels[:, None]).squeeze(1).double()
    by_class = [float(held[labels == k].mean()) for k in sorted(set(labels.tolist()))]
    return SetsFound(
        promised=promised.coverage,
        found=float(held.mean()),
        by_class=promised.by_class,
        worst=min(by_class),
        size=float(inside.sum(dim=1).double().mean()),
        pictures=promised.pictures,
    )


def _abstention_found(
    classifier: Classifier, sure: Tensor, right: Tensor
) -> AbstentionFound | None:
    promised = classifier.card.abstention
    if promised is None:
        return None
    answered = sure >= promised.below
    return AbstentionFound(
        below=promised.below,
        promised=promised.precision,
        found=float(right[answered].double().mean()) if answered.any() else 1.0,
        answered=float(answered.double().mean()),
        pictures=promised.pictures,
    )
