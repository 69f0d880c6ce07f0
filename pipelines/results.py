"""What a run came to: for people as a leaderboard, for programs as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from imgrec.config import Arch
from imgrec.data.splits import Splits
from imgrec.data.store import Store
from imgrec.evaluation.comparison import Comparison, Standing
from imgrec.tracking.tags import REASON
from imgrec.tracking.versions import RegisteredVersion
from imgrec.training.loop import OF_FIT, SPENT
from imgrec.training.metrics import KEPT, Scores, scores_from
from pipelines.searched import Searched


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A registered model and how good it is.

    Attributes:
        begins_with: The name of the pretrained weights, or `random weights`.
        share_of_peak: What it computed a second, of what the GPU could; 0 where that is not known.
        spent: Seconds of training by kind of work.
        taken: An earlier run had registered it.
        champion_version: The version of the registered model that is champion; 0 where none is.
        why_not: Why it is not champion, as far as that was decided.
        seed_runs: The runs of all seeds that it was trained with, its own among them.
    """

    arch: Arch
    registered_model: str
    version: int
    champion_version: int
    run_id: str
    begins_with: str
    val: Scores
    test: Scores
    parameters: int
    fit_seconds: float
    images_per_second: float
    flops_per_second: float
    share_of_peak: float
    spent: dict[str, float]
    taken: bool
    why_not: str
    seed_runs: tuple[str, ...]

    @classmethod
    def of(
        cls,
        arch: Arch,
        version: RegisteredVersion,
        metrics: Mapping[str, float],
        *,
        taken: bool,
        seed_runs: tuple[str, ...],
    ) -> "TrainedModel":
        """From what its run has on record (`record.model_metrics`)."""
        return cls(
            arch=arch,
            registered_model=version.name,
            version=version.version,
            champion_version=version.champion_version,
            run_id=version.run_id,
            begins_with=version.begins_with,
            val=scores_from(metrics, KEPT),
            test=scores_from(metrics, "test"),
            parameters=int(metrics["parameters"]),
            fit_seconds=metrics["fit_seconds"],
            images_per_second=metrics["median_images_per_second"],
            flops_per_second=metrics["flops_per_second"],
            share_of_peak=metrics.get("share_of_peak", 0.0),
            spent={
                name.removeprefix(OF_FIT): value
                for name, value in metrics.items()
                if name.startswith(OF_FIT)
            },
            taken=taken,
            why_not="" if version.champion else version.tags.get(REASON, ""),
            seed_runs=seed_runs,
        )

    @property
    def champion(self) -> bool:
        """Whether it is what its name stands for."""
        return self.champion_version == self.version

    def as_json(self) -> dict[str, Any]:
        """The keys that scripts rely on."""
        return {
            "arch": self.arch,
            "registered_model": self.registered_model,
            "version": self.version,
            "champion": self.champion,
            "why_not": self.why_not,
            "run_id": self.run_id,
            "begins_with": self.begins_with,
            "val": _scores(self.val),
            "test": _scores(self.test),
            "parameters": self.parameters,
            "fit_seconds": self.fit_seconds,
            "images_per_second": self.images_per_second,
            "flops_per_second": self.flops_per_second,
            "share_of_peak": self.share_of_peak or None,
            "taken": self.taken,
            "seed_runs": list(self.seed_runs),
        }


def _scores(scores: Scores) -> dict[str, float]:
    return {
        "accuracy": scores.accuracy,
        "macro_f1": scores.macro_f1,
        "balanced_accuracy": scores.balanced_accuracy,
        "worst_recall": scores.worst_recall,
        "log_loss": scores.loss,
    }


@dataclass(frozen=True, slots=True)
class Summary:
    """A whole run.

    Attributes:
        models: Ranked by macro-F1 on the test split, best first.
        comparison: Of the models; None where there are none.
        seconds: Of the whole run.
        times: The same, by what they were spent on (`timing.LABELS`).
        memory: Bytes at the moment when they were most, by whose they were (`memory.py`).
    """

    name: str
    tracking_uri: str
    run_id: str
    store: Store
    splits: Splits
    searches: dict[Arch, Searched]
    models: list[TrainedModel]
    comparison: Comparison | None
    failures: dict[Arch, str]
    seconds: float
    times: dict[str, float]
    memory: dict[str, int]

    def unproven(self) -> dict[Arch, str]:
        """Models that are not good enough to be the first champion of their name, and why."""
        return {model.arch: model.why_not for model in self.models if not model.champion_version}

    def unscored(self) -> dict[str, list[str]]:
        """Classes that val or test has no picture of, for each of the two that lacks some."""
        names, labels = self.store.class_names, self.store.labels
        lacking: dict[str, list[str]] = {}
        for split, rows in (("val", self.splits.val), ("test", self.splits.test)):
            absent = np.bincount(labels[rows], minlength=len(names)) == 0
            if absent.any():
                lacking[split] = [names[k] for k in np.flatnonzero(absent).tolist()]
        return lacking

    def as_json(self) -> dict[str, Any]:
        """The one object that `--json` prints."""
        return {
            "name": self.name,
            "tracking_uri": self.tracking_uri,
            "run_id": self.run_id,
            "data": {
                "fingerprint": self.store.fingerprint,
                "class_names": list(self.store.class_names),
                "train": len(self.splits.train),
                "val": len(self.splits.val),
                "test": len(self.splits.test),
                "quarantined": self.store.quarantined,
                "unscored": self.unscored(),
            },
            "searches": {
                arch: search.as_json(len(self.splits.choosing))
                for arch, search in self.searches.items()
            },
            "models": [model.as_json() for model in self.models],
            "comparison": self.comparison and self.comparison.as_json(),
            "failures": self.failures,
            "seconds": self.seconds,
            "times": self.times,
            "memory": self.memory,
        }

    def cost(self) -> dict[str, float]:
        """Time and memory, as metrics of the run."""
        return (
            {"seconds": self.seconds, "memory_bytes": float(sum(self.memory.values()))}
            | {f"{SPENT}{name}": spent for name, spent in self.times.items()}
            | {f"memory_bytes/{name}": float(held) for name, held in self.memory.items()}
        )

    def standings(self) -> list[tuple[TrainedModel, Standing]]:
        """The models with how they stand among each other."""
        by_arch = {one.name: one for one in self.comparison.standings} if self.comparison else {}
        return [(model, by_arch[model.arch]) for model in self.models]

    def leaderboard(self) -> tuple[list[str], list[list[Any]]]:
        """Columns and rows, best model first."""
        columns = [
            "rank",
            "model",
            "version",
            "champion",
            "begins with",
            "test accuracy",
            "at least",
            "at most",
            "test macro-F1",
            "test log loss",
            "parameters",
            "fit seconds",
            "images/s",
        ]
        rows = [
            [
                standing.rank,
                model.registered_model,
                model.version,
                model.champion,
                model.begins_with,
                standing.accuracy,
                standing.accuracy_interval.low,
                standing.accuracy_interval.high,
                standing.macro_f1,
                model.test.loss,
                model.parameters,
                model.fit_seconds,
                model.images_per_second,
            ]
            for model, standing in self.standings()
        ]
        return columns, rows
