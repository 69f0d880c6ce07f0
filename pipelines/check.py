"""A data set looked at before anything is spent on it."""

import contextlib
from pathlib import Path

from imgrec.config import Config
from imgrec.data.findings import Findings
from imgrec.data.splits import make_splits
from imgrec.data.store import prepare_store
from imgrec.errors import DataError
from imgrec.evaluation.data_page import data_page
from imgrec.tracking.connection import connect
from imgrec.tracking.runs import start_run
from imgrec.tracking.tags import KIND
from pipelines.networks import (
    KnownWeights,
    decide_networks,
    photo_side,
    sources_of,
    training_on_gpu,
)
from pipelines.observer import Observer
from pipelines.record.entries import record_data
from pipelines.registered import begin_with_registered


def check(config: Config, observer: Observer) -> tuple[Findings, list[str], Path]:
    """Scan, write the page of what was found, and keep it in MLflow.

    Returns:
        What was found, what a run would decide, and where the page is.

    Raises:
        DataError: the pictures cannot be read.
    """
    observer.stage("data")
    storage = Path(config.storage)
    config, registered = begin_with_registered(config)
    side = photo_side(config, registered)
    store = prepare_store(config.data, storage, progress=observer.progress, photo_side=side)
    findings = Findings(store, config.data.allow_leakage)
    page = storage / "checks" / f"{config.name}-{store.folder.name}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(data_page(findings, config.data.source), encoding="utf-8")
    observer.stage("tracking")
    tracking = connect(config.tracking, storage, create=True)
    experiment = config.tracking.experiment or config.name
    with start_run(tracking, experiment, f"{config.name} data", {KIND: "check"}) as run:
        record_data(run, findings, page)
    weights = KnownWeights(sources_of(config, planning=True), registered)
    on_gpu = training_on_gpu(config.cluster, {})
    _, networks = decide_networks(config, store, weights, on_gpu=on_gpu)
    decided = [store.about_depth(config.data.depth), *networks]
    with contextlib.suppress(DataError):  # which `Findings` say better
        decided += make_splits(store, config.data).notes
    return findings, [note for note in decided if note], page
