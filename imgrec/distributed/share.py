"""One search's part of the Tuner: what it has used of its trials and of its time."""

import math
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler

from imgrec.config import SearchConfig
from imgrec.distributed.events import (
    EPOCH,
    METRICS,
    SCORE,
    SearchEvent,
    TrialEnded,
    TrialEpoch,
    TrialStarted,
)
from imgrec.distributed.trial import BUG, FAILURE, FULL, TrialSpec
from imgrec.errors import StorageError
from imgrec.search.study import DEFAULTS, Study, Trial
from imgrec.training.loop import JUDGED_BY
from imgrec.training.spec import FitSpec


@dataclass
class SearchSpec:
    """The search of one architecture.

    Attributes:
        study: What is tried, and what is known already.
        make_spec: Settings to what is trained with them.
        folder: For checkpoints, seen by every node: one of each running trial and of the best.
    """

    study: Study
    make_spec: Callable[[Mapping[str, Any]], FitSpec]
    folder: Path

    def checkpoints(self, number: int) -> Path:
        """Where a trial keeps its own."""
        return self.folder / f"trial-{number}"


class Share:
    """One search's part of the Tuner: what it has used, and what it may still use."""

    def __init__(
        self,
        name: str,
        search: SearchSpec,
        config: SearchConfig,
        clock: "ShareClock",
        among: int,
        max_failures: int,
        tell: Callable[[tuple[str, SearchEvent]], None],
    ) -> None:
        self.name = name
        self.search = search
        self.study = search.study
        self.trials: dict[str, RunningTrial] = {}  # by Tune's trial id
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
        spec = search.make_spec({})
        epochs = spec.train.epochs
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
        spec = self.search.make_spec(settings)
        self._clock.advance()
        self.trials[trial_id] = RunningTrial(number, settings, spec)
        trial_spec = TrialSpec(
            name=f"{self.name}-{number}",
            spec=spec,
            folder=self.search.checkpoints(number),
            milestones=self.milestones,
            session=self._session,
        )
        return {"search": self.name, "trial_spec": trial_spec}

    def begins(self, trial_id: str) -> None:
        """A process has taken the trial up."""
        trial = self.trials[trial_id]
        trial.began = True
        self._tell((self.name, TrialStarted(trial.number, trial.settings, trial.spec)))

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
            trial.shares[epoch] = result[METRICS][JUDGED_BY]
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
        finished = len(running.scores) == running.spec.train.epochs
        trial = Trial(
            number=running.number,
            settings=running.settings,
            scores=running.scores,
            state="failed" if failure else "finished" if finished else "stopped",
            seconds=time.monotonic() - running.started,
            reason=failure,
            shares=running.shares,
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
class RunningTrial:
    """A trial that has been handed to Tune and has not ended."""

    number: int
    settings: dict[str, Any]
    spec: FitSpec
    scores: dict[int, float] = field(default_factory=dict)
    shares: dict[int, float] = field(default_factory=dict)
    used: float = 0.0
    began: bool = False
    failure: str = ""
    started: float = field(default_factory=time.monotonic)


class Shares(dict[str, Share]):
    """All searches by name. Tune pickles what it is given, for a restore that we never ask for."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Shares, ()


class ShareClock:
    """Divides the time that passes evenly among the trials that run.

    So all of them together use a second in a second, on however many places.
    """

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._last = time.monotonic()

    def advance(self) -> None:
        """Until now; to be called before a trial comes or goes."""
        now = time.monotonic()
        running = [trial for share in self._shares.values() for trial in share.trials.values()]
        for trial in running:
            trial.used += (now - self._last) / len(running)
        self._last = now
