"""A finished run as a report: what each model costs, how it does on worse pictures, what it gets wrong."""

import datetime as dt
import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imgrec.classifier import WEIGHTS, Classifier
from imgrec.config import Arch
from imgrec.data.store import Store
from imgrec.errors import TrackingError
from imgrec.evaluation.answers import Answers
from imgrec.evaluation.comparison import Comparison
from imgrec.evaluation.corruptions import choose_pictures, robustness
from imgrec.evaluation.costs import costs_of, time_in_turns
from imgrec.evaluation.label_errors import Suspect, read_suspects
from imgrec.evaluation.mistakes import choose_mistakes, most_confused, worst_mistakes
from imgrec.evaluation.report import ModelReport, Report, SearchReport
from imgrec.evaluation.trust import Trust
from imgrec.tracking.connection import Tracking
from imgrec.tracking.query import fetch_file
from imgrec.tracking.versions import fetch_classifier
from imgrec.version import code_version
from pipelines.prepare import Prepared
from pipelines.record.entries import ANSWERS, LABEL_ERRORS, REPORT, TRUST
from pipelines.record.find import find_with
from pipelines.results import TrainedModel
from pipelines.searched import Searched
from pipelines.workflow import Workflow

MOST_CELLS = 20
"""Classes whose confusion matrix a page shows."""
MOST_SUSPECTS = 200
TIMED = 8


def make_report(
    workflow: Workflow,
    models: Sequence[TrainedModel],
    searches: Mapping[Arch, Searched],
    comparison: Comparison,
) -> Report:
    """Look into all models of a run.

    Args:
        workflow: Of the run.
        models: Best first.
        searches: That chose their settings.
        comparison: Of the models.

    Raises:
        TrackingError: the record lacks what a report takes.
    """
    config, prepared = workflow.config, workflow.prepared
    tracking = workflow.ledger.tracking
    with tempfile.TemporaryDirectory(prefix="imgrec-") as temporary:
        looked = [
            _Looked(tracking, model, Path(temporary, str(number)))
            for number, model in enumerate(models)
        ]
        timed = time_in_turns(
            [one.classifier for one in looked], [_some(prepared.store, prepared)] * len(looked)
        )
        reports = [
            one.report(prepared, speed, config.report.corrupted, config.cluster.least_workers)
            for one, speed in zip(looked, timed, strict=True)
        ]
        suspects = looked[0].suspects()
    return Report(
        name=config.name,
        run_id=workflow.run.id,
        when=f"{dt.datetime.now().astimezone():%Y-%m-%d %H:%M}",
        command=workflow.command,
        code=code_version(),
        data=_data(prepared),
        comparison=comparison,
        models=tuple(reports),
        searches=tuple(
            _search_report(arch, one, len(prepared.splits.choosing))
            for arch, one in searches.items()
        ),
        suspects=tuple(suspects[:MOST_SUSPECTS]),
        suspected=len(suspects),
    )


def find_report(tracking: Tracking, run: str) -> Report:
    """The report of a run.

    Args:
        tracking: Where it is on record.
        run: See `find_with`.

    Raises:
        TrackingError: there is no such run, or it ended before it had a report.
    """
    return find_with(tracking, run, partial(_recorded_report, tracking), "report")[1]


def _recorded_report(tracking: Tracking, run_id: str) -> Report | None:
    with tempfile.TemporaryDirectory(prefix="imgrec-") as folder:
        file = fetch_file(tracking, run_id, REPORT, Path(folder))
        return Report.of(_json(file)) if file else None


class _Looked:
    """A registered model with what its run has on record."""

    def __init__(self, tracking: Tracking, model: TrainedModel, folder: Path) -> None:
        folder.mkdir()
        self._tracking, self._folder, self.model = tracking, folder, model
        where = fetch_classifier(tracking, f"{model.registered_model}/{model.version}")
        self.classifier = Classifier.load(where)
        self._size = (where / WEIGHTS).stat().st_size

    def report(
        self,
        prepared: Prepared,
        timed: tuple[float, float],
        corrupted: int | str,
        workers: int,
    ) -> ModelReport:
        """All about it."""
        model, store, rows = self.model, prepared.store, prepared.splits.test
        spec = prepared.specs[model.arch]
        answers = Answers.load(self._file(ANSWERS, required=True))
        if isinstance(corrupted, str):
            corrupted = choose_pictures(spec.num_train, spec.passes, len(rows))
        trust = self._file(TRUST)
        confusion = np.zeros((len(answers.class_names),) * 2, dtype=np.int64)
        np.add.at(confusion, (answers.labels, answers.predicted), 1)
        return ModelReport(
            arch=model.arch,
            registered_model=model.registered_model,
            version=model.version,
            champion=model.champion,
            why_not=model.why_not,
            validation=model.val.accuracy,
            costs=costs_of(self.classifier, self._size, timed, model.fit_seconds, workers),
            trust=Trust.of(_json(trust)) if trust else None,
            robustness=robustness(self.classifier, store, rows, min(corrupted, len(rows)))
            if corrupted
            else None,
            per_class=_per_class(confusion, answers.class_names, spec.class_counts),
            confusion=tuple(tuple(row) for row in confusion.tolist())
            if len(confusion) <= MOST_CELLS
            else (),
            confused=tuple(most_confused(answers)),
            mistakes=tuple(
                worst_mistakes(
                    self.classifier,
                    answers,
                    store,
                    rows,
                    choose_mistakes(spec.num_train, spec.passes),
                )
            ),
        )

    def suspects(self) -> list[Suspect]:
        """Pictures whose label is probably wrong, by this model."""
        file = self._file(LABEL_ERRORS)
        return read_suspects(file) if file else []

    def _file(self, name: str, *, required: bool = False) -> Any:
        file = fetch_file(self._tracking, self.model.run_id, name, self._folder)
        if file is None and required:
            msg = f"run {self.model.run_id}: its {name} is missing; imgrec run --fresh trains it again"
            raise TrackingError(msg)
        return file


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _some(store: Store, prepared: Prepared) -> Tensor:
    """Pictures to time with, (B, C, H, W) uint8."""
    rows = prepared.splits.test[:TIMED]
    return torch.from_numpy(np.stack([store.images[row] for row in rows])).permute(0, 3, 1, 2)


def _per_class(
    confusion: np.ndarray[Any, np.dtype[np.int64]], names: Sequence[str], trained: Sequence[int]
) -> tuple[tuple[str, int, int, float, float, float], ...]:
    hits, true, said = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    return tuple(
        (
            name,
            int(trained[k]),
            int(true[k]),
            float(hits[k] / max(1, said[k])),
            float(hits[k] / max(1, true[k])),
            float(2 * hits[k] / max(1, true[k] + said[k])),
        )
        for k, name in enumerate(names)
    )


def _search_report(arch: Arch, search: Searched, pictures: int) -> SearchReport:
    return SearchReport(
        arch=arch,
        trials=search.trials - search.failed,
        pictures=pictures,
        default=search.default,
        best=search.best.score,
        confirmed=fmean(search.confirmed[search.best.number])
        if search.best.number in search.confirmed
        else None,
        optimism=search.optimism(pictures),
    )


def _data(prepared: Prepared) -> dict[str, Any]:
    store, splits = prepared.store, prepared.splits
    return {
        "source": prepared.config.data.source,
        "fingerprint": store.fingerprint,
        "class_names": list(store.class_names),
        "train": len(splits.train),
        "choosing": len(splits.choosing),
        "calibrating": len(splits.calibrating),
        "test": len(splits.test),
        "quarantined": store.quarantined,
    }
