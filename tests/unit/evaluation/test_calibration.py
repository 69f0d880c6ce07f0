"""Probabilities that mean what they say, and promises that are kept."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from imgrec.evaluation.calibration import (
    abstention,
    calibration_error,
    fit_temperature,
    least_pictures,
    prediction_sets,
    reliability,
)


def test_a_split_without_errors_makes_nobody_certain() -> None:
    """A hundred right answers of a hundred say little about the next: one picture in a hundred."""
    torch.manual_seed(0)
    labels = torch.arange(100) % 10
    logits = 4 * torch.eye(10)[labels] + 0.3 * torch.randn(100, 10)
    temperature = fit_temperature(logits, labels)
    sureness = (logits / temperature).softmax(dim=1).max(dim=1).values

    assert temperature > 0.2
    assert 0.97 < float(sureness.mean()) < 0.999


def test_temperature_undoes_overconfidence() -> None:
    """Logits blown up by 3 need a temperature of 3."""
    torch.manual_seed(0)
    labels = torch.randint(0, 4, (4000,))
    logits = torch.randn(4000, 4)
    logits[torch.arange(4000), labels] += 1.0
    honest = fit_temperature(logits, labels)

    assert fit_temperature(logits * 3, labels) == pytest.approx(3 * honest, rel=0.01)


def test_without_pictures_nothing_is_calibrated() -> None:
    """A validation split of one picture leaves none."""
    assert fit_temperature(torch.empty(0, 3), torch.empty(0, dtype=torch.int64)) == 1.0


def drawn(rng: np.random.Generator, count: int, shares: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Probabilities of a model that is fairly good, and labels."""
    labels = rng.choice(len(shares), count, p=shares)
    logits = rng.normal(size=(count, len(shares)))
    logits[np.arange(count), labels] += 1.5
    logits += np.log(shares)  # it knows what is frequent
    return torch.softmax(torch.from_numpy(logits), dim=1), torch.from_numpy(labels)


def test_thresholds_of_sets_are_those_of_mapie() -> None:
    """The reference for split conformal prediction, with the same score."""
    from mapie.classification import SplitConformalClassifier
    from sklearn.base import BaseEstimator, ClassifierMixin

    probabilities, labels = drawn(np.random.default_rng(0), 137, (0.5, 0.3, 0.2))
    fresh, _ = drawn(np.random.default_rng(1), 500, (0.5, 0.3, 0.2))

    class Known(ClassifierMixin, BaseEstimator):
        classes_ = np.arange(3)

        def fit(self, *_: object) -> "Known":
            return self

        def predict_proba(self, rows: np.ndarray) -> np.ndarray:
            return rows

        def predict(self, rows: np.ndarray) -> np.ndarray:
            return rows.argmax(axis=1)

        def __sklearn_is_fitted__(self) -> bool:
            return True

    reference = SplitConformalClassifier(
        Known(), confidence_level=0.9, conformity_score="lac", prefit=True
    )
    reference.conformalize(probabilities.numpy(), labels.numpy())
    _, sets = reference.predict_set(fresh.numpy())
    ours = prediction_sets(probabilities, labels, 0.9, by_class=False)

    assert ours
    inside = fresh.numpy() >= np.array(ours.thresholds)
    np.testing.assert_array_equal(inside, sets[:, :, 0])


@pytest.mark.parametrize("by_class", [False, True])
def test_sets_hold_the_true_class_as_often_as_they_promise(by_class: bool) -> None:
    """Over many calibrations, also of few pictures; by class also for the rare one."""
    rng, coverage, shares = np.random.default_rng(0), 0.9, (0.6, 0.3, 0.1)
    held, rare = [], []
    for _ in range(400):
        probabilities, labels = drawn(rng, 200, shares)
        sets = prediction_sets(probabilities, labels, coverage, by_class=by_class)
        assert sets
        fresh, true = drawn(rng, 300, shares)
        hit = fresh.gather(1, true[:, None]).squeeze(1) >= torch.tensor(sets.thresholds)[true]
        held.append(float(hit.double().mean()))
        rare.append(float(hit[true == 2].double().mean()))

    # Of 400 calibrations the mean has a standard error of about 0.0015, of the rare class of 0.005.
    assert coverage - 0.005 < np.mean(held) < coverage + 0.03
    if by_class:
        assert np.mean(rare) > coverage - 0.015
    else:
        assert np.mean(rare) < coverage - 0.02


def test_too_few_pictures_promise_nothing() -> None:
    """By class where each class has enough, else for all together, else not at all."""
    assert least_pictures(0.9) == 9
    assert least_pictures(0.95) == 19
    probabilities, labels = drawn(np.random.default_rng(0), 60, (0.9, 0.1))
    together = prediction_sets(probabilities, labels, 0.95, by_class=True)

    assert together
    assert not together.by_class
    assert prediction_sets(probabilities[:18], labels[:18], 0.95, by_class=False) is None
    assert prediction_sets(probabilities[:19], labels[:19], 0.95, by_class=False)


def test_a_threshold_keeps_its_precision() -> None:
    """In at least 95 of 100 cases, whatever the pictures that it was found on."""
    rng, wanted = np.random.default_rng(0), 0.9
    kept = found = 0
    for _ in range(300):
        confidence = rng.random(4000)
        right = rng.random(4000) < confidence
        threshold = abstention(confidence.tolist(), right.tolist(), wanted)
        if threshold is None:
            continue
        found += 1
        # Confidence is the chance of being right, so from a threshold on its mean is the precision.
        kept += (1 + threshold.below) / 2 >= wanted

    assert found > 200
    assert kept / found >= 0.95


def test_a_model_that_is_nearly_always_right_always_answers() -> None:
    """There is nothing to leave out; and of ten pictures nobody can promise anything."""
    always = abstention([0.9] * 1000, [True] * 1000, 0.95)

    assert always
    assert always.below == 0.0
    assert abstention([0.9] * 10, [True] * 10, 0.95) is None
    assert abstention([0.5 + row / 2000 for row in range(1000)], [False] * 1000, 0.95) is None


def test_the_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    """By hand: two bins of two pictures each, one off by 0.2 and one by 0.3."""
    confidence = torch.tensor([0.65, 0.75, 0.95, 0.85])
    right = torch.tensor([True, False, True, False])

    assert calibration_error(confidence, right, bins=5) == pytest.approx((0.2 + 0.4) / 2)
    bins = [value for one in reliability(confidence, right, bins=5) for value in one]
    assert bins == pytest.approx([0.5, 0.7, 0.5, 0.5, 0.9, 0.5])
    assert math.isclose(calibration_error(torch.ones(3), torch.ones(3).bool()), 0.0)
