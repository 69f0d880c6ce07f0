"""What the stages of a run share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from imgrec.config import Config
from imgrec.distributed.demand import Demand, plan_demand
from imgrec.distributed.fit import Fitted, load_fitted
from imgrec.distributed.lanes import share_cores
from imgrec.distributed.local import memory_for_more
from imgrec.distributed.session import Session
from imgrec.tracking.runs import Run
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
        """What a fit holds of the cluster, if it is the only one.

        Raises:
            ClusterError: it can never give so much.
        """
        return plan_demand(self.session().nodes, self.config.cluster)

    def demand_of(self, specs: Sequence[FitSpec]) -> Demand:
        """What each of several fits holds: where small networks share the cores of this machine, some of them.

        Args:
            specs: All of them, also those that are trained already: whoever goes on with the run decides the same.
        """
        demand, cluster = self.demand, self.config.cluster
        is_alone = self.session().is_local and demand.is_one and not demand.use_gpu
        # What a time leaves room for is measured on all cores.
        has_budget = self.prepared.paces or any(b.train.budget for b in self.config.branches)
        if not is_alone or cluster.cpus_per_worker or has_budget:
            return demand
        return share_cores(demand, specs, memory_for_more())

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
