"""The best epoch of a fit as a calibrated classifier, and its scores."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from imgrec.classifier import Card, Classifier
from imgrec.data.splits import Indices
from imgrec.evaluation.calibration import abstention, fit_temperature, prediction_sets
from imgrec.evaluation.label_errors import Suspect, find_suspects, most_suspicious
from imgrec.evaluation.scores import Evaluation, evaluate_logits, split_logits
from imgrec.models.network import Network
from imgrec.training.learner import Best
from imgrec.training.loss import set_aside
from imgrec.training.probe import (
    MOST_CROSS_VALIDATED,
    held_out_probabilities,
    kept_features,
    known_logits,
)
from imgrec.training.spec import FitSpec
from imgrec.version import code_version
from pipelines.prepare import Prepared

UNEVEN = 2
"""Times the shares of classes may differ before rare ones have a promise of their own; as `choose_imbalance` has it."""


@dataclass(frozen=True, slots=True)
class Built:
    """A classifier, and what its network says of the validation split.

    Attributes:
        classifier: Calibrated.
        val: Logits, (Nval, K).
    """

    classifier: Classifier
    val: Tensor


def build_classifier(
    prepared: Prepared, spec: FitSpec, best: Best, arithmetic: str, answered: Tensor | None = None
) -> Built:
    """The weights of the best epoch, calibrated on the part of the validation split that has chosen nothing.

    Args:
        prepared: The data.
        spec: What was trained.
        best: What came of it.
        arithmetic: That it was trained in.
        answered: Logits of the validation split, (Nval, K), where the workers have left them.
    """
    config = prepared.config
    store = prepared.store
    priors = set_aside(spec.train.imbalance, spec.class_counts)
    card = Card(
        model=spec.model,
        image_shape=spec.image_shape,
        stored_shape=store.image_shape,
        view=spec.view,
        resize=config.data.resize,
        max_pixels=config.data.max_pixels,
        depth=store.depth,
        filters=spec.filters,
        statistics=spec.statistics,
        class_names=store.class_names,
        log_priors=() if priors is None else tuple(priors.tolist()),
        class_shares=_shares(spec.class_counts),
        made_by={
            "name": config.name,
            "seed": spec.seed,
            "weights": spec.weights and spec.weights.told(),
            "train": spec.train.model_dump(mode="json"),
            "epoch": best.epoch,
            "val": best.val.as_metrics("val"),
            "data_fingerprint": store.fingerprint,
            "data_quarantined": store.quarantined,
            "code_version": code_version(),
        },
    )
    classifier = Classifier(card, best.weights)
    splits = prepared.splits
    logits, labels = _logits(classifier, prepared, spec, best, arithmetic, splits.val, answered)
    calibrating = torch.from_numpy(np.isin(splits.val, splits.calibrating))
    calibrated = _calibrated(classifier, logits[calibrating], labels[calibrating], prepared)
    return Built(calibrated, logits)


def _calibrated(
    classifier: Classifier, logits: Tensor, labels: Tensor, prepared: Prepared
) -> Classifier:
    """With a temperature, prediction sets and a threshold for saying "not sure"."""
    wanted, card = prepared.config.calibrate, classifier.card
    priors = torch.tensor(card.log_priors) if card.log_priors else None
    classifier = classifier.with_card(temperature=fit_temperature(logits, labels, priors))
    if not len(labels):
        return classifier
    probabilities = torch.softmax(classifier.calibrated(logits).double(), dim=1)
    predicted = logits.argmax(dim=1)
    sure = probabilities.gather(1, predicted[:, None]).squeeze(1)
    # Where classes are unevenly frequent a promise for all pictures together would be kept by the frequent ones.
    by_class = max(card.class_shares) >= UNEVEN * min(card.class_shares)
    return classifier.with_card(
        sets=prediction_sets(probabilities, labels, wanted.coverage, by_class=by_class)
        if wanted.coverage
        else None,
        abstention=abstention(sure.tolist(), (predicted == labels).tolist(), wanted.precision)
        if wanted.precision
        else None,
    )


def _shares(class_counts: tuple[int, ...]) -> tuple[float, ...]:
    """How frequent each class is in training; one without pictures counts as one of half a picture."""
    counts = np.maximum(class_counts, 0.5)
    return tuple((counts / counts.sum()).tolist())


def evaluate(
    classifier: Classifier,
    prepared: Prepared,
    spec: FitSpec,
    best: Best,
    arithmetic: str,
    answered: Tensor | None = None,
) -> Evaluation:
    """The scores on the test split, which has chosen nothing until now; `answered` as above."""
    rows = prepared.splits.test
    logits, _ = _logits(classifier, prepared, spec, best, arithmetic, rows, answered)
    return evaluate_logits(classifier, logits, prepared.store, rows, spec.class_counts)


def suspected_labels(
    built: Built, evaluation: Evaluation, prepared: Prepared, spec: FitSpec, arithmetic: str
) -> list[Suspect]:
    """Pictures of all splits whose label is probably wrong, the most suspicious first.

    Of the training split only where the network began with weights whose features of all pictures are kept: what it
    has learned from shows nothing.
    """
    store, splits = prepared.store, prepared.splits
    ids = np.array(store.ids())
    known = {
        "val": (splits.val, torch.softmax(built.classifier.calibrated(built.val), dim=1)),
        "test": (splits.test, evaluation.probabilities),
    }
    features = kept_features(spec, arithmetic) if spec.weights else None
    if features is not None and len(splits.train) <= MOST_CROSS_VALIDATED:
        rows = splits.train
        labels = torch.from_numpy(store.labels[rows])
        inputs = torch.from_numpy(features[rows])
        held_out = held_out_probabilities(inputs, labels, spec.num_classes, spec.seed)
        known["train"] = (rows, held_out)
    suspects = [
        one
        for split, (rows, probabilities) in known.items()
        for one in find_suspects(
            probabilities,
            torch.from_numpy(store.labels[rows]),
            ids[rows].tolist(),
            split,
            store.class_names,
        )
    ]
    return most_suspicious(suspects)


def _logits(
    classifier: Classifier,
    prepared: Prepared,
    spec: FitSpec,
    best: Best,
    arithmetic: str,
    rows: Indices,
    answered: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and labels (N,): as served, or of a probe from the features that it was trained on."""
    store = prepared.store
    if answered is not None:
        return answered, torch.from_numpy(store.labels[rows])
    if best.epoch <= spec.probe_epochs:
        assert isinstance(classifier.model, Network)
        known = known_logits(spec, arithmetic, classifier.model, rows)
        if known is not None:
            return known, torch.from_numpy(store.labels[rows])
    return split_logits(classifier, store, rows)
