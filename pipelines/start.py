"""What comes before a run: the record, the data, and a Ray that comes up beside them.

It imports neither Ray Train nor what draws: that takes a second of a core, which Ray is in need of just then. The
stages (pipelines/run.py) are imported when this is done.
"""

import time
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path

from imgrec.config import Config
from imgrec.data.scan import LocalDecoding
from imgrec.distributed.address import cluster_address
from imgrec.distributed.demand import refuse_batches_below
from imgrec.distributed.local import LocalRay
from imgrec.distributed.nodes import list_nodes, refuse_unshared
from imgrec.distributed.session import Session, ray_session
from imgrec.distributed.spread import ClusterDecoding
from imgrec.errors import ClusterError
from imgrec.search.study import default_settings
from imgrec.tracking.connection import connect, refuse_local_record
from imgrec.tracking.liveness import close_dead_runs
from pipelines.costs.memory import MemoryWatch
from pipelines.costs.timing import StageClock
from pipelines.observer import Observer
from pipelines.pace import at_pace
from pipelines.prepare import prepare
from pipelines.record.ledger import Begun, Ledger, last_begun


class Start(ExitStack):
    """What is up before a workflow begins: the record, the data and, once somebody asks for it, Ray.

    Attributes:
        config: Everything.
        observer: Told how it goes.
        clock: Of the run.
        ledger: The record, and the data.
        failures: Why architectures cannot be trained: nobody could measure what their time leaves room for.
        began: By `time.monotonic`.
        memory: What all processes hold.
    """

    def __init__(
        self,
        config: Config,
        observer: Observer,
        log_file: Path,
        local: LocalRay | None,
        *,
        fresh: bool = False,
        began: float | None = None,
    ) -> None:
        """Look at settings, record and data.

        Args:
            config: Everything.
            observer: Told how it goes.
            log_file: For the logs of workers.
            local: From `start_local`: the Ray of this machine. It goes down with this.
            fresh: Take nothing from the record.
            began: When the command did; now, if nothing is said.

        Raises:
            ImgrecError: settings, data or services are wrong.
        """
        super().__init__()
        self.config = config
        self.observer = observer
        self._log_file = log_file
        self.began = time.monotonic() if began is None else began
        self.clock = StageClock(self.began)
        self._session: Session | None = None
        self._is_asked_for = False
        self._local = local
        self.callback(self._end_local)
        self._ray = self.enter_context(ExitStack())
        self.memory = self.enter_context(closing(MemoryWatch()))
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

    def let_ray_go(self) -> None:
        """Nothing needs Ray any more, so it goes down while this process goes on."""
        self._ray.close()

    def _joined(self) -> Session:
        if self._session is None:
            if self._local:
                self._ray.callback(self._local.end)
            self._session = self._ray.enter_context(
                ray_session(self.config.cluster, self._log_file, local=self._local)
            )
        return self._session

    def _join_early(self) -> None:
        """Where Ray is up, let a worker come up beside what is done here; what is wrong is said when it is asked for."""
        if self._local and self._local.is_up():
            with suppress(ClusterError):
                self._joined()

    def _progress(self, what: str, done: int, total: int) -> None:
        self._join_early()
        self.observer.progress(what, done, total)

    def _end_local(self) -> None:
        # What nobody has asked for goes down by itself: an error, or what is on record, need not wait for that.
        if self._local:
            self._local.end()
            if self._is_asked_for:
                self._local.wait()

    def _begin(self, stage: str) -> None:
        self.clock.enter(stage)
        self.observer.stage(stage)

    def _open(self, *, fresh: bool) -> Ledger:
        config, backend = self.config, None
        if cluster_address(config.cluster) and len(self.session().nodes) > 1:
            # Before anything is spent: what only one machine sees would be lost, or fail later.
            refuse_local_record(config.tracking, Path(config.storage))
            refuse_unshared(Path(config.storage))
            backend = ClusterDecoding(list_nodes(), LocalDecoding(config.data.decode_workers))
        self._begin("tracking")
        tracking = connect(config.tracking, Path(config.storage), create=True)
        self._join_early()
        if tracking.note:
            self.observer.note(tracking.note)
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
        self.observer.prepared(prepared)
        specs = prepared.specs.values()
        refuse_batches_below(config.cluster.most_workers, specs)
        if config.search.wanted:
            refuse_batches_below(config.search.workers_per_trial, specs)
            for branch in prepared.config.branches:
                default_settings(branch, prepared.specs[branch.arch])
        settled, self.failures = at_pace(prepared, begun.paces_for(prepared), self._to_be_measured)
        for note in settled.notes[len(prepared.notes) :]:
            self.observer.note(note)
        self.observer.settled(settled.specs)
        for arch, error in self.failures.items():
            self.observer.failed(arch, error)
        return Ledger(tracking, settled, fresh=fresh)

    def _to_be_measured(self) -> Session:
        session = self.session()
        self._begin("pace")
        return session
