"""What a run came to: for people as a leaderboard, for programs as JSON."""

from dataclasses import dataclass
from typing import Any

from imgrec.classifier import Classifier
from imgrec.config import Arch
from imgrec.data.splits import Splits
from imgrec.data.store import Store
from imgrec.distributed.fit import Fitted
from imgrec.evaluation.scores import Evaluation
from imgrec.models import count_parameters
from imgrec.tracking.registry import RegisteredVersion
from imgrec.training.metrics import Scores


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A registered model and how good it is."""

    arch: Arch
    registered_model: str
    version: int
    champion: bool
    run_id: str
    val: Scores
    test: Scores
    parameters: int
    fit_seconds: float
    images_per_second: float

    @classmethod
    def of(
        cls,
        arch: Arch,
        version: RegisteredVersion,
        fitted: Fitted,
        classifier: Classifier,
        evaluation: Evaluation,
    ) -> "TrainedModel":
        """Gather what the stages of one architecture returned."""
        return cls(
            arch=arch,
            registered_model=version.name,
            version=version.version,
            champion=version.champion,
            run_id=version.run_id,
            val=fitted.best.val,
            test=evaluation.scores,
            parameters=count_parameters(classifier.model),
            fit_seconds=fitted.seconds,
            images_per_second=fitted.images_per_second,
        )

    def as_json(self) -> dict[str, Any]:
        """The keys that scripts rely on."""
        return {
            "arch": self.arch,
            "registered_model": self.registered_model,
            "version": self.version,
            "champion": self.champion,
            "run_id": self.run_id,
            "test": {
                "accuracy": self.test.accuracy,
                "macro_f1": self.test.macro_f1,
                "balanced_accuracy": self.test.balanced_accuracy,
                "log_loss": self.test.loss,
            },
            "parameters": self.parameters,
            "fit_seconds": self.fit_seconds,
            "images_per_second": self.images_per_second,
        }


@dataclass(frozen=True, slots=True)
class Summary:
    """A whole run. Models are ranked by macro-F1 on the test split, best first."""

    name: str
    tracking_uri: str
    run_id: str
    store: Store
    splits: Splits
    models: list[TrainedModel]
    failures: dict[Arch, str]
    seconds: float

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
            },
            "models": [model.as_json() for model in self.models],
            "failures": self.failures,
            "seconds": self.seconds,
        }

    def leaderboard(self) -> tuple[list[str], list[list[Any]]]:
        """Columns and rows, best model first."""
        columns = [
            "model",
            "version",
            "champion",
            "test accuracy",
            "test macro-F1",
            "test log loss",
            "parameters",
            "fit seconds",
            "images/s",
        ]
        rows = [
            [
                model.registered_model,
                model.version,
                model.champion,
                model.test.accuracy,
                model.test.macro_f1,
                model.test.loss,
                model.parameters,
                model.fit_seconds,
                model.images_per_second,
            ]
            for model in self.models
        ]
        return columns, rows
