"""The architectures beside each other, by what their runs have on record of the test pictures."""

import json
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from imgrec.errors import TrackingError
from imgrec.evaluation.answers import Answers
from imgrec.evaluation.comparison import Comparison
from imgrec.evaluation.contest import Contender, compare
from imgrec.tracking.connection import Tracking
from imgrec.tracking.query import RunRecord, fetch_file
from pipelines.record.entries import ANSWERS, COMPARISON
from pipelines.record.find import find_with
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
        run: See `find_with`.

    Raises:
        TrackingError: there is no such run, or it ended before its models were compared.
    """
    return find_with(tracking, run, partial(recorded_comparison, tracking), "comparison")


def _answers(tracking: Tracking, run_id: str, folder: Path) -> Answers:
    folder.mkdir()
    file = fetch_file(tracking, run_id, ANSWERS, folder)
    if file is None:
        msg = f"run {run_id}: its {ANSWERS} is missing; imgrec run --fresh trains it again"
        raise TrackingError(msg)
    return Answers.load(file)
