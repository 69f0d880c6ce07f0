"""What the live table knows of one architecture."""

import time
from dataclasses import dataclass, field
from functools import cached_property

from imgrec.training.spec import FitSpec
from pipelines.formats import duration


@dataclass
class Row:
    """One architecture on the screen."""

    spec: FitSpec
    state: str = "waiting"
    most_trials: int = 0
    trials: int = 0
    running: dict[int, int] = field(default_factory=dict)  # epochs done, by trial
    search_ends: float = 0.0  # on the clock of time.monotonic
    search_began: float = 0.0
    trials_before: int = 0
    epoch: int = 0
    step: int = 0
    shortages: int = 0  # of memory
    metrics: dict[str, float] = field(default_factory=dict)
    best: float = 0.0
    epoch_seconds: float = 0.0
    printed: float = 0.0

    @property
    def share(self) -> float:
        """How much of the search or of the training is done, 0 to 1."""
        if self.state == "searching":
            if self.search_ends:
                whole = self.search_ends - self.search_began
                return min(1.0, (time.monotonic() - self.search_began) / whole)
            begun = sum(self.running.values()) / self.spec.train.epochs
            return min(1.0, (self.trials + begun) / self.most_trials)
        return min(
            1.0, (self.epoch + self.step / self.spec.steps_per_epoch) / self.spec.train.epochs
        )

    @property
    def left(self) -> str:
        """Time left, from what the last epoch took; those of larger pictures take longer."""
        if self.state == "searching":
            return self._search_left
        if self.state != "training" or not self.epoch_seconds:
            return ""
        ahead = self._costs[self.epoch :]
        begun = self.step / self.spec.steps_per_epoch * ahead[0] if ahead else 0.0
        per_cost = self.epoch_seconds / self._costs[self.epoch - 1]
        return duration((sum(ahead) - begun) * per_cost)

    @cached_property
    def _costs(self) -> list[float]:
        return [self.spec.cost(epoch) for epoch in range(self.spec.train.epochs)]

    @property
    def _search_left(self) -> str:
        now, here = time.monotonic(), self.trials - self.trials_before
        if self.search_ends:
            return duration(max(0.0, self.search_ends - now))
        if not here:
            return ""
        return duration((now - self.search_began) / here * (self.most_trials - self.trials))
