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
from imgrec.data.decode import decode
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
        except DecodeError:
            raise self._first_unreadable(contents) from None
        return pd.DataFrame(
            {
                "label": [p.label for p in predictions],
                "probability": [p.probability for p in predictions],
                "probabilities": [p.probabilities for p in predictions],
            }
        )

    def _first_unreadable(self, contents: list[bytes]) -> MlflowException:
        card = self.classifier.card
        for row, content in enumerate(contents):
            try:
                decode(content, card.image_shape, resize=card.resize, max_pixels=card.max_pixels)
            except DecodeError as error:
                message = f"row {row}: {error}"
                return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)
        return MlflowException("no row could be read", error_code=INVALID_PARAMETER_VALUE)


mlflow.models.set_model(ServedClassifier())
