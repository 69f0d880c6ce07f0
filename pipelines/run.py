"""The workflow: prepare; then for each architecture search, fit, evaluate, register; then compare.

What is on record is not done again, and what was interrupted goes on (pipelines/ledger.py).
"""

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

from imgrec.config import Arch, Config
from imgrec.data.scan import LocalDecoding
from imgrec.distributed.address import cluster_address
from imgrec.distributed.fit import refuse_batches_below
from imgrec.distributed.nodes import list_nodes, refuse_unshared
from imgrec.distributed.session import Session, ray_session
from imgrec.distributed.spread import ClusterDecoding
from imgrec.errors import TrainingError
from imgrec.search.study import default_settings
from imgrec.tracking.connection import connect, refuse_local_record
from imgrec.tracking.liveness import close_dead_runs, is_alive
from imgrec.tracking.query import find_run
from imgrec.tracking.runs import Run
from imgrec.tracking.tags import KEY
from pipelines.cli.pages.live import Display
from pipelines.costs.memory import MemoryWatch
from pipelines.costs.timing import in_detail
from pipelines.prepare import prepare
from pipelines.record.entries import record_inputs
from pipelines.record.ledger import Ledger
from pipelines.results import Searched, Summary, TrainedModel
from pipelines.search import search, spec_with
from pipelines.train import train


def run(
    config: Config,
    display: Display,
    log_file: Path,
    *,
    fresh: bool = False,
    command: str = "",
    profile: bool = False,
) -> Summary:
    """Settings to registered models.

    Args:
        config: Everything.
        display: Told how it goes.
        log_file: For the logs of workers.
        fresh: Take nothing from the record.
        command: What the user typed, for whoever wants to go on with it.
        profile: Trace some training steps of each architecture.

    Raises:
        ImgrecError: before anything is started, where settings, data or services are wrong.
    """
    started = time.perf_counter()
    with ExitStack() as stack:
        session = _starter(config, display, log_file, stack)
        watch = stack.enter_context(MemoryWatch())
        return _run(
            config, session, display, started, watch, fresh=fresh, command=command, profile=profile
        )


def _run(
    config: Config,
    session: Callable[[], Session],
    display: Display,
    started: float,
    watch: MemoryWatch,
    *,
    fresh: bool,
    command: str,
    profile: bool,
) -> Summary:
    ledger = _open(config, session, display, fresh=fresh)
    last = ledger.last_workflow("workflow")
    if last and last.status == "FINISHED":
        searches = _finished_searches(ledger)
        models = _finished_models(ledger, searches)
        if len(models) == len(config.archs):
            display.taken(searches, models)
            return _summary(ledger, last.id, searches, models, {}, display, started, watch)
    with ledger.workflow("workflow", command) as workflow:
        record_inputs(workflow, config, ledger.prepared)
        work = _working_folder(config, workflow)
        searches, failures = _search(ledger, workflow, session, work, display)
        models = _finished_models(ledger, searches)
        display.taken({}, models)
        specs = {
            arch: spec_with(config, ledger.prepared, arch, _settings(searches, arch))
            for arch in config.archs
            if arch not in models and arch not in failures
        }
        outcomes = train(ledger, workflow, session, work, display, specs, profile=profile)
        for arch, outcome in outcomes.items():
            if isinstance(outcome, TrainingError):
                failures[arch] = str(outcome)
            else:
                models[arch] = outcome
        summary = _summary(ledger, workflow.id, searches, models, failures, display, started, watch)
        workflow.log_metrics(summary.cost() | {"models": len(summary.models)})
        workflow.log_table(*summary.leaderboard(), "leaderboard.json")
        if failures:
            workflow.end("FAILED")
        _remove_work(ledger, workflow)
    return summary


def tune(
    config: Config, display: Display, log_file: Path, *, fresh: bool = False, command: str = ""
) -> Summary:
    """Settings to better settings, and no further; a later run takes the searches from the record."""
    started = time.perf_counter()
    with ExitStack() as stack:
        session = _starter(config, display, log_file, stack)
        watch = stack.enter_context(MemoryWatch())
        ledger = _open(config, session, display, fresh=fresh)
        with ledger.workflow("tune", command) as workflow:
            record_inputs(workflow, config, ledger.prepared)
            work = _working_folder(config, workflow)
            searches, failures = _search(ledger, workflow, session, work, display)
            summary = _summary(ledger, workflow.id, searches, {}, failures, display, started, watch)
            workflow.log_metrics(summary.cost())
            if failures:
                workflow.end("FAILED")
    return summary


def _starter(
    config: Config, display: Display, log_file: Path, stack: ExitStack
) -> Callable[[], Session]:
    """Brings Ray up at the first call; it goes down with the stack."""

    @cache
    def session() -> Session:
        display.stage("ray")
        nested = config.search.wanted and config.search.workers_per_trial > 1
        return stack.enter_context(ray_session(config.cluster, log_file, dashboard=nested))

    return session


def _open(
    config: Config, session: Callable[[], Session], display: Display, *, fresh: bool
) -> Ledger:
    places = None
    if cluster_address(config.cluster) and len(session().nodes) > 1:
        # Before anything is spent: what only one machine sees would be lost, or fail later.
        refuse_local_record(config.tracking, Path(config.storage))
        refuse_unshared(Path(config.storage))
        places = ClusterDecoding(list_nodes(), LocalDecoding(config.data.decode_workers))
    display.stage("tracking")
    tracking = connect(config.tracking, Path(config.storage), create=True)
    if tracking.note:
        display.note(tracking.note)
    close_dead_runs(tracking)
    display.stage("data")
    prepared = prepare(config, display.progress, places)
    display.prepared(prepared)
    refuse_batches_below(config.cluster.most_workers, prepared.specs.values())
    if config.search.wanted:
        refuse_batches_below(config.search.workers_per_trial, prepared.specs.values())
        for branch in config.branches:
            default_settings(branch, prepared.specs[branch.arch])
    return Ledger(tracking, config, prepared, fresh=fresh)


def _working_folder(config: Config, workflow: Run) -> Path:
    """For checkpoints, beside those of other workflows, from which this one may go on."""
    folder = Path(config.storage) / "work" / workflow.id
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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


def _search(
    ledger: Ledger, workflow: Run, session: Callable[[], Session], work: Path, display: Display
) -> tuple[dict[Arch, Searched], dict[Arch, str]]:
    """The searches, made or taken from the record, and why others came to nothing."""
    searches, failures = _finished_searches(ledger), dict[Arch, str]()
    display.taken(searches, {})
    missing = [arch for arch in ledger.config.archs if arch not in searches]
    if not ledger.config.search.wanted or not missing:
        return searches, failures
    for arch, outcome in search(ledger, workflow, session(), work, display, missing).items():
        if isinstance(outcome, TrainingError):
            failures[arch] = str(outcome)
            display.failed(arch, outcome)
        else:
            searches[arch] = outcome
    return searches, failures


def _finished_searches(ledger: Ledger) -> dict[Arch, Searched]:
    if not ledger.config.search.wanted:
        return {}
    found = {arch: ledger.finished_search(arch) for arch in ledger.config.archs}
    return {arch: one for arch, one in found.items() if one}


def _finished_models(ledger: Ledger, searches: Mapping[Arch, Searched]) -> dict[Arch, TrainedModel]:
    """The models on record, of architectures whose search is made or not asked for."""
    config = ledger.config
    known = [arch for arch in config.archs if arch in searches or not config.search.wanted]
    found = {
        arch: ledger.finished_model(
            arch, spec_with(config, ledger.prepared, arch, _settings(searches, arch))
        )
        for arch in known
    }
    return {arch: model for arch, model in found.items() if model}


def _settings(searches: Mapping[Arch, Searched], arch: Arch) -> Mapping[str, Any]:
    return searches[arch].best.settings if arch in searches else {}


def _summary(
    ledger: Ledger,
    run_id: str,
    searches: Mapping[Arch, Searched],
    models: Mapping[Arch, TrainedModel],
    failures: Mapping[Arch, str],
    display: Display,
    started: float,
    watch: MemoryWatch,
) -> Summary:
    return Summary(
        name=ledger.config.name,
        tracking_uri=ledger.tracking.uri,
        run_id=run_id,
        store=ledger.prepared.store,
        splits=ledger.prepared.splits,
        searches=dict(searches),
        models=sorted(models.values(), key=lambda model: -model.test.macro_f1),
        failures=dict(failures),
        seconds=time.perf_counter() - started,
        times=in_detail(
            display.stages.seconds(), [model.spent for model in models.values() if not model.taken]
        ),
        memory=watch.most(),
    )
