"""The hooks of Ray Tune: what to try next, what to stop, and what to tell the driver."""

from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from imgrec.config import ClusterConfig, SearchConfig
from imgrec.distributed.demand import TrialDemand
from imgrec.distributed.session import Session
from imgrec.distributed.share import Share, Shares
from imgrec.distributed.trial import run_trial, run_trial_on_workers
from imgrec.search.study import DEFAULTS

# Held by a trial that starts workers of its own, and computes nothing itself: something that every
# cluster has, and not the cores that its workers wait for.
HEAD_NODE = "node:__internal_head__"


class FairSearcher(Searcher):  # type: ignore[misc]
    """Takes the next trial from the search that has used least of its share."""

    def __init__(self, shares: Shares, *, by_time: bool) -> None:
        super().__init__()
        self._shares = shares
        self._by_time = by_time

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial of the search that has had the least; Tune asks."""
        while waiting := [share for share in self._shares.values() if share.wants_more]:
            share = min(waiting, key=lambda share: share.used if self._by_time else share.asked)
            if suggestion := share.ask(trial_id):
                return suggestion
        # What runs may still be given back by a process that dies.
        running = any(share.trials for share in self._shares.values())
        return None if running else Searcher.FINISHED

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing: `TunerCallback` is told too, and of more."""


class HalvingScheduler(FIFOScheduler):  # type: ignore[misc]
    """One ASHA for each search: scores and epochs of different searches do not compare.

    ASHA: Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning". The defaults are
    never stopped, so that the best trial was compared with all of their epochs.
    """

    def __init__(self, shares: Shares) -> None:
        super().__init__()
        self._shares = shares

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Its own search's ASHA hears of it."""
        self._share(trial).halving.on_trial_add(tune_controller, trial)

    def on_trial_result(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        """Whether the trial goes on, stops, or all of them do."""
        share = self._share(trial)
        action = share.halving.on_trial_result(tune_controller, trial, result)
        if share.trials[trial.trial_id].number == DEFAULTS:
            return TrialScheduler.CONTINUE
        return TrialScheduler.STOP if share.is_over else action

    def on_trial_complete(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> None:
        """Nothing: a trial's last result has been heard as a result."""

    def _share(self, trial: TuneTrial) -> Share:
        return self._shares[trial.config["search"]]


class TunerCallback(tune.Callback):  # type: ignore[misc]
    """Told of every trial, in the Tuner's thread."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares

    def on_trial_start(self, *, trial: TuneTrial, **_: Any) -> None:
        """A process has taken it up."""
        self._share(trial).begins(trial.trial_id)

    def on_trial_result(self, *, trial: TuneTrial, result: dict[str, Any], **_: Any) -> None:
        """An epoch is over, or it reports what keeps it from going on."""
        self._share(trial).result(trial.trial_id, result)

    def on_trial_complete(self, *, trial: TuneTrial, **_: Any) -> None:
        """It has ended, or was stopped."""
        self._share(trial).end(trial.trial_id)

    def on_trial_error(self, *, trial: TuneTrial, **_: Any) -> None:
        """Ray has given it up."""
        self._share(trial).died(trial.trial_id)

    def _share(self, trial: TuneTrial) -> Share:
        return self._shares[trial.config["search"]]


def build_tuner(
    shares: Shares,
    config: SearchConfig,
    demand: TrialDemand,
    cluster: ClusterConfig,
    session: Session,
    storage: Path,
) -> tune.Tuner:
    """One Tuner for all searches, which goes on until none of them wants another trial.

    Args:
        shares: The searches, by name.
        config: How long, and with what.
        demand: What a trial holds, and how many run at a time.
        cluster: How often a trial's process may die.
        session: A Ray that is up.
        storage: Folder for what Tune writes.
    """
    if demand.workers == 1:
        holds = {"CPU": demand.cpus} | ({"GPU": demand.gpus} if demand.gpus else {})
        trainable = tune.with_parameters(
            run_trial,
            threads=demand.cpus,
            gpus=demand.gpus,
            checkpoint_seconds=cluster.checkpoint_seconds,
        )
    else:
        holds = {HEAD_NODE: 0.001}
        trainable = tune.with_parameters(
            run_trial_on_workers, demand=demand, cluster=cluster, mailbox=session.mailbox
        )
    return tune.Tuner(
        tune.with_resources(trainable, holds),
        tune_config=tune.TuneConfig(
            search_alg=FairSearcher(shares, by_time=bool(config.budget)),
            scheduler=HalvingScheduler(shares),
            num_samples=-1,  # until the searcher has no more
            max_concurrent_trials=demand.room,
            # A trial of a small model is shorter than the start of its process. One that starts
            # workers must end with its process, or they would go on when it is stopped.
            reuse_actors=demand.workers == 1,
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=str(storage),
            verbose=0,
            callbacks=[TunerCallback(shares)],
            failure_config=tune.FailureConfig(max_failures=cluster.max_failures),
        ),
    )
