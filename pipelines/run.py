"""The workflow: prepare; then for each architecture search, fit, evaluate, register.

What is on record is not done again, and what was interrupted goes on (pipelines/record/ledger.py).
"""

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from imgrec.config import Arch, Config
from imgrec.data.scan import LocalDecoding
from imgrec.distributed.address import cluster_address
from imgrec.distributed.alone import prepare_worker
from imgrec.distributed.fit import refuse_batches_below
from imgrec.distributed.local import LocalRay
from imgrec.distributed.nodes import list_nodes, refuse_unshared
from imgrec.distributed.session import Session, ray_session
from imgrec.distributed.spread import ClusterDecoding
from imgrec.errors import ClusterError, TrainingError
from imgrec.evaluation.comparison import Comparison
from imgrec.search.study import default_settings
from imgrec.tracking.connection import connect, refuse_local_record
from imgrec.tracking.liveness import close_dead_runs, is_alive
from imgrec.tracking.query import find_run
from imgrec.tracking.runs import Run
from imgrec.tracking.tags import KEY
from pipelines.compare import compare_models, recorded_comparison
from pipelines.costs.memory import MemoryWatch
from pipelines.costs.timing import StageClock, in_detail
from pipelines.observer import Observer
from pipelines.pace import at_pace
from pipelines.prepare import Prepared, prepare
from pipelines.record.entries import record_comparison, record_inputs, record_report
from pipelines.record.ledger import Begun, Ledger, last_begun
from pipelines.report import make_report
from pipelines.results import Summary, TrainedModel
from pipelines.search import search
from pipelines.search_specs import spec_with
from pipelines.searched import Searched
from pipelines.train import train
from pipelines.workflow import Workflow


def run(
    config: Config,
    observer: Observer,
    log_file: Path,
    local: LocalRay | None,
    *,
    fresh: bool = False,
    command: str = "",
    profile: bool = False,
) -> Summary:
    """Settings to registered models.

    Args:
        config: Everything.
        observer: Told how it goes.
        log_file: For the logs of workers.
        local: From `start_local`: the Ray of this machine. It goes down with the run.
        fresh: Take nothing from the record.
        command: What the user typed, for whoever wants to go on with it.
        profile: Trace some training steps of each architecture.

    Raises:
        ImgrecError: before anything is started, where settings, data or services are wrong.
    """
    with _Start(config, observer, log_file, local, fresh=fresh) as start:
        ledger = start.ledger
        searches = _finished_searches(ledger)
        models = _finished_models(ledger, searches, config.archs)
        last = ledger.last_workflow("workflow")
        if last and last.status == "FINISHED" and len(models) == len(config.archs):
            observer.taken(searches, models)
            ranked = _ranked(config, models)
            comparison = recorded_comparison(ledger.tracking, last.id)
            comparison = comparison or compare_models(ledger.tracking, ranked)
            return start.summary(last.id, searches, models, {}, comparison)
        with start.workflow("workflow", command) as workflow:
            observer.taken(searches, models)
            made, failures = _search_missing(workflow, searches)
            searches |= made
            models |= _finished_models(ledger, searches, made)
            observer.taken({}, {arch: models[arch] for arch in made if arch in models})
            specs = {
                arch: ledger.seeds(spec_with(ledger.prepared, arch, _settings(searches, arch)))
                for arch in _pretrained_first(ledger.prepared)
                if arch not in models and arch not in failures
            }
            for arch, outcome in train(workflow, specs, searches, profile=profile).items():
                if isinstance(outcome, TrainingError):
                    failures[arch] = str(outcome)
                else:
                    models[arch] = outcome
            comparison = _compare(workflow, models, searches)
            summary = start.summary(workflow.run.id, searches, models, failures, comparison)
            workflow.run.log_metrics(summary.cost() | {"models": len(summary.models)})
            workflow.run.log_table(*summary.leaderboard(), "leaderboard.json")
            if failures:
                workflow.run.end("FAILED")
            _remove_work(ledger, workflow.run)
    return summary


def tune(
    config: Config,
    observer: Observer,
    log_file: Path,
    local: LocalRay | None,
    *,
    fresh: bool = False,
    command: str = "",
) -> Summary:
    """Settings to better settings, and no further; a later run takes the searches from the record."""
    with _Start(config, observer, log_file, local, fresh=fresh) as start:
        searches = _finished_searches(start.ledger)
        with start.workflow("tune", command) as workflow:
            observer.taken(searches, {})
            made, failures = _search_missing(workflow, searches)
            summary = start.summary(workflow.run.id, searches | made, {}, failures)
            workflow.run.log_metrics(summary.cost())
            if failures:
                workflow.run.end("FAILED")
    return summary


class _Start(ExitStack):
    """What is up before a workflow begins: the record, the data and, once somebody asks for it, Ray."""

    def __init__(
        self,
        config: Config,
        observer: Observer,
        log_file: Path,
        local: LocalRay | None,
        *,
        fresh: bool,
    ) -> None:
        super().__init__()
        self._config = config
        self._observer = observer
        self._log_file = log_file
        self._began = time.perf_counter()
        self._clock = StageClock()
        self._session: Session | None = None
        self._is_asked_for = False
        self._local = local
        self.callback(self._end_local)
        self._ray = self.enter_context(ExitStack())
        self._memory = self.enter_context(closing(MemoryWatch()))
        try:
            self.ledger = self._open(fresh=fresh)
        except BaseException:
            self.close()
            raise

    def session(self) -> Session:
        """Ray, once it is up; it goes down with the run."""
        self._is_asked_for = True
        if self._session is None:
            self._begin("ray")
        return self._joined()

    def _joined(self) -> Session:
        if self._session is None:
            if self._local:
                self._ray.callback(self._local.end)
            self._session = self._ray.enter_context(
                ray_session(self._config.cluster, self._log_file, local=self._local)
            )
            if not self._config.search.wanted:
                prepare_worker(self._session, self._config.cluster)
        return self._session

    def _join_early(self) -> None:
        """Where Ray is up, let a worker come up beside what is done here; what is wrong is said when it is asked for."""
        if self._local and self._local.is_up():
            with suppress(ClusterError):
                self._joined()

    def _progress(self, what: str, done: int, total: int) -> None:
        self._join_early()
        self._observer.progress(what, done, total)

    def _end_local(self) -> None:
        # What nobody has asked for goes down by itself: an error, or what is on record, need not wait for that.
        if self._local:
            self._local.end()
            if self._is_asked_for:
                self._local.wait()

    @contextmanager
    def workflow(self, kind: str, command: str) -> Iterator[Workflow]:
        """A run on record, with a folder for checkpoints."""
        config, ledger = self._config, self.ledger
        with ledger.workflow(kind, command) as run:
            record_inputs(run, config, ledger.prepared)
            work = Path(config.storage) / "work" / run.id
            work.mkdir(parents=True, exist_ok=True)
            yield Workflow(
                ledger,
                run,
                self.session,
                self._ray.close,
                work,
                self._observer,
                self._clock,
                command,
            )

    def summary(
        self,
        run_id: str,
        searches: Mapping[Arch, Searched],
        models: Mapping[Arch, TrainedModel],
        failures: Mapping[Arch, str],
        comparison: Comparison | None = None,
    ) -> Summary:
        """What it came to, until now."""
        trained = [model.spent for model in models.values() if not model.taken]
        return Summary(
            name=self._config.name,
            tracking_uri=self.ledger.tracking.uri,
            run_id=run_id,
            store=self.ledger.prepared.store,
            splits=self.ledger.prepared.splits,
            searches=dict(searches),
            models=_ranked(self._config, models),
            comparison=comparison,
            failures=dict(failures),
            seconds=time.perf_counter() - self._began,
            times=in_detail(self._clock.seconds(), trained),
            memory=self._memory.most(),
        )

    def _begin(self, stage: str) -> None:
        self._clock.enter(stage)
        self._observer.stage(stage)

    def _open(self, *, fresh: bool) -> Ledger:
        config, backend = self._config, None
        if cluster_address(config.cluster) and len(self.session().nodes) > 1:
            # Before anything is spent: what only one machine sees would be lost, or fail later.
            refuse_local_record(config.tracking, Path(config.storage))
            refuse_unshared(Path(config.storage))
            backend = ClusterDecoding(list_nodes(), LocalDecoding(config.data.decode_workers))
        self._begin("tracking")
        tracking = connect(config.tracking, Path(config.storage), create=True)
        self._join_early()
        if tracking.note:
            self._observer.note(tracking.note)
        close_dead_runs(tracking)
        self._begin("data")
        begun = Begun() if fresh else last_begun(tracking, config)
        # Of this machine torch is asked, whether or not its Ray is up by now.
        nodes = self._session.nodes if self._session and not self._local else None
        on_gpu = None if nodes is None else any(node.gpus for node in nodes)
        decode = partial(
            prepare,
            config,
            self._progress,
            backend,
            tracking=tracking,
            on_gpu=on_gpu,
        )
        prepared = decode(decided=begun.networks)
        if not begun.holds_for(prepared):
            prepared = decode()
        self._observer.prepared(prepared)
        specs = prepared.specs.values()
        refuse_batches_below(config.cluster.most_workers, specs)
        if config.search.wanted:
            refuse_batches_below(config.search.workers_per_trial, specs)
            for branch in prepared.config.branches:
                default_settings(branch, prepared.specs[branch.arch])
        settled = at_pace(prepared, begun.paces_for(prepared), self._to_be_measured)
        for note in settled.notes[len(prepared.notes) :]:
            self._observer.note(note)
        self._observer.settled(settled.specs)
        return Ledger(tracking, settled, fresh=fresh)

    def _to_be_measured(self) -> Session:
        session = self.session()
        self._begin("pace")
        return session


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
    workflow: Workflow, searches: Mapping[Arch, Searched]
) -> tuple[dict[Arch, Searched], dict[Arch, str]]:
    """The searches that the record does not have, and why others came to nothing."""
    config, made, failures = workflow.config, dict[Arch, Searched](), dict[Arch, str]()
    missing = [arch for arch in config.archs if arch not in searches]
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
