"""Better settings than the defaults, for every architecture that asks for them."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from imgrec.config import Arch
from imgrec.distributed.demand import plan_trials
from imgrec.distributed.events import SearchEvent, TrialEnded, TrialEpoch, TrialStarted
from imgrec.distributed.search import search_on_workers
from imgrec.distributed.share import SearchSpec
from imgrec.errors import TrainingError
from imgrec.evaluation.search_pictures import (
    importance_picture,
    optimization_history,
    parallel_coordinates,
)
from imgrec.machine import give_memory_back
from imgrec.search.study import Scores, Study, Trial
from imgrec.tracking.query import RunRecord
from imgrec.tracking.runs import Run
from imgrec.tracking.tags import ARCH, DONE, KEY, KIND, NUMBER, SETTINGS, STATE
from imgrec.training.precision import Arithmetic
from imgrec.training.spec import FitSpec
from pipelines.arithmetic import decide_arithmetic, in_arithmetic, refuse_vain_graphs
from pipelines.confirm import confirm
from pipelines.costs.estimate import largest_checkpoint
from pipelines.record.curves import Curves
from pipelines.search_specs import spec_with
from pipelines.searched import Searched
from pipelines.workflow import Workflow

SearchOutcome = Searched | TrainingError


def search(workflow: Workflow, archs: list[Arch]) -> dict[Arch, SearchOutcome]:
    """Search for these architectures; what an interrupted search had tried is not tried again.

    Args:
        workflow: The run that searches stand below.
        archs: Which.
    """
    config, observer, session = workflow.config, workflow.observer, workflow.session()
    arithmetics = decide_arithmetic(workflow)
    recorders = {arch: _Recorder(workflow, arch) for arch in archs}
    searches = {
        arch: SearchSpec(
            study=recorder.study,
            make_spec=partial(_spec_of_trial, workflow, arch, arithmetics),
            folder=workflow.work / f"search-{arch}",
        )
        for arch, recorder in recorders.items()
    }
    # What the fits after it will need is refused now rather than after the search: the arithmetic asks for it.
    demand = plan_trials(session.nodes, config.search, config.cluster)
    refuse_vain_graphs(workflow, arithmetics, use_gpu=demand.gpus > 0, workers=demand.workers)
    largest = [
        largest_checkpoint(config.branch(arch), workflow.prepared.specs[arch]) for arch in archs
    ]
    observer.searching(config, {arch: len(one.study.trials) for arch, one in searches.items()})
    # Of each running trial one and the next, which is written before the first goes; and of the
    # best of each search.
    observer.resources(demand, 2 * demand.room * max(largest) + sum(largest))
    workflow.begin("search")
    give_memory_back()  # what looking at the pictures took, to the trials

    def on_event(arch: str, event: SearchEvent) -> None:
        recorders[arch].record(event)  # type: ignore[index]

    search_on_workers(
        session,
        {str(arch): one for arch, one in searches.items()},
        config.search,
        config.cluster,
        demand,
        among=len(config.archs),
        storage=workflow.work,
        on_event=on_event,
    )
    confirmed: dict[Arch, Scores] = {}
    if config.search.confirm:
        found = {
            arch: (one.run, one.study.trials.values())
            for arch, one in recorders.items()
            if one.study.best
        }
        workflow.begin("confirm")
        confirmed = confirm(workflow, found, arithmetics)
    return {arch: recorder.finish(confirmed.get(arch, {})) for arch, recorder in recorders.items()}


def _spec_of_trial(
    workflow: Workflow,
    arch: Arch,
    arithmetics: Mapping[Arch, Arithmetic],
    settings: Mapping[str, Any],
) -> FitSpec:
    return in_arithmetic(spec_with(workflow.prepared, arch, settings), arithmetics)


class _Recorder:
    """One search and its trials, into MLflow."""

    def __init__(self, workflow: Workflow, arch: Arch) -> None:
        ledger = workflow.ledger
        self.arch = arch
        self._workflow = workflow
        key = ledger.search_key(arch)
        earlier = ledger.last("search", key)
        name = f"{ledger.config.name}-{arch} search"
        if earlier and earlier.status != "FAILED":
            self.run = workflow.run.resume_child(earlier)
            trials = ledger.trial_runs(earlier)
        else:
            self.run = workflow.run.start_child(name, {KIND: "search", ARCH: arch, KEY: key})
            trials = []
        self._interrupted: dict[int, tuple[Trial, RunRecord]] = {
            trial.number: (trial, record) for trial, record in trials if STATE not in record.tags
        }
        self.study = Study.open(
            ledger.config.branch(arch),
            ledger.prepared.specs[arch],
            seed=ledger.config.seed,
            ended=[trial for trial, record in trials if STATE in record.tags],
            interrupted=[trial for trial, _ in self._interrupted.values()],
        )
        self._runs: dict[int, Run] = {}
        self._curves: dict[int, Curves] = {}

    def record(self, event: SearchEvent) -> None:
        """Something happened to a trial."""
        match event:
            case TrialStarted():
                if event.number not in self._runs:
                    self._start(event)
            case TrialEpoch():
                self._curves[event.number].add(event.epoch, event.metrics)
            case TrialEnded():
                self._end(event.trial)
        self._workflow.observer.trial(self.arch, event)

    def finish(self, confirmed: Scores) -> SearchOutcome:
        """After the last trial: what came of it, with pictures.

        Args:
            confirmed: Scores of its best trials with other seeds; empty where that was not asked for.
        """
        trials = sorted(self.study.trials.values(), key=lambda trial: trial.number)
        best = self.study.best
        if best is None:
            reason = next(
                (trial.reason for trial in trials if trial.reason), "no time for an epoch"
            )
            error = TrainingError(f"none of {len(trials)} trials came to a score: {reason}")
            self.run.set_tags({"failure": error})
            self.run.end("FAILED")
            return error
        branch = self._workflow.config.branch(self.arch)
        spec = self._workflow.prepared.specs[self.arch]
        result = Searched.of(branch, spec, trials, self.run.id, taken=False, confirmed=confirmed)
        best = result.best
        title = f"{self._workflow.config.name}-{self.arch}"
        figures = {
            "optimization_history.png": optimization_history(trials, spec.train.epochs, title),
        }
        if branch.space:
            figures["parallel_coordinates.png"] = parallel_coordinates(
                trials, branch.space, self.study.defaults, title
            )
        if importances := self.study.importances():
            figures["parameter_importance.png"] = importance_picture(importances, title)
        for file, figure in figures.items():
            self.run.log_figure(figure, file)
        rows = [[key, str(default), str(value)] for key, (default, value) in result.tuned.items()]
        self.run.log_table(("setting", "default", "chosen"), rows, "tuned.json")
        metrics = {
            "trials": result.trials,
            "failed": result.failed,
            "best_val_macro_f1": best.score,
            "steps_saved": result.steps_saved,
        }
        tags = {
            "best.trial": best.number,
            "best.settings": json.dumps(best.settings),
        }
        self.run.log_history({0: metrics}, tags)
        self.run.end("FINISHED", {DONE: "search"})
        self._workflow.observer.searched(self.arch, result)
        return result

    def _start(self, event: TrialStarted) -> None:
        number = event.number
        if number in self._interrupted:
            trial, record = self._interrupted[number]
            self._runs[number] = self.run.resume_child(record)
            self._curves[number] = Curves(self._runs[number], list(trial.scores))
            return
        tags = {
            KIND: "trial",
            ARCH: self.arch,
            NUMBER: str(number),
            SETTINGS: json.dumps(event.settings),
        }
        run = self._runs[number] = self.run.start_child(f"trial {number}", tags)
        run.log_params(event.settings or self.study.defaults)
        self._curves[number] = Curves(run)

    def _end(self, trial: Trial) -> None:
        run = self._runs[trial.number]
        self._curves[trial.number].flush()
        metrics: dict[str, float] = {
            "seconds": trial.seconds,
            "search_seconds": trial.used,
            "epochs": len(trial.scores),
        }
        if trial.scores:
            metrics["best_val_macro_f1"] = trial.score
        run.log_history({len(trial.scores): metrics})
        tags: dict[str, str] = {STATE: trial.state}
        if trial.reason:
            tags["failure"] = trial.reason[:5000]
        run.end("FAILED" if trial.state == "failed" else "FINISHED", tags)
