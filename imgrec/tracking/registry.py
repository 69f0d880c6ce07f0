"""Registered models: how they get there, which one is champion, and how to fetch one."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, DataType, Map, Schema

import imgrec
from imgrec.classifier import Classifier
from imgrec.config import CnnConfig
from imgrec.errors import TrackingError
from imgrec.preprocess.filters import PACKAGES
from imgrec.tracking import served_model
from imgrec.tracking.connection import Tracking
from imgrec.tracking.runs import Run

CHAMPION = "champion"
FOLDER = "classifier"
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
SERVED = (
    "__init__.py",
    "classifier.py",
    "config",
    "data/__init__.py",
    "data/decode.py",
    "data/guarded.py",
    "data/parallel.py",
    "data/sources/__init__.py",
    "data/sources/sample.py",
    "errors.py",
    "machine.py",
    "models",
    "preprocess",
    "tracking/__init__.py",
    "tracking/served_model.py",
    "training/__init__.py",
    "training/precision.py",
)
"""What of imgrec a classifier is made of. The rest would be 60 more files to upload, one by one."""
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, "image")]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "label"),
            ColSpec(DataType.double, "probability"),
            ColSpec(Map(DataType.double), "probabilities"),
        ]
    ),
)


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """A version of a registered model.

    Attributes:
        name: Such as `digits-cnn`.
        version: From 1.
        champion: Whether the alias `champion` points to it.
        run_id: The run that made it.
        tags: Data fingerprint, code version and scores, as text.
    """

    name: str
    version: int
    champion: bool
    run_id: str
    tags: dict[str, str]


def register(
    run: Run,
    name: str,
    classifier: Classifier,
    example: bytes,
    tags: Mapping[str, Any],
) -> RegisteredVersion:
    """Log a classifier to its run, register it, and make it champion unless a better one is.

    Better is decided by `val/macro_f1`, never by the test score, and only among models of the same
    data: a champion that was chosen on other data is replaced.

    Args:
        run: The run that made it.
        name: Of the registered model.
        classifier: What is registered.
        example: An encoded picture, kept as the input example.
        tags: Must hold `data.fingerprint`, `data.splits` and `val/macro_f1`.
    """
    tracking, client = run.tracking, run.tracking.client
    text = {key: str(value) for key, value in tags.items()}
    with tracking.answering():
        # A process that was killed on the way may have left it behind.
        made = next(iter(client.search_model_versions(f"run_id = '{run.id}'")), None)
    if made is None:
        uri, model_id = _log(run, classifier, example)
        with tracking.answering():
            try:
                client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            made = client.create_model_version(name, uri, run.id, tags=text, model_id=model_id)
    with tracking.answering():
        champion = _champion(tracking, name)
        wins = champion is None or champion.run_id == run.id or _is_better(text, champion.tags)
        if wins:
            client.set_registered_model_alias(name, CHAMPION, made.version)
    return RegisteredVersion(name, int(made.version), wins, run.id, text)


def version_of(tracking: Tracking, run_id: str) -> RegisteredVersion | None:
    """The registered version that a run made, if it is still there."""
    with tracking.answering():
        found = next(iter(tracking.client.search_model_versions(f"run_id = '{run_id}'")), None)
    if found is None:
        return None
    champion = _champion(tracking, found.name)
    leads = champion is not None and champion.version == found.version
    return RegisteredVersion(found.name, int(found.version), leads, run_id, found.tags)


def _log(run: Run, classifier: Classifier, example: bytes) -> tuple[str, str]:
    """The classifier as a logged model of the run: its URI and id."""
    run.tracking.use()
    with (
        run.tracking.answering(),
        tempfile.TemporaryDirectory(prefix="imgrec-") as temporary,
        mlflow.start_run(run_id=run.id),
    ):
        folder = Path(temporary) / FOLDER  # MLflow keeps the name
        classifier.save(folder)
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
    package = Path(imgrec.__file__).parent
    copy = folder / package.name
    for name in SERVED:
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (package / name).is_dir():
            shutil.copytree(package / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(package / name, target)
    return copy


def list_versions(tracking: Tracking) -> list[RegisteredVersion]:
    """Every version of every model that imgrec registered, newest first within a model."""
    with tracking.answering():
        models = tracking.client.search_registered_models(max_results=1000)
        found = [
            (version, model.aliases.get(CHAMPION))
            for model in models
            for version in tracking.client.search_model_versions(
                f"name = '{model.name}'", max_results=1000
            )
        ]
    versions = [
        RegisteredVersion(v.name, int(v.version), str(v.version) == str(champion), v.run_id, v.tags)
        for v, champion in found
        if "imgrec.arch" in v.tags
    ]
    return sorted(versions, key=lambda v: (v.name, -v.version))


def fetch_classifier(tracking: Tracking, model: str) -> Path:
    """The classifier of a registered model as a folder of this machine.

    Args:
        tracking: Where it is registered.
        model: `digits-cnn` (its champion), `digits-cnn@alias` or `digits-cnn/3`.

    Raises:
        TrackingError: there is no such model, version or alias.
    """
    name, at, alias = model.partition("@")
    name, slash, number = name.partition("/")
    try:
        if slash and not at:
            found: ModelVersion = tracking.client.get_model_version(name, number)
        else:
            found = tracking.client.get_model_version_by_alias(name, alias or CHAMPION)
    except MlflowException as error:
        known = sorted({v.name for v in list_versions(tracking)})
        hint = f"there are {', '.join(known)}" if known else "none is registered yet"
        msg = f"{model}: no such model ({hint}); imgrec models lists them"
        raise TrackingError(msg) from error
    tracking.use()
    with tracking.answering():
        folder = mlflow.artifacts.download_artifacts(f"models:/{name}/{found.version}")
    return Path(folder) / "artifacts" / FOLDER


def _requirements(classifier: Classifier) -> list[str]:
    needs = list(SERVING_NEEDS)
    if isinstance(classifier.card.model, CnnConfig) and classifier.card.model.backbone != "compact":
        needs.append("torchvision")
    needs += [PACKAGES[one.filter] for one in classifier.card.filters if one.filter in PACKAGES]
    return [f"{package}=={version(package)}" for package in dict.fromkeys(needs)]


def _champion(tracking: Tracking, name: str) -> ModelVersion | None:
    try:
        return tracking.client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException:
        return None


def _is_better(new: Mapping[str, str], old: Mapping[str, str]) -> bool:
    same_data = all(new[key] == old.get(key) for key in ("data.fingerprint", "data.splits"))
    return not same_data or float(new["val/macro_f1"]) >= float(old.get("val/macro_f1", "-1"))
