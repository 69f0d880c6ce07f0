"""The architectures beside each other, by what their runs have on record of the test pictures."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from imgrec.errors import TrackingError
from imgrec.evaluation.answers import Answers
from imgrec.evaluation.comparison import Comparison, Contender, compare
from imgrec.tracking.connection import Tracking
from imgrec.tracking.query import RunRecord, fetch_file, find_runs
from imgrec.tracking.tags import KIND
from pipelines.record.entries import ANSWERS, COMPARISON
from pipelines.results import TrainedModel


def compare_models(tracking: Tracking, models: Sequence[TrainedModel]) -> Comparison:
    """Models of one run, which all were asked about the same test pictures.

    Raises:
        TrackingError: the record lacks the answers of one.
    """
    with tempfile.TemporaryDirectory(prefix="imgrec-") as folder:
        contenders = [
            Contender(
                model.arch,
                model.begins_with,
                tuple(
                    _answers(tracking, run, Path(folder, f"{number}-{turn}"))
                    for turn, run in enumerate(model.seed_runs)
                ),
            )
            for number, model in enumerate(models)
        ]
    return compare(contenders)


def recorded_comparison(tracking: Tracking, run_id: str) -> Comparison | None:
    """The comparison that a run has on record; None where it ended before it had one."""
    with tempfile.TemporaryDirectory(prefix="imgrec-") as folder:
        file = fetch_file(tracking, run_id, COMPARISON, Path(folder))
        return Comparison.of(json.loads(file.read_text(encoding="utf-8"))) if file else None


def find_compared(tracking: Tracking, run: str) -> tuple[RunRecord, Comparison]:
    """A run, and the comparison of its models.

    Args:
        tracking: Where it is on record.
        run: Its name, its id or how that begins; the last one that has a comparison where this is empty.

    Raises:
        TrackingError: there is no such run, or it ended before its models were compared.
    """
    records = find_runs(tracking, {KIND: "workflow"})
    chosen = [one for one in records if run in {"", one.name} or (run and one.id.startswith(run))]
    for record in chosen:
        if comparison := recorded_comparison(tracking, record.id):
            return record, comparison
    if chosen and run:
        msg = f"run {chosen[0].id[:12]} of {chosen[0].name} has no models that were compared; imgrec runs says how it ended"
    elif run:
        msg = f"{run}: no such run; imgrec runs lists them"
    else:
        msg = "no run has compared its models yet: imgrec run"
    raise TrackingError(msg)


def _answers(tracking: Tracking, run_id: str, folder: Path) -> Answers:
    folder.mkdir()
    file = fetch_file(tracking, run_id, ANSWERS, folder)
    if file is None:
        msg = f"run {run_id}: its {ANSWERS} is missing; imgrec run --fresh trains it again"
        raise TrackingError(msg)
    return Answers.load(file)
