"""The registered model: a script that MLflow keeps beside the classifier and runs to load it.

Models-from-code: nothing is pickled. Input: a table with one column `image` of encoded pictures
(PNG, JPEG, ...; over HTTP base64). Output: `label`, `probability`, `probabilities` of every class, `abstained`,
`possible`, and `error` where a row holds no picture; with the parameter `output` something simpler, which other tools expect of a classifier, and with `priors`
for other frequencies of the classes than those of the data. Tools that know no parameters give the same two as
`model_config` when they load it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext

from imgrec.classifier import Classifier, Prediction
from imgrec.errors import ClassifierError, DecodeError
from imgrec.priors import read_shares

Answer = Prediction | DecodeError
OUTPUTS = ("all", "label", "probabilities")
COLUMNS = ["label", "probability", "probabilities", "abstained", "possible", "error"]
ON_ERROR = ("row", "raise")
DEFAULTS = {"output": OUTPUTS[0], "priors": "", "on_error": ON_ERROR[0]}
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
                class). `priors`: how frequent each class is where the pictures come from, as a JSON object or as
                `cat=0.9,dog=0.1`. `on_error`: what becomes of a row that holds no picture: it has its reason in the
                column `error` and no answer (`row`), or nothing is answered (`raise`).

        Raises:
            MlflowException: a parameter is wrong, or a row that must not be; over HTTP status 400, naming it.
        """
        # A parameter that is not given comes as its default, and then the configuration counts.
        given = {key: value for key, value in (params or {}).items() if value != DEFAULTS.get(key)}
        wanted = DEFAULTS | self.configured | given
        for key, known in (("output", OUTPUTS), ("on_error", ON_ERROR)):
            if wanted[key] not in known:
                msg = f"{key} = {wanted[key]}: must be one of {', '.join(known)}"
                raise MlflowException(msg, error_code=INVALID_PARAMETER_VALUE)
        contents = [bytes(content) for content in model_input["image"]]
        try:
            classifier = self._for(wanted["priors"])
            answers = (
                [*classifier.predict_each(contents)]
                if wanted["on_error"] == "row"
                else classifier.predict(contents)
            )
        except (ClassifierError, DecodeError) as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error
        return VIEWS[wanted["output"]](answers, classifier.card.class_names)

    def _for(self, priors: str) -> Classifier:
        """The classifier, for these frequencies of the classes."""
        if not priors:
            return self.classifier
        names = self.classifier.card.class_names
        return self.classifier.with_priors(read_shares(priors, names))


def _all(answers: Sequence[Answer], _: Sequence[str]) -> pd.DataFrame:
    rows = [_row(one) for one in answers]
    # As objects: a missing text is None, and not a number that is none.
    columns = {name: pd.Series([row.get(name) for row in rows], dtype=object) for name in COLUMNS}
    return pd.DataFrame(columns)


def _row(answer: Answer) -> dict[str, Any]:
    if isinstance(answer, DecodeError):
        return {"error": str(answer)}
    return answer.as_json()


def _labels(answers: Sequence[Answer], _: Sequence[str]) -> pd.Series:
    labels = [None if isinstance(one, DecodeError) else one.label for one in answers]
    return pd.Series(labels, name="label", dtype=object)


def _probabilities(answers: Sequence[Answer], class_names: Sequence[str]) -> pd.DataFrame:
    rows = [{} if isinstance(one, DecodeError) else one.probabilities for one in answers]
    return pd.DataFrame(rows, columns=list(class_names))


VIEWS: dict[str, Callable[[Sequence[Answer], Sequence[str]], pd.DataFrame | pd.Series]] = {
    "all": _all,
    "label": _labels,
    "probabilities": _probabilities,
}


mlflow.models.set_model(ServedClassifier())
