"""How a classifier becomes a version of a registered model."""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities import Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, Map, ParamSchema, ParamSpec, Schema
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from imgrec.classifier import Classifier
from imgrec.errors import ClassifierError
from imgrec.evaluation.golden import (
    Parity,
    Probabilities,
    answers_of,
    compare_answers,
    golden_answers,
    keep_golden,
)
from imgrec.preprocess.filters import PACKAGES
from imgrec.tracking import served_model
from imgrec.tracking.datasets import MOST_CHARACTERS, Pictures
from imgrec.tracking.hashes import hash_tags
from imgrec.tracking.runs import Run
from imgrec.tracking.tags import PARITY
from imgrec.tracking.versions import (
    CHALLENGER,
    FOLDER,
    TRAINED_ON,
    Digests,
    RegisteredVersion,
    champion_of,
    download,
    registered,
)
from imgrec.version import PACKAGE, files_behind

SERVING_NEEDS = (
    "mlflow",
    "numpy",
    "pandas",
    "pillow",
    "psutil",
    "pydantic",
    "safetensors",
    "simplejpeg",
    "torch",
)
SERVED = ("classifier", "tracking.served_model")
"""What a served model runs: these, and all that they import. The rest would be 60 more files to upload, one by one."""
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, "image")]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "label"),
            ColSpec(DataType.double, "probability"),
            ColSpec(Map(DataType.double), "probabilities"),
            ColSpec(DataType.boolean, "abstained"),
            ColSpec(Array(DataType.string), "possible"),
            ColSpec(DataType.string, "error", required=False),
        ]
    ),
    params=ParamSchema(
        [
            ParamSpec(name, DataType.string, default)
            for name, default in served_model.DEFAULTS.items()
        ]
    ),
)


@dataclass(frozen=True, slots=True)
class Judged:
    """Scores of a model.

    Attributes:
        scores: By name.
        step: Of the run.
        pictures: That they are of.
    """

    scores: Mapping[str, float]
    step: int
    pictures: Pictures

    def as_metrics(self, model_id: str) -> list[Metric]:
        """As MLflow has them, beside the model and its data."""
        now = int(time.time() * 1000)
        about = (model_id, self.pictures.name, self.pictures.digest[:MOST_CHARACTERS])
        return [
            Metric(name, float(value), now, self.step, *about)
            for name, value in self.scores.items()
        ]


def register(
    run: Run,
    name: str,
    classifier: Classifier,
    example: bytes,
    tags: Mapping[str, Any],
    trained_on: Digests | None,
    judged: Judged | None = None,
) -> RegisteredVersion:
    """Log a classifier to its run and register it as a version, which is challenger until something else is decided.

    It is registered only if it answers the same in memory, saved, and as MLflow loads it.

    Args:
        run: The run that made it.
        name: Of the registered model.
        classifier: What is registered.
        example: An encoded picture, kept as the input example.
        tags: Of the version; SEEN among them, where it began with a registered model.
        trained_on: Digests of the pictures that it has learned from; None where that is not known.
        judged: Its scores, which MLflow then shows beside the model.

    Raises:
        ClassifierError: it answers differently where it is loaded.
    """
    tracking, client = run.tracking, run.tracking.client
    text = {key: str(value) for key, value in tags.items()}
    with tracking.answering():
        # A process that was killed on the way may have left it behind.
        made = next(iter(client.search_model_versions(f"run_id = '{run.id}'")), None)
    if made is None:
        pictures, answers = golden_answers(classifier)
        uri, model_id = _log(run, name, classifier, example, trained_on, pictures, answers)
        folder = download(run.tracking, uri)
        parity = refuse_other_answers(folder, pictures, answers, f"{name}, made by run {run.id}")
        text |= hash_tags(folder) | {PARITY: json.dumps(asdict(parity))}
        with tracking.answering():
            try:
                client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            made = client.create_model_version(name, uri, run.id, tags=text, model_id=model_id)
    _tell_model(run, made, judged)
    version = registered(made, champion_of(tracking, name))
    if not version.champion:
        with tracking.answering():
            client.set_registered_model_alias(name, CHALLENGER, version.version)
    return version


def _tell_model(run: Run, made: ModelVersion, judged: Judged | None) -> None:
    """What MLflow shows beside a logged model: its version, without which its page offers to register it, and its scores."""
    client = run.tracking.client
    model_id = made.source.removeprefix("models:/")
    versions = json.dumps([{"name": made.name, "version": int(made.version)}])
    with run.tracking.answering():
        client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: versions})
        if judged:
            client.log_batch(run.id, metrics=judged.as_metrics(model_id))


def refuse_other_answers(
    folder: Path, pictures: Mapping[str, bytes], answers: Probabilities, what: str
) -> Parity:
    """Ask a logged classifier, as saved and as MLflow loads it, and compare with what it said in memory.

    Args:
        folder: Of the logged model.
        pictures: Golden ones.
        answers: In memory.
        what: It is, for people.

    Raises:
        ClassifierError: an answer differs by more than MOST_DIFFERENT.
    """
    worst = Parity(len(pictures), 0.0, "")
    for way, said in (
        ("saved", answers_of(Classifier.load(folder / "artifacts" / FOLDER), pictures)),
        ("as MLflow loads it", served_answers(folder, pictures)),
    ):
        parity = compare_answers(answers, said)
        if not parity.holds:
            msg = (
                f"{what}: {way} it answers differently, by {parity.largest:.2g} of a probability ({parity.where}); it is "
                f"not registered"
            )
            raise ClassifierError(msg)
        worst = max(worst, parity, key=lambda one: one.largest)
    return worst


def served_answers(folder: Path, pictures: Mapping[str, bytes]) -> Probabilities:
    """What a logged model says of pictures that it can read, as MLflow loads it into this process."""
    known = list(sys.path)
    try:
        model = mlflow.pyfunc.load_model(str(folder))
        table = model.predict(pd.DataFrame({"image": list(pictures.values())}))
    finally:
        sys.path[:] = known  # MLflow adds the folder of the model's own code
    return dict(zip(pictures, table["probabilities"].tolist(), strict=True))


def _log(
    run: Run,
    name: str,
    classifier: Classifier,
    example: bytes,
    trained_on: Digests | None,
    pictures: Mapping[str, bytes],
    answers: Probabilities,
) -> tuple[str, str]:
    """The classifier as a logged model of the run: its URI and id."""
    run.tracking.use()
    with (
        run.tracking.answering(),
        tempfile.TemporaryDirectory(prefix="imgrec-") as temporary,
        mlflow.start_run(run_id=run.id),
    ):
        folder = Path(temporary) / FOLDER  # MLflow keeps the name
        classifier.save(folder)
        keep_golden(folder, pictures, answers)
        if trained_on is not None:
            np.save(folder / TRAINED_ON, trained_on, allow_pickle=False)
        logged = mlflow.pyfunc.log_model(
            name=name.replace(".", "-"),  # which MLflow does not take
            python_model=served_model.__file__,
            artifacts={"classifier": str(folder)},
            # The code that made the model travels with it, so it serves the same for ever.
            code_paths=[str(_served_code(Path(temporary)))],
            signature=SIGNATURE,
            model_config=served_model.DEFAULTS,
            input_example=pd.DataFrame({"image": [example]}),
            pip_requirements=_requirements(classifier),
        )
    return logged.model_uri, logged.model_id


def _served_code(folder: Path) -> Path:
    """A copy of the package with nothing but what serving needs."""
    copy = folder / PACKAGE.name
    for file in files_behind(SERVED, PACKAGE):
        target = copy / file.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return copy


def _requirements(classifier: Classifier) -> list[str]:
    needs = list(SERVING_NEEDS)
    with suppress(PackageNotFoundError):
        version("pillow-heif")
        needs.append("pillow-heif")  # who trained with it serves with it
    if not classifier.card.model.is_compact:
        needs += ["timm", "torchvision"]
    needs += [PACKAGES[one.filter] for one in classifier.card.filters if one.filter in PACKAGES]
    return [f"{package}=={version(package)}" for package in dict.fromkeys(needs)]
