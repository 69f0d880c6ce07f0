"""Data as MLflow knows them: a dataset on every run, and on every metric the pictures that it is of."""

import json
from dataclasses import dataclass

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.types.schema import ColSpec, DataType, Schema
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from imgrec.tracking.runs import Run

SCHEMA = Schema([ColSpec(DataType.binary, "image"), ColSpec(DataType.string, "label")])
MOST_CHARACTERS = 36
"""Of a digest, as MLflow's database has it."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """A part of the data.

    Attributes:
        name: Of the data set, with what it is used for.
        digest: Of contents and classes.
        source: What the settings call the data.
        count: Pictures.
        classes: Of them.
        context: What MLflow calls its use: `training`, `validation`, `test`.
    """

    name: str
    digest: str
    source: str
    count: int
    classes: int
    context: str

    def as_input(self) -> DatasetInput:
        """As MLflow has it."""
        profile = {"num_rows": self.count, "num_classes": self.classes}
        return DatasetInput(
            Dataset(
                name=self.name,
                digest=self.digest[:MOST_CHARACTERS],
                source_type="code",  # of those that MLflow can read back the one that promises least
                source=json.dumps({"tags": {"imgrec.data.source": self.source}}),
                schema=json.dumps({"mlflow_colspec": SCHEMA.to_dict()}),
                profile=json.dumps(profile),
            ),
            [InputTag(MLFLOW_DATASET_CONTEXT, self.context)],
        )


def log_datasets(run: Run, parts: list[Pictures]) -> None:
    """What a run has looked at."""
    with run.tracking.answering():
        run.tracking.client.log_inputs(run.id, [one.as_input() for one in parts])
