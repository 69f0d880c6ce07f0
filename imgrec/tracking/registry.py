"""How a classifier becomes a version of a registered model."""

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, Map, ParamSchema, ParamSpec, Schema

from imgrec.classifier import Classifier
from imgrec.preprocess.filters import PACKAGES
from imgrec.tracking import served_model
from imgrec.tracking.hashes import hash_tags
from imgrec.tracking.runs import Run
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
        ]
    ),
    params=ParamSchema(
        [
            ParamSpec("output", DataType.string, "all"),
            ParamSpec("priors", DataType.string, ""),
        ]
    ),
)


def register(
    run: Run,
    name: str,
    classifier: Classifier,
    example: bytes,
    tags: Mapping[str, Any],
    trained_on: Digests | None,
) -> RegisteredVersion:
    """Log a classifier to its run and register it as a version, which is challenger until something else is decided.

    Args:
        run: The run that made it.
        name: Of the registered model.
        classifier: What is registered.
        example: An encoded picture, kept as the input example.
        tags: Of the version; SEEN among them, where it began with a registered model.
        trained_on: Digests of the pictures that it has learned from; None where that is not known.
    """
    tracking, client = run.tracking, run.tracking.client
    text = {key: str(value) for key, value in tags.items()}
    with tracking.answering():
        # A process that was killed on the way may have left it behind.
        made = next(iter(client.search_model_versions(f"run_id = '{run.id}'")), None)
    if made is None:
        uri, model_id = _log(run, classifier, example, trained_on)
        text |= hash_tags(download(run.tracking, uri))
        with tracking.answering():
            try:
                client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            made = client.create_model_version(name, uri, run.id, tags=text, model_id=model_id)
    version = registered(made, champion_of(tracking, name))
    if not version.champion:
        with tracking.answering():
            client.set_registered_model_alias(name, CHALLENGER, version.version)
    return version


def _log(
    run: Run, classifier: Classifier, example: bytes, trained_on: Digests | None
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
        if trained_on is not None:
            np.save(folder / TRAINED_ON, trained_on, allow_pickle=False)
        logged = mlflow.pyfunc.log_model(
            name="classifier",
            python_model=served_model.__file__,
            artifacts={"classifier": str(folder)},
            # The code that made the model travels with it, so it serves the same for ever.
            code_paths=[str(_served_code(Path(temporary)))],
            signature=SIGNATURE,
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
