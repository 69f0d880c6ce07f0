"""Scores from one confusion matrix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, log_loss, recall_score

from imgrec.training.metrics import Meter
from tests.unit.training.made import CPU


@settings(max_examples=30)
@given(st.integers(2, 6), st.integers(1, 50), st.integers(0, 2**31))
def test_scores_are_those_of_scikit_learn(classes: int, count: int, seed: int) -> None:
    """Also where classes are missing from the labels, or never predicted."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator)
    labels = torch.randint(0, classes, (count,), generator=generator)
    meter = Meter(classes, CPU)
    for part in range(0, count, 7):
        meter.update(logits[part : part + 7], labels[part : part + 7])
    scores = meter.scores()
    predicted = logits.argmax(1)

    assert scores.accuracy == pytest.approx((predicted == labels).float().mean().item())
    assert scores.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro"))
    seen = labels.unique().numpy()
    assert scores.balanced_accuracy == pytest.approx(
        recall_score(labels, predicted, labels=seen, average="macro")
    )
    probabilities = logits.double().softmax(1).numpy()
    assert scores.loss == pytest.approx(
        log_loss(labels, probabilities, labels=range(classes)), rel=1e-5
    )
