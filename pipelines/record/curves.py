"""Metrics by epoch on their way to MLflow."""

import time
from collections.abc import Mapping, Sequence

from imgrec.tracking.runs import Run

SECONDS_BETWEEN_CALLS = 2.0


class Curves:
    """Logs every epoch once, also when it is told of it again after a restart; several in one call.

    Args:
        run: Where to.
        known: Epochs that an earlier process logged.
    """

    def __init__(self, run: Run, known: Sequence[int] = ()) -> None:
        self._run = run
        self._known = set(known)
        self._waiting: dict[int, Mapping[str, float]] = {}
        self._last_call = 0.0

    def add(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """An epoch, from 1."""
        if epoch in self._known:
            return
        self._known.add(epoch)
        self._waiting[epoch] = metrics
        if time.monotonic() - self._last_call > SECONDS_BETWEEN_CALLS:
            self.flush()

    def flush(self) -> None:
        """Log what waits."""
        if self._waiting:
            self._run.log_history(self._waiting)
        self._waiting = {}
        self._last_call = time.monotonic()
