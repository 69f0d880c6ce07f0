"""Settings searched on a Ray cluster, through Ray Tune: several architectures in one Tuner.

One for all of them, because the processes that trials run in are then started once, because
Tuners side by side in one process disturb each other, and because a fair division of time and
places among architectures takes someone who sees them all.
"""

import math
import queue
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from imgrec.config import ClusterConfig, SearchConfig
from imgrec.distributed.demand import TrialDemand, plan_trials
from imgrec.distributed.events import EPOCH, METRICS, SCORE
from imgrec.distributed.session import Session
from imgrec.distributed.trial import (
    BUG,
    FAILURE,
    FULL,
    TrialErrand,
    run_trial,
    run_trial_on_workers,
)
from imgrec.errors import StorageError
from imgrec.search.study import DEFAULTS, Study, Trial
from imgrec.training.learner import FitJob
from imgrec.training.loop import JUDGED_BY

POLL_SECONDS = 0.1
# Held by a trial that starts workers of its own, and computes nothing itself: something that every
# cluster has, and not the cores that its workers wait for.
HEAD_NODE = "node:__internal_head__"


@dataclass(frozen=True, slots=True)
class TrialStarted:
    """A trial begins, or goes on after its process died."""

    number: int
    settings: dict[str, Any]
    job: FitJob


@dataclass(frozen=True, slots=True)
class TrialEpoch:
    """An epoch of a trial; every one once."""

    number: int
    epoch: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class TrialEnded:
    """A trial is over; `best` says whether none of its search was better so far."""

    trial: Trial
    best: bool


SearchEvent = TrialStarted | TrialEpoch | TrialEnded


@dataclass
class Search:
    """The search of one architecture.

    Attributes:
        study: What is tried, and what is known already.
        make_job: Settings to what is trained with them.
        folder: For checkpoints, seen by every node: one of each running trial and of the best.
    """

    study: Study
    make_job: Callable[[Mapping[str, Any]], FitJob]
    folder: Path

    def checkpoints(self, number: int) -> Path:
        """Where a trial keeps its own."""
        return self.folder / f"trial-{number}"


def search_on_workers(
    session: Session,
    searches: Mapping[str, Search],
    search: SearchConfig,
    cluster: ClusterConfig,
    *,
    among: int,
    storage: Path,
    on_event: Callable[[str, SearchEvent], None],
) -> None:
    """Run the trials of several searches, until each has had its share; the studies then know them.

    A trial whose process dies goes on from its last checkpoint. Each search gets the same number of
    trials, or the same time: whichever it has used least of comes next.

    Args:
        session: A Ray that is up.
        searches: By name.
        search: How long, and with what.
        cluster: How often a trial's process may die; whether to use GPUs.
        among: How many searches share the budget of time: these, and those that had theirs before.
        storage: Folder for what Tune writes, this call's own.
        on_event: Told in this thread how each trial goes.

    Raises:
        ClusterError: the cluster can never give what is asked for; nothing was started.
        StorageError: there is no room for a checkpoint; a later call goes on.
    """
    demand = plan_trials(session.nodes, search, cluster)
    told: queue.SimpleQueue[tuple[str, SearchEvent]] = queue.SimpleQueue()
    shares = _Shares()
    clock = _Clock(shares)
    for name, one in searches.items():
        shares[name] = _Share(name, one, search, clock, among, cluster.max_failures, told.put)
    tuner = _tuner(shares, search, demand, cluster, session, storage)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            tuner.fit()
        except BaseException as error:
            failed.append(error)

    thread = session.beside(run, "tuner")
    while thread.is_alive() or not told.empty():
        try:
            on_event(*told.get(timeout=POLL_SECONDS))
        except queue.Empty:
            continue
    if failed:
        ends = (share.end_of_all for share in shares.values())
        raise next((end for end in ends if end), failed[0])


class _Share:
    """One search's part of the Tuner: what it has used, and what it may still use."""

    def __init__(
        self,
        name: str,
        search: Search,
        config: SearchConfig,
        clock: "_Clock",
        among: int,
        max_failures: int,
        tell: Callable[[tuple[str, SearchEvent]], None],
    ) -> None:
        self.name = name
        self.search = search
        self.study = search.study
        self.trials: dict[str, _Running] = {}  # by Tune's trial id
        self.end_of_all: StorageError | RuntimeError | None = None
        self._tell = tell
        self._max_failures = max_failures
        self._given_back: Counter[int] = Counter()
        self._given_back_seconds = 0.0
        self._session = uuid.uuid4().hex
        self._clock = clock
        self._most_trials = config.trials or math.inf
        self._most_seconds = config.budget / among if config.budget else math.inf
        self._exhausted = False
        job = search.make_job({})
        epochs = job.train.epochs
        self.halving = ASHAScheduler(
            time_attr=EPOCH,
            metric=SCORE,
            mode="max",
            max_t=epochs,
            grace_period=min(epochs, config.min_epochs or max(1, epochs // 4)),
            reduction_factor=config.reduction,
        )
        (bracket,) = self.halving._brackets  # noqa: SLF001 - to tell it of what came before
        self.milestones = frozenset(int(milestone) for milestone, _ in bracket._rungs)  # noqa: SLF001
        for trial in self.study.trials.values():
            for epoch, score in sorted(trial.scores.items()):
                bracket.on_result(SimpleNamespace(trial_id=f"earlier-{trial.number}"), epoch, score)

    @property
    def used(self) -> float:
        """Seconds of the search's time; while trials run side by side, each has its part of a second."""
        self._clock.advance()
        ended = sum(trial.used for trial in self.study.trials.values())
        running = sum(trial.used for trial in self.trials.values())
        return ended + running + self._given_back_seconds

    @property
    def asked(self) -> int:
        """Trials that have ended or are running."""
        return len(self.study.trials) + len(self.trials)

    @property
    def is_over(self) -> bool:
        """Whether its time is up."""
        return self.used >= self._most_seconds

    @property
    def wants_more(self) -> bool:
        """Whether another trial is to be started."""
        return not self._exhausted and self.asked < self._most_trials and not self.is_over

    def ask(self, trial_id: str) -> dict[str, Any] | None:
        """What Tune is to run next."""
        asked = self.study.ask()
        if asked is None:
            self._exhausted = True
            return None
        number, settings = asked
        job = self.search.make_job(settings)
        self._clock.advance()
        self.trials[trial_id] = _Running(number, settings, job)
        errand = TrialErrand(
            name=f"{self.name}-{number}",
            job=job,
            folder=self.search.checkpoints(number),
            milestones=self.milestones,
            session=self._session,
        )
        return {"search": self.name, "errand": errand}

    def begins(self, trial_id: str) -> None:
        """A process has taken the trial up."""
        trial = self.trials[trial_id]
        trial.began = True
        self._tell((self.name, TrialStarted(trial.number, trial.settings, trial.job)))

    def result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """An epoch is over, or the trial has failed."""
        trial = self.trials[trial_id]
        if FULL in result:
            self.end_of_all = StorageError(result[FULL])
        elif BUG in result:
            self.end_of_all = RuntimeError(f"trial {trial.number} of {self.name}:\n{result[BUG]}")
        if self.end_of_all:
            raise self.end_of_all  # Ray makes a TuneError with a traceback of it
        if FAILURE in result:
            trial.failure = result[FAILURE]
        elif (epoch := result.get(EPOCH)) and epoch not in trial.scores:
            trial.scores[epoch] = result[SCORE]
            trial.sides[epoch] = result[METRICS][JUDGED_BY]
            self._tell((self.name, TrialEpoch(trial.number, epoch, result[METRICS])))

    def died(self, trial_id: str) -> None:
        """Ray has given the trial up. One whose process died before it began it never retries."""
        trial = self.trials[trial_id]
        if not trial.began and self._given_back[trial.number] < self._max_failures:
            self._given_back[trial.number] += 1
            self._clock.advance()
            del self.trials[trial_id]
            self._given_back_seconds += trial.used
            self.study.give_back(trial.number)
            return
        if not trial.began:
            self.begins(trial_id)
        self.end(trial_id, f"its process died more than {self._max_failures} times")

    def end(self, trial_id: str, failure: str = "") -> None:
        """The trial is over, whether by itself or by our will."""
        self._clock.advance()
        running = self.trials.pop(trial_id)
        failure = failure or running.failure
        finished = len(running.scores) == running.job.train.epochs
        trial = Trial(
            number=running.number,
            settings=running.settings,
            scores=running.scores,
            state="failed" if failure else "finished" if finished else "stopped",
            seconds=time.monotonic() - running.started,
            reason=failure,
            sides=running.sides,
            used=running.used,
        )
        self.study.tell(trial)
        self._remove_losers()
        self._tell((self.name, TrialEnded(trial, best=self.study.best is trial)))

    def _remove_losers(self) -> None:
        """Of the checkpoints only those of trials that run or will, and of the best one, stay."""
        best = self.study.best
        numbers = {trial.number for trial in self.trials.values()} | self.study.waiting
        numbers.add(best.number if best else DEFAULTS)
        keep = {self.search.checkpoints(number) for number in numbers}
        for folder in self.search.folder.glob("trial-*"):
            if folder not in keep:
                shutil.rmtree(folder, ignore_errors=True)


@dataclass
class _Running:
    number: int
    settings: dict[str, Any]
    job: FitJob
    scores: dict[int, float] = field(default_factory=dict)
    sides: dict[int, float] = field(default_factory=dict)
    used: float = 0.0
    began: bool = False
    failure: str = ""
    started: float = field(default_factory=time.monotonic)


class _Shares(dict[str, _Share]):
    """All searches by name. Tune pickles what it is given, for a restore that we never ask for."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Shares, ()


class _Clock:
    """Divides the time that passes evenly among the trials that run.

    So all of them together use a second in a second, on however many places.
    """

    def __init__(self, shares: _Shares) -> None:
        self._shares = shares
        self._last = time.monotonic()

    def advance(self) -> None:
        """Until now; to be called before a trial comes or goes."""
        now = time.monotonic()
        running = [trial for share in self._shares.values() for trial in share.trials.values()]
        for trial in running:
            trial.used += (now - self._last) / len(running)
        self._last = now


class _Fair(Searcher):  # type: ignore[misc]
    """Asks the search that has had the least."""

    def __init__(self, shares: _Shares, *, by_time: bool) -> None:
        super().__init__()
        self._shares = shares
        self._by_time = by_time

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
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
        """Nothing: `_Watch` is told too, and of more."""


class _Halving(FIFOScheduler):  # type: ignore[misc]
    """ASHA for each search by itself, whose scores and epochs do not compare with others'.

    ASHA: Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning". The defaults are
    never stopped, so that what wins has won against all of them.
    """

    def __init__(self, shares: _Shares) -> None:
        super().__init__()
        self._shares = shares

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        self._share(trial).halving.on_trial_add(tune_controller, trial)

    def on_trial_result(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        share = self._share(trial)
        action = share.halving.on_trial_result(tune_controller, trial, result)
        if share.trials[trial.trial_id].number == DEFAULTS:
            return TrialScheduler.CONTINUE
        return TrialScheduler.STOP if share.is_over else action

    def on_trial_complete(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> None:
        """Nothing: a trial's last result has been heard as a result."""

    def _share(self, trial: TuneTrial) -> _Share:
        return self._shares[trial.config["search"]]


class _Watch(tune.Callback):  # type: ignore[misc]
    """Hears of every trial in the Tuner's thread."""

    def __init__(self, shares: _Shares) -> None:
        self._shares = shares

    def on_trial_start(self, *, trial: TuneTrial, **_: Any) -> None:
        self._share(trial).begins(trial.trial_id)

    def on_trial_result(self, *, trial: TuneTrial, result: dict[str, Any], **_: Any) -> None:
        self._share(trial).result(trial.trial_id, result)

    def on_trial_complete(self, *, trial: TuneTrial, **_: Any) -> None:
        self._share(trial).end(trial.trial_id)

    def on_trial_error(self, *, trial: TuneTrial, **_: Any) -> None:
        self._share(trial).died(trial.trial_id)

    def _share(self, trial: TuneTrial) -> _Share:
        return self._shares[trial.config["search"]]


def _tuner(
    shares: _Shares,
    search: SearchConfig,
    demand: TrialDemand,
    cluster: ClusterConfig,
    session: Session,
    storage: Path,
) -> tune.Tuner:
    if demand.workers == 1:
        holds = {"CPU": demand.cpus} | ({"GPU": demand.gpus} if demand.gpus else {})
        trainable = tune.with_parameters(
            run_trial,
            threads=demand.cpus,
            use_gpu=bool(demand.gpus),
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
            search_alg=_Fair(shares, by_time=bool(search.budget)),
            scheduler=_Halving(shares),
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
            callbacks=[_Watch(shares)],
            failure_config=tune.FailureConfig(max_failures=cluster.max_failures),
        ),
    )
