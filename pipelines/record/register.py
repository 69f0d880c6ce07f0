"""A trained classifier as a version of its registered model, with what people read of it."""

import json
from collections.abc import Mapping

from imgrec.classifier import Classifier
from imgrec.config import Config
from imgrec.data.decode import encode_png
from imgrec.distributed.fit import Fitted
from imgrec.evaluation.scores import Evaluation
from imgrec.tracking.registry import Judged, register
from imgrec.tracking.runs import Run
from imgrec.tracking.tags import ABOUT, ARCH, BEGINS_WITH, CORES, SEEN
from imgrec.tracking.versions import RegisteredVersion
from imgrec.training.metrics import KEPT
from imgrec.version import code_version
from pipelines.prepare import Prepared
from pipelines.record.entries import accuracy_of, begins_with, pictures_of
from pipelines.registered import learned_from

MOST_CLASSES = 12
"""That a version names in its description."""


def register_classifier(
    run: Run,
    config: Config,
    prepared: Prepared,
    fitted: Fitted,
    classifier: Classifier,
    evaluation: Evaluation,
) -> RegisteredVersion:
    """The classifier as a version of `<name>-<arch>`, tagged with what it is and how good."""
    store, arch = prepared.store, classifier.card.model.arch
    tags = {
        ARCH: arch,
        BEGINS_WITH: begins_with(classifier.card.made_by["weights"]),
        "data.fingerprint": store.fingerprint,
        "data.splits": prepared.splits.digest(store),
        "data.quarantined": store.quarantined,
        "code.version": code_version(),
        "precision": fitted.precision,
        CORES: fitted.threads,
        "seed": classifier.card.made_by["seed"],
        **fitted.best.val.as_metrics(KEPT),
        **evaluation.scores.as_metrics("test"),
    }
    tags |= {
        f"{ABOUT}{key}": text for key, text in _about(config, prepared, evaluation, tags).items()
    }
    start = prepared.weights.start_of(classifier.card.model)
    if start:
        tags[SEEN] = json.dumps(start.seen(store, prepared.splits))
    example = encode_png(store.images[prepared.splits.test[0]])
    trained_on = learned_from(store, prepared.splits, start)
    scores = evaluation.scores.as_metrics("test") | evaluation.trust.as_metrics("test")
    test = pictures_of(prepared)[-1]
    judged = Judged(scores, len(fitted.history), test)
    return register(run, f"{config.name}-{arch}", classifier, example, tags, trained_on, judged)


def _about(
    config: Config, prepared: Prepared, evaluation: Evaluation, tags: Mapping[str, object]
) -> dict[str, str]:
    """What MLflow's pages tell a stranger of a version."""
    store, splits = prepared.store, prepared.splits
    read_as = f": {store.reading.lines()[0]}" if store.reading else ""
    names = ", ".join(store.class_names[:MOST_CLASSES])
    more = len(store.class_names) - MOST_CLASSES
    return {
        "classes": f"{len(store.class_names):,} classes ({names}{f' and {more:,} more' if more > 0 else ''})",
        "accuracy": accuracy_of(evaluation),
        "macro_f1": f"{evaluation.scores.macro_f1:.3f}",
        "log_loss": f"{evaluation.scores.loss:.3f} nats",
        "data": f"{config.data.source}{read_as} (fingerprint {store.fingerprint[:12]})",
        "training": f"{len(splits.train):,} of {len(store.labels):,}",
        "begins_with": str(tags[BEGINS_WITH]),
        "code": str(tags["code.version"]),
    }
