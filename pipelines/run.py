"""The workflow: prepare; then for each architecture search, fit, evaluate, register.

What is on record is not done again, and what was interrupted goes on (pipelines/record/ledger.py).
"""

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imgrec.config import Arch, Config
from imgrec.errors import TrainingError
from imgrec.evaluation.comparison import Comparison
from imgrec.tracking.liveness import is_alive
from imgrec.tracking.query import find_run
from imgrec.tracking.runs import Run
from imgrec.tracking.tags import KEY
from pipelines.compare import compare_models, recorded_comparison
from pipelines.costs.timing import in_detail
from pipelines.prepare import Prepared
from pipelines.record.entries import record_comparison, record_inputs, record_report
from pipelines.record.ledger import Ledger
from pipelines.report import make_report
from pipelines.results import Summary, TrainedModel
from pipelines.search import search
from pipelines.search_specs import spec_with
from pipelines.searched import Searched
from pipelines.start import Start
from pipelines.train import train
from pipelines.workflow import Workflow


def run(start: Start, *, command: str = "", profile: bool = False) -> Summary:
    """Settings to registered models.

    Args:
        start: Record, data and Ray.
        command: What the user typed, for whoever wants to go on with it.
        profile: Trace some training steps of each architecture.
    """
    config, ledger, observer = start.config, start.ledger, start.observer
    searches = _finished_searches(ledger)
    # What could not be measured has no settings by which to look for it.
    archs = [arch for arch in config.archs if arch not in start.failures]
    models = _finished_models(ledger, searches, archs)
    last = ledger.last_workflow("workflow")
    if last and last.status == "FINISHED" and len(models) == len(config.archs):
        observer.taken(searches, models)
        ranked = _ranked(config, models)
        comparison = recorded_comparison(ledger.tracking, last.id)
        comparison = comparison or compare_models(ledger.tracking, ranked)
        return _summary(start, last.id, searches, models, {}, comparison)
    with _workflow(start, "workflow", command) as workflow:
        observer.taken(searches, models)
        made, failures = _search_missing(workflow, searches, start.failures)
        searches |= made
        models |= _finished_models(ledger, searches, made)
        observer.taken({}, {arch: models[arch] for arch in made if arch in models})
        specs = {
            arch: ledger.seeds(spec_with(ledger.prepared, arch, _settings(searches, arch)))
            for arch in _pretrained_first(ledger.prepared)
            if arch not in failures
        }
        trained = train(workflow, specs, searches, done=models, profile=profile)
        for arch, outcome in trained.items():
            if isinstance(outcome, TrainingError):
                failures[arch] = str(outcome)
            else:
                models[arch] = outcome
        comparison = _compare(workflow, models, searches)
        summary = _summary(start, workflow.run.id, searches, models, failures, comparison)
        workflow.run.log_metrics(summary.cost() | {"models": len(summary.models)})
        workflow.run.log_table(*summary.leaderboard(), "leaderboard.json")
        if failures:
            workflow.run.end("FAILED")
        _remove_work(ledger, workflow.run)
    return summary


def tune(start: Start, *, command: str = "") -> Summary:
    """Settings to better settings, and no further; a later run takes the searches from the record."""
    searches = _finished_searches(start.ledger)
    with _workflow(start, "tune", command) as workflow:
        start.observer.taken(searches, {})
        made, failures = _search_missing(workflow, searches, start.failures)
        summary = _summary(start, workflow.run.id, searches | made, {}, failures)
        workflow.run.log_metrics(summary.cost())
        if failures:
            workflow.run.end("FAILED")
    return summary


@contextmanager
def _workflow(start: Start, kind: str, command: str) -> Iterator[Workflow]:
    """A run on record, with a folder for checkpoints."""
    config, ledger = start.config, start.ledger
    with ledger.workflow(kind, command) as recorded:
        record_inputs(recorded, config, ledger.prepared)
        work = Path(config.storage) / "work" / recorded.id
        work.mkdir(parents=True, exist_ok=True)
        yield Workflow(
            ledger,
            recorded,
            start.session,
            start.let_ray_go,
            work,
            start.observer,
            start.clock,
            command,
        )


def _summary(
    start: Start,
    run_id: str,
    searches: Mapping[Arch, Searched],
    models: Mapping[Arch, TrainedModel],
    failures: Mapping[Arch, str],
    comparison: Comparison | None = None,
) -> Summary:
    """What it came to, until now."""
    trained = [model.spent for model in models.values() if not model.taken]
    return Summary(
        name=start.config.name,
        tracking_uri=start.ledger.tracking.uri,
        run_id=run_id,
        store=start.ledger.prepared.store,
        splits=start.ledger.prepared.splits,
        searches=dict(searches),
        models=_ranked(start.config, models),
        comparison=comparison,
        failures=dict(failures),
        seconds=time.monotonic() - start.began,
        times=in_detail(start.clock.seconds(), trained),
        memory=start.memory.most(),
    )


def _ranked(config: Config, models: Mapping[Arch, TrainedModel]) -> list[TrainedModel]:
    """Best first; where two are as good, in the user's order and not in that in which they ended."""
    in_order = (models[arch] for arch in config.archs if arch in models)
    return sorted(in_order, key=lambda model: -model.test.macro_f1)


def _compare(
    workflow: Workflow, models: Mapping[Arch, TrainedModel], searches: Mapping[Arch, Searched]
) -> Comparison | None:
    """The models beside each other, and a report of all about them, on record."""
    if not models:
        return None
    workflow.begin("compare")
    ranked = _ranked(workflow.config, models)
    comparison = compare_models(workflow.ledger.tracking, ranked)
    record_comparison(workflow.run, comparison)
    workflow.begin("examine")
    record_report(workflow.run, make_report(workflow, ranked, searches, comparison))
    workflow.clock.enter("end")
    return comparison


def _pretrained_first(prepared: Prepared) -> list[Arch]:
    """The architectures in the user's order, but first those that begin with weights: they are soonest of use."""
    return sorted(prepared.specs, key=lambda arch: prepared.specs[arch].weights is None)


def _search_missing(
    workflow: Workflow,
    searches: Mapping[Arch, Searched],
    before: Mapping[Arch, TrainingError],
) -> tuple[dict[Arch, Searched], dict[Arch, str]]:
    """The searches that the record does not have, and why others, or what came before them, came to nothing."""
    config, made = workflow.config, dict[Arch, Searched]()
    failures = {arch: str(error) for arch, error in before.items()}
    missing = [arch for arch in config.archs if arch not in searches and arch not in failures]
    if not config.search.wanted or not missing:
        return made, failures
    for arch, outcome in search(workflow, missing).items():
        if isinstance(outcome, TrainingError):
            failures[arch] = str(outcome)
            workflow.observer.failed(arch, outcome)
        else:
            made[arch] = outcome
    return made, failures


def _finished_searches(ledger: Ledger) -> dict[Arch, Searched]:
    if not ledger.config.search.wanted:
        return {}
    on_record = {arch: ledger.finished_search(arch) for arch in ledger.config.archs}
    return {arch: search for arch, search in on_record.items() if search}


def _finished_models(
    ledger: Ledger, searches: Mapping[Arch, Searched], archs: Iterable[Arch]
) -> dict[Arch, TrainedModel]:
    """The models on record, of those architectures whose search is made or not asked for."""
    config = ledger.config
    on_record = {
        arch: ledger.finished_model(
            arch, ledger.seeds(spec_with(ledger.prepared, arch, _settings(searches, arch)))
        )
        for arch in archs
        if arch in searches or not config.search.wanted
    }
    return {arch: model for arch, model in on_record.items() if model}


def _settings(searches: Mapping[Arch, Searched], arch: Arch) -> Mapping[str, Any]:
    return searches[arch].best.settings if arch in searches else {}


def _remove_work(ledger: Ledger, finished: Run) -> None:
    """Remove the checkpoints that nobody will go on from, this workflow's among them.

    Those of running workflows stay, and of interrupted ones with other settings or data; and all that this
    record knows nothing of: it belongs to another record of the same storage, or to a person.
    """
    key = ledger.workflow_key
    for folder in (Path(ledger.config.storage) / "work").iterdir():
        record = find_run(ledger.tracking, folder.name)
        if record is None:
            continue
        over = record.status == "FINISHED" or record.tags.get(KEY) == key
        if folder.name == finished.id or (over and not is_alive(record)):
            shutil.rmtree(folder, ignore_errors=True)
