"""What the stages of a run share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from imgrec.config import Config
from imgrec.distributed.demand import Demand, plan_demand
from imgrec.distributed.fit import Fitted, load_fitted
from imgrec.distributed.lanes import share_cores
from imgrec.distributed.local import workers_in_memory
from imgrec.distributed.session import Session
from imgrec.tracking.runs import Run
from imgrec.tracking.tags import CORES
from imgrec.training.checkpoint import latest_state
from imgrec.training.spec import FitSpec
from pipelines.costs.timing import StageClock
from pipelines.observer import Observer
from pipelines.prepare import Prepared
from pipelines.record.ledger import Ledger


@dataclass(frozen=True)
class Workflow:
    """A run that is going on.

    Attributes:
        ledger: What the record has of these settings and data.
        run: The run of the whole, above those of searches and models.
        session: Ray, once it is up.
        let_ray_go: Nothing needs it any more, so it goes down while the driver goes on.
        work: Folder for checkpoints, seen by every node; those of other runs lie beside it.
        observer: Told what happens.
        clock: Of this run.
        command: What the user typed.
    """

    ledger: Ledger
    run: Run
    session: Callable[[], Session]
    let_ray_go: Callable[[], None]
    work: Path
    observer: Observer
    clock: StageClock
    command: str = ""

    @property
    def config(self) -> Config:
        """The settings."""
        return self.ledger.config

    @property
    def prepared(self) -> Prepared:
        """The data."""
        return self.ledger.prepared

    @cached_property
    def demand(self) -> Demand:
        """What the fits hold of the cluster: the same for whoever goes on with the run, whatever is left to do.

        Raises:
            ClusterError: it can never give so much.
        """
        session, cluster = self.session(), self.config.cluster
        demand = plan_demand(session.nodes, cluster)
        is_alone = session.is_local and demand.is_one and not demand.use_gpu
        # What a time leaves room for was measured on all cores.
        if is_alone and not (cluster.cpus_per_worker or self.prepared.paces):
            specs = [
                spec for spec in self.prepared.specs.values() for _ in range(self.config.seeds)
            ]
            demand = share_cores(demand, specs, workers_in_memory())
        self.run.set_tags({CORES: demand.cpus})
        return demand

    def left_of(self, spec: FitSpec) -> Fitted | Path | None:
        """What an interrupted run, or a trial, has left of a fit: all of it, a checkpoint, or nothing."""
        folder = latest_state(self.work if self.ledger.fresh else self.work.parent, spec.key)
        if folder is None:
            return None
        fitted = load_fitted(folder)
        return fitted if fitted.ended or len(fitted.history) == spec.train.epochs else folder

    def begin(self, stage: str) -> None:
        """A stage begins, for the clock and for whoever watches."""
        self.clock.enter(stage)
        self.observer.stage(stage)
