"""The best epoch of a fit as a calibrated classifier, and its scores."""

from imgrec.classifier import Card, Classifier
from imgrec.config import Config
from imgrec.evaluation.calibration import fit_temperature
from imgrec.evaluation.scores import Evaluation, evaluate_classifier, split_logits
from imgrec.training.learner import Best
from imgrec.training.loss import set_aside
from imgrec.training.spec import FitSpec
from imgrec.version import code_version
from pipelines.prepare import Prepared


def build_classifier(config: Config, prepared: Prepared, spec: FitSpec, best: Best) -> Classifier:
    """The weights of the best epoch, with a temperature fitted on the validation split."""
    store = prepared.store
    priors = set_aside(spec.train.imbalance, spec.class_counts)
    card = Card(
        model=spec.model,
        image_shape=spec.image_shape,
        resize=config.data.resize,
        max_pixels=config.data.max_pixels,
        depth=store.depth,
        filters=spec.filters,
        statistics=spec.statistics,
        class_names=store.class_names,
        log_priors=() if priors is None else tuple(priors.tolist()),
        made_by={
            "name": config.name,
            "seed": config.seed,
            "train": spec.train.model_dump(mode="json"),
            "epoch": best.epoch,
            "val": best.val.as_metrics("val"),
            "data_fingerprint": store.fingerprint,
            "data_quarantined": store.quarantined,
            "code_version": code_version(),
        },
    )
    classifier = Classifier(card, best.weights)
    logits, labels = split_logits(classifier, store, prepared.splits.val)
    return classifier.with_temperature(fit_temperature(logits, labels, priors))


def evaluate(classifier: Classifier, prepared: Prepared, spec: FitSpec) -> Evaluation:
    """The scores on the test split, which has chosen nothing until now."""
    test = prepared.splits.test
    return evaluate_classifier(classifier, prepared.store, test, spec.class_counts)
