"""The registered model: a script that MLflow keeps beside the classifier and runs to load it.

Models-from-code: nothing is pickled. Input: a table with one column `image` of encoded pictures
(PNG, JPEG, ...; over HTTP base64). Output: `label`, `probability`, `probabilities` of every class, `abstained`,
`possible`; with the parameter `output` something simpler, which other tools expect of a classifier, and with `priors`
for other frequencies of the classes than those of the data. Tools that know no parameters give the same two as
`model_config` when they load it.
"""

import json
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext

from imgrec.classifier import Classifier, Prediction
from imgrec.errors import ClassifierError, DecodeError

OUTPUTS = ("all", "label", "probabilities")
DEFAULTS = {"output": OUTPUTS[0], "priors": ""}
"""Of the parameters."""


class ServedClassifier(PythonModel):  # type: ignore[misc]
    """A `Classifier` with the interface that MLflow serves."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the classifier that lies beside this script."""
        self.classifier = Classifier.load(Path(context.artifacts["classifier"]))
        self.configured = dict(context.model_config or {})

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002 - MLflow's interface
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame | pd.Series:
        """A row of output for every row of input.

        Args:
            context: Of MLflow.
            model_input: Encoded pictures.
            params: `output`: `all`, only the `label` (a column of names), or the `probabilities` (a column for each
                class). `priors`: how frequent each class is where the pictures come from, as a JSON object.

        Raises:
            MlflowException: a row holds no picture, or a parameter is wrong; over HTTP status 400, naming it.
        """
        # A parameter that is not given comes as its default, and then the configuration counts.
        given = {key: value for key, value in (params or {}).items() if value != DEFAULTS.get(key)}
        wanted = DEFAULTS | self.configured | given
        output = wanted["output"]
        contents = [bytes(content) for content in model_input["image"]]
        if output not in OUTPUTS:
            msg = f"output = {output}: must be one of {', '.join(OUTPUTS)}"
            raise MlflowException(msg, error_code=INVALID_PARAMETER_VALUE)
        try:
            predictions = self._for(wanted["priors"]).predict(contents)
        except (ClassifierError, DecodeError) as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error
        if output == "label":
            return pd.Series([p.label for p in predictions], name="label")
        if output == "probabilities":
            return pd.DataFrame([p.probabilities for p in predictions])
        return _table(predictions)

    def _for(self, priors: str) -> Classifier:
        """The classifier, for these frequencies of the classes."""
        if not priors:
            return self.classifier
        try:
            shares = json.loads(priors)
            return self.classifier.with_priors({name: float(one) for name, one in shares.items()})
        except (ValueError, TypeError, AttributeError) as error:
            msg = f'priors: write a JSON object such as {{"cat": 0.9, "dog": 0.1}} ({error})'
            raise ClassifierError(msg) from error


def _table(predictions: list[Prediction]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "label": [p.label for p in predictions],
            "probability": [p.probability for p in predictions],
            "probabilities": [p.probabilities for p in predictions],
            "abstained": [p.abstained for p in predictions],
            "possible": [list(p.possible) for p in predictions],
        }
    )


mlflow.models.set_model(ServedClassifier())
