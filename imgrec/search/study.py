"""What to try next: Optuna's TPE, told of every trial, also of those of an earlier process.

TPE: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization".
"""

import json
import statistics
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from imgrec.config import Branch, Dimension, is_active
from imgrec.errors import ConfigError
from imgrec.training.metrics import Rank
from imgrec.training.optim import MOMENTUM
from imgrec.training.spec import FitSpec

State = Literal["finished", "stopped", "failed"]
STATES = {
    "finished": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
Scores = dict[int, tuple[float, ...]]
"""Validation macro-F1 with each other seed, by the number of a trial."""
DEFAULTS = 0
"""The number of the trial that tries the defaults: always the first."""
# Trials drawn at random before TPE has something to go by.
RANDOM_TRIALS = 5
MOST_REDRAWS = 50
FEWEST_FOR_IMPORTANCE = 8

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True, slots=True)
class Trial:
    """One choice of settings and how it went.

    Attributes:
        number: From 0, which is the defaults.
        settings: What was tried in place of the branch's own: `{"train.learning_rate": 0.01}`.
        scores: `val/macro_f1` by epoch, from 1.
        state: `finished` (all epochs), `stopped` (others were better) or `failed`.
        seconds: From its start to its end.
        reason: Why it failed.
        shares: Of their side that the pictures had that judged each epoch; left out where all were whole.
        used: Seconds of the search's time that were this trial's; its own where it ran alone.
    """

    number: int
    settings: dict[str, Any]
    scores: dict[int, float]
    state: State
    seconds: float = 0.0
    reason: str = ""
    shares: dict[int, float] = field(default_factory=dict)
    used: float = 0.0

    @property
    def rank(self) -> Rank:
        """Of its best epoch, the one whose weights are kept (`Learner.keep_if_best`)."""
        epochs = (Rank(self.shares.get(epoch, 1.0), score) for epoch, score in self.scores.items())
        return max(epochs, default=Rank(-1.0, -1.0))

    @property
    def score(self) -> float:
        """The macro-F1 of the weights that are kept; -1 before the first epoch."""
        return self.rank.macro_f1

    @property
    def counts(self) -> bool:
        """Whether it may be chosen."""
        return self.state != "failed" and bool(self.scores)


@dataclass
class Study:
    """The search of one architecture: settings go out, scores come in.

    Attributes:
        branch: The settings that trials start from.
        defaults: The default of every active dimension.
        trials: What has ended, by number.
    """

    branch: Branch
    defaults: dict[str, Any]
    trials: dict[int, Trial] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        branch: Branch,
        spec: FitSpec,
        *,
        seed: int,
        ended: Iterable[Trial] = (),
        interrupted: Iterable[Trial] = (),
    ) -> "Study":
        """A study that knows the trials of earlier processes.

        Args:
            branch: With its space.
            spec: Made from the branch: what "chosen from the data" came to.
            seed: Of what is drawn.
            ended: Trials that are not run again.
            interrupted: Trials that come first, under their own numbers.

        Raises:
            ConfigError: a default lies outside its dimension.
        """
        study = cls(branch, default_settings(branch, spec))
        ended = sorted(ended, key=lambda trial: trial.number)
        # Another seed after every restart, or the same random draws would come again.
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=RANDOM_TRIALS,
            seed=seed + 1000 * len(ended),
            # Trials that run side by side must not all try the same.
            constant_liar=True,
        )
        study._optuna = optuna.create_study(direction="maximize", sampler=sampler)
        for trial in ended:
            study.trials[trial.number] = trial
            study._optuna.add_trial(study._frozen(trial))
        study._next = max((t.number for t in [*ended, *interrupted]), default=-1) + 1
        waiting = sorted(interrupted, key=lambda trial: trial.number)
        study._waiting = [(trial.number, trial.settings) for trial in waiting]
        if study._next == 0:
            study._waiting, study._next = [(DEFAULTS, {})], 1
        return study

    _optuna: optuna.Study = field(init=False, repr=False)
    _next: int = field(init=False, default=0)
    _waiting: list[tuple[int, dict[str, Any]]] = field(init=False, default_factory=list)
    _asked: dict[int, optuna.Trial] = field(init=False, default_factory=dict)
    _settings: dict[int, dict[str, Any]] = field(init=False, default_factory=dict)

    def ask(self) -> tuple[int, dict[str, Any]] | None:
        """The number and settings of the next trial; None where everything was tried."""
        if self._waiting:
            number, settings = self._waiting.pop(0)
            known = settings or self.defaults
            self._optuna.enqueue_trial({key: _encoded(value) for key, value in known.items()})
            self._draw(number)
            self._settings[number] = settings
            return number, settings
        for _ in range(MOST_REDRAWS):
            settings = self._draw(self._next)
            if self._is_new(settings) and self._is_allowed(settings):
                self._settings[self._next] = settings
                self._next += 1
                return self._next - 1, settings
            self._optuna.tell(self._asked.pop(self._next), state=TrialState.FAIL)
        return None

    def tell(self, trial: Trial) -> None:
        """How a trial went that `ask` gave.

        A failed trial is not learned from; of a stopped one only the scores until then are used.
        """
        asked = self._asked.pop(trial.number)
        state = STATES[trial.state] if trial.scores or trial.state == "failed" else TrialState.FAIL
        for epoch, score in trial.scores.items():
            asked.report(score, epoch)
        self._optuna.tell(asked, trial.score if state == TrialState.COMPLETE else None, state=state)
        self.trials[trial.number] = trial

    def give_back(self, number: int) -> None:
        """A trial that `ask` gave could not be begun; it comes again, under its number."""
        self._optuna.tell(self._asked.pop(number), state=TrialState.FAIL)
        self._waiting.insert(0, (number, self._settings[number]))

    @property
    def waiting(self) -> set[int]:
        """The numbers of trials that come before any new one."""
        return {number for number, _ in self._waiting}

    @property
    def best(self) -> Trial | None:
        """See `best_of`."""
        return best_of(self.trials.values())

    def importances(self) -> dict[str, float]:
        """How much of the scores' variance each setting explains, largest first; sums to 1.

        PED-ANOVA: Watanabe et al. 2023, "PED-ANOVA: Efficiently Quantifying Hyperparameter
        Importance in Arbitrary Subspaces". Empty where there are too few trials to say.
        """
        if sum(trial.counts for trial in self.trials.values()) < FEWEST_FOR_IMPORTANCE:
            return {}
        # The evaluator ignores stopped trials, so they are added with the score of their best epoch.
        complete = optuna.create_study(direction="maximize")
        for trial in self.trials.values():
            if trial.counts:
                complete.add_trial(self._frozen(replace(trial, state="finished")))
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where all scores are alike, so are the importances
            return dict(optuna.importance.get_param_importances(complete, evaluator=evaluator))

    def _draw(self, number: int) -> dict[str, Any]:
        """Let Optuna choose; dimensions whose conditions do not hold are left out."""
        drawn = self._asked[number] = self._optuna.ask()
        settings: dict[str, Any] = {}
        for dimension in _in_order(self.branch.space):
            if is_active(dimension, self.branch, settings):
                settings[dimension.key] = _suggested(drawn, dimension)
        return settings

    def _is_new(self, settings: Mapping[str, Any]) -> bool:
        running = [self._settings[number] for number in self._asked if number in self._settings]
        tried = [trial.settings for trial in self.trials.values()] + running
        return all((known or self.defaults) != settings for known in tried)

    def _is_allowed(self, settings: Mapping[str, Any]) -> bool:
        try:
            self.branch.with_settings(settings)
        except ConfigError:
            return False
        return True

    def _frozen(self, trial: Trial) -> FrozenTrial:
        known = trial.settings or self.defaults
        dimensions = {d.key: d for d in self.branch.space if d.key in known}
        state = STATES[trial.state] if trial.scores else TrialState.FAIL
        return optuna.trial.create_trial(
            state=state,
            value=trial.score if state == TrialState.COMPLETE else None,
            params={key: _encoded(known[key]) for key in dimensions},
            distributions={key: _distribution(d) for key, d in dimensions.items()},
            intermediate_values=trial.scores,
        )


def best_of(trials: Iterable[Trial]) -> Trial | None:
    """The trial with the best score; of two alike the earlier one, so the defaults first.

    Of those that were trained to their end, if there are any: what was stopped early has no weights that
    could stand beside theirs.
    """
    counted = [trial for trial in trials if trial.counts]
    candidates = [trial for trial in counted if trial.state == "finished"] or counted
    return max(candidates, key=lambda trial: (trial.rank, -trial.number), default=None)


def best_confirmed(scores: Mapping[int, tuple[float, ...]]) -> int | None:
    """The number of the trial with the best mean over other seeds; of two alike the earlier, so the defaults first."""
    return max(scores, key=lambda number: (statistics.fmean(scores[number]), -number), default=None)


def default_settings(branch: Branch, spec: FitSpec) -> dict[str, Any]:
    """The default of every dimension that has a part in the branch as it is.

    Raises:
        ConfigError: a default lies outside its dimension, so it could not be the first trial.
    """
    defaults: dict[str, Any] = {}
    for dimension in branch.space:
        if not is_active(dimension, branch, {}):
            continue
        value = _default(branch, spec, dimension.key)
        if not dimension.holds(value):
            tried = list(dimension.choices) or f"{dimension.low} to {dimension.high}"
            msg = (
                f"{branch.arch}.space.{dimension.key}: {tried} does not hold the default, "
                f"{value!r}, with which every search starts; set {branch.arch}.{dimension.key} "
                f"to a value inside"
            )
            raise ConfigError(msg)
        defaults[dimension.key] = value
    return defaults


def _default(branch: Branch, spec: FitSpec, key: str) -> Any:
    """The value of a setting; what is chosen from the data as it was chosen."""
    part, _, name = key.partition(".")
    value = branch.value(key)
    if part == "train":
        value = getattr(spec.train, name)
        return MOMENTUM.get(branch.train.optimizer) if value is None else value
    if part == "preprocess" and value is None:
        return getattr(spec.augmentation, name)
    return value


def _in_order(space: Iterable[Dimension]) -> list[Dimension]:
    """Dimensions without conditions first."""
    return sorted(space, key=lambda dimension: bool(dimension.when))


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.choices:
        return CategoricalDistribution([_encoded(choice) for choice in dimension.choices])
    assert dimension.low is not None
    assert dimension.high is not None
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _suggested(drawn: optuna.Trial, dimension: Dimension) -> Any:
    match _distribution(dimension):
        case CategoricalDistribution(choices=choices):
            chosen = drawn.suggest_categorical(dimension.key, choices)
            return next(choice for choice in dimension.choices if _encoded(choice) == chosen)
        case IntDistribution(low=low, high=high, log=log):
            return drawn.suggest_int(dimension.key, low, high, log=log)
        case FloatDistribution(low=low, high=high, log=log):
            return drawn.suggest_float(dimension.key, low, high, log=log)


def _encoded(value: Any) -> Any:
    """As Optuna takes it: a number of a range as it is, and choices, which may be lists, as text."""
    return (
        json.dumps(value)
        if not isinstance(value, int | float) or isinstance(value, bool)
        else value
    )
