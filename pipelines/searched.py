"""What the search of one architecture came to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from imgrec.config import Branch
from imgrec.evaluation.intervals import expected_optimism
from imgrec.search.study import DEFAULTS, Trial, best_confirmed, best_of, default_settings
from imgrec.training.spec import FitSpec


@dataclass(frozen=True, slots=True)
class Searched:
    """What the search of one architecture came to.

    Attributes:
        run_id: Of the search.
        trials: How many were tried, with those that failed.
        failed: How many of them failed.
        steps_saved: Share of the epochs that were not trained because trials were stopped early.
        default: The score of the defaults: `val/macro_f1` of the best epoch.
        best: The best trial.
        tuned: What the best trial changed: the default and what it was replaced with.
        confirmed: Scores of its best trials with other seeds, by their numbers; empty where that was not asked for.
        scores: Of the trials that were trained to their end, or of all that count where none was.
        taken: Whether an earlier run had made the search.
    """

    run_id: str
    trials: int
    failed: int
    steps_saved: float
    default: float | None
    best: Trial
    tuned: dict[str, tuple[Any, Any]]
    scores: tuple[float, ...]
    confirmed: dict[int, tuple[float, ...]]
    taken: bool

    @classmethod
    def of(
        cls,
        branch: Branch,
        spec: FitSpec,
        trials: Sequence[Trial],
        run_id: str,
        *,
        taken: bool,
        confirmed: Mapping[int, tuple[float, ...]] = MappingProxyType({}),
    ) -> "Searched":
        """From the trials of a search, of which one at least counts; the best is the best confirmed one."""
        number = best_confirmed(confirmed)
        best = next((one for one in trials if one.number == number), best_of(trials))
        assert best is not None
        defaults = default_settings(branch, spec)
        # Trials that failed say nothing of what stopping saves.
        counted = [trial for trial in trials if trial.counts]
        trained = sum(len(trial.scores) for trial in counted)
        return cls(
            run_id=run_id,
            trials=len(trials),
            failed=len(trials) - len(counted),
            steps_saved=1 - trained / (len(counted) * spec.train.epochs),
            default=next((t.score for t in trials if t.number == DEFAULTS and t.counts), None),
            best=best,
            tuned={
                key: (defaults.get(key), value)
                for key, value in best.settings.items()
                if value != defaults.get(key)
            },
            scores=tuple(
                trial.score for trial in [t for t in counted if t.state == "finished"] or counted
            ),
            confirmed=dict(confirmed),
            taken=taken,
        )

    def optimism(self, pictures: int) -> float:
        """How much better the best trial is to be expected to look than it is (`expected_optimism`).

        Args:
            pictures: That judged the trials.
        """
        return expected_optimism(self.scores, pictures)

    def as_json(self, pictures: int) -> dict[str, Any]:
        """For programs.

        Args:
            pictures: That judged the trials.
        """
        return {
            "expected_optimism": self.optimism(pictures),
            "run_id": self.run_id,
            "confirmed": {str(number): list(one) for number, one in self.confirmed.items()},
            "trials": self.trials,
            "failed": self.failed,
            "steps_saved": self.steps_saved,
            "default_val_macro_f1": self.default,
            "best_val_macro_f1": self.best.score,
            "best_trial": self.best.number,
            "tuned": {
                key: {"default": default, "chosen": chosen}
                for key, (default, chosen) in self.tuned.items()
            },
            "taken": self.taken,
        }
