"""How far probabilities hold, beside independent references."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from imgrec.classifier import Card, Classifier
from imgrec.config import AnnConfig
from imgrec.evaluation.trust import Trust, judge_trust
from imgrec.models import build_model
from imgrec.preprocess.recipe import ChannelStatistics
from imgrec.preprocess.view import View
from imgrec.promises import Abstention, PredictionSets


def classifier(**changed: object) -> Classifier:
    """Of three classes; what its network says does not matter here."""
    shape = (4, 4, 1)
    card = Card(
        model=AnnConfig(backbone="compact"),
        image_shape=shape,
        stored_shape=shape,
        view=View((4, 4)),
        resize="fill",
        max_pixels=1000,
        statistics=ChannelStatistics((0.5,), (0.5,)),
        class_names=("a", "b", "c"),
        temperature=2.0,
    )
    model = build_model(card.model, shape, 3)
    return Classifier(card, model.state_dict()).with_card(**changed)


def made(count: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count)
    logits = 4 * rng.normal(size=(count, 3))
    logits[np.arange(count), labels] += 6
    return torch.from_numpy(logits), torch.from_numpy(labels)


def test_losses_and_precision_are_those_of_the_references() -> None:
    """Log loss as scikit-learn has it; the curve ends at the accuracy of all answers."""
    logits, labels = made()
    trust = judge_trust(classifier(), logits, labels)
    right = (logits.argmax(dim=1) == labels).double()

    assert trust.log_loss == pytest.approx(log_loss(labels, torch.softmax(logits / 2, dim=1)))
    assert trust.log_loss_before == pytest.approx(log_loss(labels, torch.softmax(logits, dim=1)))
    assert trust.curve[-1][0] == 1.0
    assert trust.curve[-1][2] == pytest.approx(float(right.mean()))
    assert sum(share for share, _, _ in trust.bins) == pytest.approx(1.0)
    assert trust.sets is None
    assert trust.abstention is None


def test_promises_are_judged_by_the_pictures_at_hand() -> None:
    """How many sets hold the true class, and how many of the answers that are given are right."""
    logits, labels = made()
    sets = PredictionSets(coverage=0.9, thresholds=(0.2, 0.2, 0.2), by_class=True, pictures=100)
    sure = Abstention(below=0.7, precision=0.95, pictures=100)
    trust = judge_trust(classifier(sets=sets, abstention=sure), logits, labels)
    probabilities = torch.softmax(logits / 2, dim=1).numpy()
    said = probabilities.argmax(axis=1)
    inside = probabilities >= 0.2
    inside[np.arange(len(said)), said] = True
    answered = probabilities.max(axis=1) >= 0.7

    assert trust.sets
    assert trust.sets.found == pytest.approx(inside[np.arange(len(said)), labels].mean())
    assert trust.sets.size == pytest.approx(inside.sum(axis=1).mean())
    assert trust.abstention
    assert trust.abstention.answered == pytest.approx(answered.mean())
    assert trust.abstention.found == pytest.approx((said == labels.numpy())[answered].mean())


def test_it_is_read_from_json_as_it_was_written() -> None:
    """The record keeps it so."""
    sets = PredictionSets(coverage=0.9, thresholds=(0.2, 0.2, 0.2), by_class=True, pictures=100)
    trust = judge_trust(classifier(sets=sets), *made())

    assert Trust.of(json.loads(json.dumps(trust.as_json()))) == trust
