"""The best trials of a search once more, with other seeds: what was luck with one seed is not there with the next."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from imgrec.config import Arch
from imgrec.distributed.fit import Fitted, fit_on_workers
from imgrec.errors import TrainingError
from imgrec.search.study import DEFAULTS, Scores, Trial
from imgrec.tracking.query import RunRecord, find_runs
from imgrec.tracking.runs import Run
from imgrec.tracking.tags import ARCH, CONFIRMED, KEY, KIND, NUMBER
from imgrec.training.precision import Arithmetic
from imgrec.training.spec import FitSpec
from pipelines.arithmetic import in_arithmetic
from pipelines.search_specs import spec_with
from pipelines.workflow import Workflow

CANDIDATES = 3
"""Trials that are confirmed, beside the defaults."""


def confirm(
    workflow: Workflow,
    searches: Mapping[Arch, tuple[Run, Iterable[Trial]]],
    arithmetics: Mapping[Arch, Arithmetic],
) -> dict[Arch, Scores]:
    """Train the best trials of each search, and its defaults, with `search.confirm` other seeds.

    What an interrupted run has confirmed is not done again.

    Args:
        workflow: Of the run.
        searches: Their runs on record, and their trials.
        arithmetics: In which they were trained.
    """
    config = workflow.config
    specs: list[FitSpec] = []
    fits: dict[str, _Fit] = {}
    begun: dict[str, Path] = {}
    found: dict[Arch, dict[int, list[float]]] = {}
    for arch, (run, trials) in searches.items():
        candidates = _candidates(trials)
        if all(trial.number == DEFAULTS for trial in candidates):
            continue  # nothing claims to be better than they are
        known = {record.tags[KEY]: record for record in _confirmed(workflow, run)}
        for trial in candidates:
            scores = found.setdefault(arch, {}).setdefault(trial.number, [])
            for turn in range(1, config.search.confirm + 1):
                spec = spec_with(workflow.prepared, arch, trial.settings)
                spec = in_arithmetic(replace(spec, seed=config.seed + turn), arithmetics)
                specs.append(spec)
                one = _Fit(workflow, arch, trial.number, spec, run)
                if one.key in known:
                    scores.append(known[one.key].metrics["best_val_macro_f1"])
                    continue
                left = workflow.left_of(spec)
                if isinstance(left, Fitted):
                    scores.append(one.record(left.best.val.macro_f1))
                    continue
                fits[one.name] = one
                if left:
                    begun[one.name] = left
    for one, score in _train(workflow, specs, fits, begun):
        found[one.arch][one.number].append(score)
    confirmed = {
        arch: {
            number: tuple(scores)
            for number, scores in by_trial.items()
            if len(scores) == config.search.confirm
        }
        for arch, by_trial in found.items()
    }
    for arch, by_trial in confirmed.items():
        searches[arch][0].set_tags({CONFIRMED: json.dumps(by_trial)})
    return confirmed


def _train(
    workflow: Workflow,
    specs: Sequence[FitSpec],
    fits: "Mapping[str, _Fit]",
    begun: Mapping[str, Path],
) -> "Iterator[tuple[_Fit, float]]":
    """Train what is left of these, and yield each with its score; what fails is said and left out."""
    if not fits:
        return
    outcomes = fit_on_workers(
        workflow.session(),
        {name: one.spec for name, one in fits.items()},
        workflow.config.cluster,
        workflow.demand_of(specs),
        storage=workflow.work / "confirm",
        on_event=lambda *_: None,
        resume=begun,
    )
    for name, outcome in outcomes:
        if isinstance(outcome, TrainingError):
            workflow.observer.note(f"{name}: {outcome}")
            continue
        score = fits[name].record(outcome.best.val.macro_f1)
        workflow.observer.note(f"{name}: val macro-F1 {score:.4f}")
        yield fits[name], score


def _candidates(trials: Iterable[Trial]) -> list[Trial]:
    """The best trials that were trained to their end, and the defaults."""
    finished = [trial for trial in trials if trial.counts and trial.state == "finished"]
    ranked = sorted(finished, key=lambda trial: (trial.rank, -trial.number), reverse=True)
    best = ranked[:CANDIDATES]
    return best + [trial for trial in ranked[CANDIDATES:] if trial.number == DEFAULTS]


def _confirmed(workflow: Workflow, search: Run) -> list[RunRecord]:
    tracking, experiment = workflow.ledger.tracking, workflow.ledger.experiment
    return find_runs(
        tracking, {KIND: "confirm"}, experiment=experiment, parent=search.id, status="FINISHED"
    )


class _Fit:
    """A trial with another seed."""

    def __init__(
        self, workflow: Workflow, arch: Arch, number: int, spec: FitSpec, search: Run
    ) -> None:
        self.arch, self.number, self.spec = arch, number, spec
        what = "defaults" if number == DEFAULTS else f"trial {number}"
        self.name = f"{arch}: {what}, seed {spec.seed}"
        self.key = workflow.ledger.fit_key(spec)
        self._search = search

    def record(self, score: float) -> float:
        """Keep what it came to, and give it back."""
        tags = {KIND: "confirm", ARCH: self.arch, NUMBER: str(self.number), KEY: self.key}
        run = self._search.start_child(self.name, tags)
        run.log_metrics({"best_val_macro_f1": score})
        run.end("FINISHED")
        return score
