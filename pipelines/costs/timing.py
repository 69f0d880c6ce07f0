"""Where the time of a run went, and what that says."""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping

from imgrec.config import Arch
from imgrec.training.clock import ANSWERING, DATA, EVALUATION, MODEL, OPTIMIZER, OTHER, REPORT

LABELS = {
    "loading": "loading torch and MLflow",
    "tracking": "opening the record",
    "data": "reading and decoding pictures",
    "ray": "starting Ray",
    "pace": "measuring for train.budget",
    "search": "searching",
    "confirm": "confirming the best trials",
    "train": "starting workers",
    DATA + "/train": "waiting for batches",
    MODEL: "forward and backward",
    OPTIMIZER: "optimizer",
    EVALUATION: "evaluation",
    REPORT: "checkpoints and reports",
    OTHER: "between steps",
    ANSWERING: "answering val and test",
    "register": "scoring and registering",
    "compare": "comparing models",
    "examine": "examining the models",
    "end": "ending",
}
CURES = {
    "loading": "longer runs or several architectures in one run share the start",
    "data": "the store is kept, so the next run has it already",
    "ray": "longer runs or several architectures in one run share the start",
    "train": "longer runs or several architectures in one run share the start",
    "confirm": "a smaller search.confirm",
    "search": "each trial counts; data.image_size and smaller models make them cheaper",
    DATA + "/train": "a smaller data.image_size, or storage on a faster disk",
    MODEL: "the hardware is at work; a GPU, more workers, or a smaller model or data.image_size",
    OPTIMIZER: "a larger train.batch_size takes fewer steps",
    EVALUATION: "a smaller data.val_fraction",
    REPORT: "a larger cluster.checkpoint_seconds",
    OTHER: "a larger train.batch_size takes fewer steps",
    ANSWERING: "smaller data.val_fraction and data.test_fraction",
    "register": "a tracking server that is nearer, or not behind a slow link",
    "compare": "fewer architectures, or a smaller test split",
    "examine": "report.corrupted = 0 leaves out the pictures that are made worse",
}


LEAST_SHOWN = 0.005
"""A share of the time below it would be shown as 0 %."""


class StageClock:
    """Seconds of wall time by stage; one ends where the next begins.

    Args:
        began: When the command did, by `time.monotonic`; now, if nothing is said.
    """

    def __init__(self, began: float | None = None) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._stage = "loading"
        self._began = time.monotonic() if began is None else began

    def enter(self, stage: str) -> None:
        """A stage begins, or goes on."""
        now = time.monotonic()
        self._seconds[self._stage] += now - self._began
        self._stage, self._began = stage, now

    def seconds(self) -> dict[str, float]:
        """Until now."""
        self.enter(self._stage)
        return dict(self._seconds)


def in_detail(stages: Mapping[str, float], fits: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The stages of a run, with training divided by what its workers say that they did.

    Workers that train side by side do more than the clock shows, so theirs are shares.

    Args:
        stages: Wall time; training as `fit`.
        fits: Seconds by kind, of the models that were trained.
    """
    worked: dict[str, float] = defaultdict(float)
    for fit in fits:
        for kind, seconds in fit.items():
            worked[kind] += seconds
    detailed = {stage: seconds for stage, seconds in stages.items() if stage != "fit"}
    whole, spent = stages.get("fit", 0.0), sum(worked.values())
    share = min(1.0, whole / spent) if spent else 0.0
    for kind, seconds in worked.items():
        detailed[DATA + "/train" if kind == DATA else kind] = seconds * share
    detailed[OTHER] = detailed.get(OTHER, 0.0) + max(0.0, whole - spent)
    return {name: detailed[name] for name in LABELS if detailed.get(name)}


def in_words(times: Mapping[str, float], rates: Mapping[Arch, str]) -> tuple[str, str]:
    """All of it in one line, the largest first; and what the run was limited by.

    Args:
        times: Seconds, as `in_detail` has them.
        rates: How fast each architecture computed, for people.
    """
    whole = sum(times.values())
    ordered = sorted(times.items(), key=lambda item: -item[1])
    shares = [
        f"{LABELS[name]} {seconds / whole:.0%}"
        for name, seconds in ordered
        if seconds / whole >= LEAST_SHOWN
    ]
    name, seconds = ordered[0]
    limit = f"{seconds / whole:.0%} of the time went to {LABELS[name]}"
    if name == MODEL:
        limit += f" ({', '.join(f'{arch} {rate}' for arch, rate in rates.items())})"
    cure = CURES.get(name)
    return ", ".join(shares[:6]), f"{limit}: {cure}" if cure else limit
