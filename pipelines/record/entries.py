"""What a run leaves in MLflow."""

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from imgrec.classifier import Classifier
from imgrec.config import Config
from imgrec.data.findings import Findings
from imgrec.distributed.fit import Fitted
from imgrec.evaluation.comparison import Comparison
from imgrec.evaluation.comparison_page import comparison_in_markdown, scored_fully
from imgrec.evaluation.data_page import data_page
from imgrec.evaluation.fonts import lettering
from imgrec.evaluation.intervals import share_interval
from imgrec.evaluation.label_errors import Suspect, write_suspects
from imgrec.evaluation.pictures import CLASS_NUMBERS, confusion_picture, learning_curves
from imgrec.evaluation.report import Report, report_figures, report_page
from imgrec.evaluation.report_pictures import (
    intervals_picture,
    precision_picture,
    reliability_picture,
)
from imgrec.evaluation.scores import Evaluation
from imgrec.models import count_parameters
from imgrec.tracking.datasets import Pictures, log_datasets
from imgrec.tracking.runs import Run
from imgrec.tracking.tags import ARCH, BEGINS_WITH, DONE, KEY, KIND, RANDOM
from imgrec.training.clock import ANSWERING, ON_DEVICE
from imgrec.training.loop import OF_FIT
from imgrec.training.metrics import KEPT
from imgrec.training.spec import FitSpec
from imgrec.training.throughput import peak_flops, training_flops
from imgrec.version import code_version
from pipelines.prepare import Prepared

ANSWERS = "test_answers.npz"
"""Of a model's run: what it said of each test picture."""
TRUST, LABEL_ERRORS = "trust.json", "label_errors.csv"
"""Of a model's run: how far its probabilities hold, and pictures whose label is probably wrong."""
SETTINGS, DATA = "config.json", "data.json"
"""Of a workflow's run: what it was asked for, and what it was trained on."""
COMPARISON = "comparison.json"
"""Of a workflow's run: its models beside each other."""
REPORT, REPORT_PAGE = "report.json", "report.html"
"""Of a workflow's run: everything about its models, for programs and for people."""


def record_inputs(workflow: Run, config: Config, prepared: Prepared) -> None:
    """What went in: settings, data and code."""
    store, splits = prepared.store, prepared.splits
    settings = config.model_dump(mode="json", exclude={"branches"})
    if not workflow.resumed:  # MLflow's params cannot change; those that may are not in the key
        workflow.log_params(settings)
    branches = {branch.arch: branch.model_dump(mode="json") for branch in config.branches}
    workflow.log_dict(settings | branches, SETTINGS)
    data = {
        "fingerprint": store.fingerprint,
        "image_shape": store.image_shape,
        "depth": store.depth,
        "class_names": store.class_names,
        "train": len(splits.train),
        "val": len(splits.val),
        "choosing": len(splits.choosing),
        "calibrating": len(splits.calibrating),
        "test": len(splits.test),
        "quarantined": store.quarantined,
        "class_counts": next(iter(prepared.specs.values())).class_counts,
    }
    workflow.log_dict(data, DATA)
    if not workflow.resumed:
        log_datasets(workflow, pictures_of(prepared))
    findings = prepared.findings
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "data.html")
        page.write_text(data_page(findings, config.data.source, splits), encoding="utf-8")
        record_data(workflow, findings, page)
    workflow.set_tags(
        {
            "data.fingerprint": store.fingerprint,
            "data.splits": splits.digest(store),
            "data.quarantined": store.quarantined,
            "code.version": code_version(),
        }
    )


def record_data(run: Run, findings: Findings, page: Path) -> None:
    """What was found out about the pictures."""
    run.log_file(page)
    run.log_file(findings.store.quarantine_file)
    run.log_dict(findings.as_json(), "data_findings.json")
    if run.resumed:
        return
    run.log_metrics(
        {
            "data/pictures": len(findings.store.labels),
            "data/quarantined": len(findings.rejected),
            "data/duplicates": len(findings.duplicates),
            "data/imbalance_ratio": findings.imbalance,
        }
    )
    run.set_tags({"data.fingerprint": findings.store.fingerprint})


def pictures_of(prepared: Prepared) -> list[Pictures]:
    """The data as MLflow knows them, a part for each use."""
    store, splits, config = prepared.store, prepared.splits, prepared.config
    parts = (
        ("training", splits.train),
        ("validation", splits.val),
        ("test", splits.test),
    )
    digest = f"{store.fingerprint[:16]}-{splits.digest(store)}"
    return [
        Pictures(
            name=f"{config.name} {use}",
            digest=digest,
            source=config.data.source,
            count=len(rows),
            classes=len(store.class_names),
            context=use,
        )
        for use, rows in parts
    ]


def start_model(workflow: Run, config: Config, prepared: Prepared, spec: FitSpec, key: str) -> Run:
    """The run of one architecture's model, with everything that it is trained with."""
    arch = spec.model.arch
    tags = {
        KIND: "model",
        ARCH: arch,
        KEY: key,
        BEGINS_WITH: begins_with(spec.weights.told() if spec.weights else None),
        "data.fingerprint": prepared.store.fingerprint,
    }
    branch = workflow.start_child(name_of(config, spec), tags)
    branch.log_params(
        {
            "model": spec.model.model_dump(mode="json"),
            "weights": spec.weights.told() if spec.weights else "none",
            "train": spec.train.model_dump(mode="json"),
            "filters": [one.model_dump(mode="json") for one in spec.filters],
            "augmentation": dataclasses.asdict(spec.augmentation),
            "data": config.data.model_dump(mode="json") | {"image_shape": spec.image_shape},
            "seed": spec.seed,
            "workers": config.cluster.workers,
        }
    )
    log_datasets(branch, pictures_of(prepared))
    return branch


def name_of(config: Config, spec: FitSpec) -> str:
    """Of the run of a model: `digits-cnn`; of other seeds than the first `digits-cnn-seed-1`."""
    name = f"{config.name}-{spec.model.arch}"
    return name if spec.seed == config.seed else f"{name}-seed-{spec.seed}"


def begins_with(weights: Mapping[str, str] | None) -> str:
    """The name of the weights that a network begins with, of what is told of them; or `random weights`."""
    return weights["name"] if weights else RANDOM


def model_metrics(
    fitted: Fitted, spec: FitSpec, classifier: Classifier, evaluation: Evaluation
) -> dict[str, float]:
    """What a model came to, in numbers; its run keeps them, and all reports are made of them."""
    return (
        evaluation.scores.as_metrics("test")
        | {f"test/{name}": value for name, value in evaluation.by_frequency().items()}
        | evaluation.trust.as_metrics("test")
        | fitted.best.val.as_metrics(KEPT)
        | {
            "best_epoch": fitted.best.epoch,
            "fit_seconds": fitted.seconds,
            **{f"{OF_FIT}{kind}": seconds for kind, seconds in fitted.spent.items()},
            "median_images_per_second": fitted.images_per_second,
            "restarts": fitted.restarts,
            "parameters": count_parameters(classifier.model),
        }
        | _throughput(fitted, spec, classifier)
    )


def _throughput(fitted: Fitted, spec: FitSpec, classifier: Classifier) -> dict[str, float]:
    """How much was computed; on a GPU also what share of what it could."""
    flops = training_flops(classifier.model, classifier.card.image_shape)
    # In the time of one picture of each epoch.
    trained = range(spec.probe_epochs, len(fitted.history)) or range(len(fitted.history))
    done = sum(flops * spec.cost(epoch) for epoch in trained)
    rate = done / sum(1 / fitted.history[epoch]["images_per_second"] for epoch in trained)
    metrics = {"training_flops": float(flops), "flops_per_second": rate}
    if fitted.device == "cuda":
        busy = sum(seconds for kind, seconds in fitted.spent.items() if kind in ON_DEVICE)
        metrics["gpu_busy"] = busy / sum(s for kind, s in fitted.spent.items() if kind != ANSWERING)
        metrics["gpu_memory_bytes"] = float(fitted.gpu_bytes)
        if peak := peak_flops(fitted.gpu_name, fitted.precision):
            metrics["share_of_peak"] = rate / peak
    return metrics


def record_evaluation(
    run: Run,
    name: str,
    fitted: Fitted,
    evaluation: Evaluation,
    suspects: Sequence[Suspect],
    metrics: Mapping[str, float],
    spec: FitSpec,
) -> None:
    """Scores as numbers, pictures and a table for each class; the numbers last, and all at once."""
    curves_title = f"{name}: epoch {fitted.best.epoch} of {len(fitted.history)} was kept"
    images = int(evaluation.confusion.sum())
    confusion_title = f"{name}: {evaluation.scores.accuracy:.1%} of {images:,} test pictures right"
    run.log_figure(
        learning_curves(fitted.history, fitted.best.epoch, curves_title), "learning_curves.png"
    )
    run.log_figure(
        confusion_picture(evaluation.confusion, evaluation.class_names, confusion_title),
        "confusion.png",
    )
    if lettering(evaluation.class_names).numbered:
        run.log_table(
            ("number", "class"), [*enumerate(evaluation.class_names, start=1)], CLASS_NUMBERS
        )
    columns = ("class", "trained on", "images", "precision", "recall", "f1")
    run.log_table(columns, evaluation.per_class(), "per_class.json")
    trusted = [(name, evaluation.trust)]
    run.log_figure(reliability_picture(trusted), "reliability.png")
    run.log_figure(precision_picture(trusted), "precision.png")
    run.log_dict(evaluation.trust.as_json(), TRUST)
    with tempfile.TemporaryDirectory() as folder:
        evaluation.answers.save(Path(folder, ANSWERS))
        run.log_file(Path(folder, ANSWERS))
        write_suspects(suspects, Path(folder, LABEL_ERRORS))
        run.log_file(Path(folder, LABEL_ERRORS))
    start = begins_with(spec.weights.told() if spec.weights else None)
    run.describe(
        f"{curves_title}. Accuracy {accuracy_of(evaluation)}, macro-F1 {evaluation.scores.macro_f1:.3f}. Begins with "
        f"{start}."
    )
    run.log_history({len(fitted.history): metrics}, {DONE: "evaluate"})


def accuracy_of(evaluation: Evaluation) -> str:
    """On the test pictures, with its interval, for people."""
    right = evaluation.answers.right
    interval = share_interval(int(right.sum()), len(right))
    return scored_fully(evaluation.scores.accuracy, interval, len(right))


def record_comparison(workflow: Run, comparison: Comparison) -> None:
    """The models beside each other: as numbers, as a picture, and in words at the top of the run's page."""
    workflow.log_dict(comparison.as_json(), COMPARISON)
    scores = {
        f"{score}_on_test/{one.name}": value
        for one in comparison.standings
        for score, value in (("accuracy", one.accuracy), ("macro_f1", one.macro_f1))
    }
    workflow.log_metrics(scores)
    workflow.log_figure(intervals_picture(comparison.standings), "comparison.png")
    workflow.describe(comparison_in_markdown(comparison))


def record_report(workflow: Run, report: Report) -> None:
    """Everything about the models: as numbers, as a page, and its figures."""
    workflow.log_dict(report.as_json(), REPORT)
    for name, figure in report_figures(report).items():
        workflow.log_figure(figure, f"report/{name}.png")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, REPORT_PAGE)
        page.write_text(report_page(report), encoding="utf-8")
        workflow.log_file(page)
