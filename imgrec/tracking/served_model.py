"""The registered model: a script that MLflow keeps beside the classifier and runs to load it.

Models-from-code: nothing is pickled. Input: a table with one column `image` of encoded pictures
(PNG, JPEG, ...; over HTTP base64). Output: `label`, `probability`, `probabilities` of every class.
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext

from imgrec.classifier import Classifier
from imgrec.errors import DecodeError


class ServedClassifier(PythonModel):  # type: ignore[misc]
    """A `Classifier` with the interface that MLflow serves."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the classifier that lies beside this script."""
        self.classifier = Classifier.load(Path(context.artifacts["classifier"]))

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002 - MLflow's interface
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> pd.DataFrame:
        """A row of output for every row of input.

        Raises:
            MlflowException: a row holds no picture; over HTTP status 400, naming the row.
        """
        contents = [bytes(content) for content in model_input["image"]]
        try:
            predictions = self.classifier.predict(contents)
        except DecodeError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error
        return pd.DataFrame(
            {
                "label": [p.label for p in predictions],
                "probability": [p.probability for p in predictions],
                "probabilities": [p.probabilities for p in predictions],
            }
        )


mlflow.models.set_model(ServedClassifier())
