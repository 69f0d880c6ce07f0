"""Registered models: how they get there, which one is champion, and how to fetch one."""

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, DataType, Map, Schema

from imgrec.classifier import Classifier
from imgrec.config import CnnConfig
from imgrec.errors import TrackingError
from imgrec.preprocess.filters import PACKAGES
from imgrec.tracking import served_model
from imgrec.tracking.connection import Tracking
from imgrec.tracking.hashes import hash_tags, refuse_changed
from imgrec.tracking.runs import Run
from imgrec.tracking.tags import ARCH
from imgrec.training.metrics import MONITOR
from imgrec.version import PACKAGE, files_behind

CHAMPION = "champion"
MODELS = "models:/"
# What MLflow answers where there is no such model, version or alias, or no such name can be.
ABSENT = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"})
SHOWN_SCORES = ("accuracy", "macro_f1", "balanced_accuracy", "loss")
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
SERVED = ("classifier", "tracking.served_model")
"""What a served model runs: these, and all that they import. The rest would be 60 more files to upload, one by one."""
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
        why_not: Where it was just registered and is not champion: why, in a line.
    """

    name: str
    version: int
    champion: bool
    run_id: str
    tags: dict[str, str]
    why_not: str = ""


def register(
    run: Run,
    name: str,
    classifier: Classifier,
    example: bytes,
    tags: Mapping[str, Any],
) -> RegisteredVersion:
    """Log a classifier to its run, register it, and make it champion if nothing speaks against it.

    It becomes champion where there is none, and over one that was scored on the same pictures of the same
    data with a lower `val/macro_f1`; the test score chooses nothing. Over any other it is for a person to
    decide.

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
        text |= hash_tags(_download(run.tracking, uri))
        with tracking.answering():
            try:
                client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            made = client.create_model_version(name, uri, run.id, tags=text, model_id=model_id)
    champion = _champion(tracking, name)
    why_not = "" if champion is None or champion.run_id == run.id else _why_not(text, champion)
    if not why_not:
        with tracking.answering():
            client.set_registered_model_alias(name, CHAMPION, made.version)
    kept = dict(made.tags) or text
    return RegisteredVersion(name, int(made.version), not why_not, run.id, kept, why_not)


def version_of(tracking: Tracking, run_id: str) -> RegisteredVersion | None:
    """The registered version that a run made, if it is still there."""
    with tracking.answering():
        version = next(iter(tracking.client.search_model_versions(f"run_id = '{run_id}'")), None)
    if version is None or not _has_files(tracking, version):
        return None
    champion = _champion(tracking, version.name)
    leads = champion is not None and champion.version == version.version
    return RegisteredVersion(version.name, int(version.version), leads, run_id, version.tags)


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
    copy = folder / PACKAGE.name
    for file in files_behind(SERVED, PACKAGE):
        target = copy / file.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return copy


def list_versions(tracking: Tracking) -> tuple[list[RegisteredVersion], int]:
    """Every version of every model that imgrec registered, newest first within a model.

    And how many more have imgrec's mark but not its scores: somebody else wrote them.
    """
    client = tracking.client
    with tracking.answering():
        champions = {
            model.name: str(model.aliases.get(CHAMPION, ""))
            for model in _pages(client.search_registered_models)
        }
        # All at once: in a filter a name with a quote in it could not be written.
        ours = [v for v in _pages(client.search_model_versions) if ARCH in v.tags]
    versions = [
        RegisteredVersion(
            v.name, int(v.version), str(v.version) == champions.get(v.name), v.run_id, v.tags
        )
        for v in ours
        if _is_ours(v.tags)
    ]
    return sorted(versions, key=lambda v: (v.name, -v.version)), len(ours) - len(versions)


def _pages(search: Callable[..., Any]) -> Iterator[Any]:
    token = None
    while True:
        page = search(max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _is_ours(tags: Mapping[str, str]) -> bool:
    """Whether a version has everything that is shown of it."""
    if not {"data.fingerprint", "code.version"} <= tags.keys():
        return False
    try:
        return all(math.isfinite(float(tags[f"test/{name}"])) for name in SHOWN_SCORES)
    except (KeyError, ValueError):
        return False


def fetch_classifier(tracking: Tracking, model: str) -> Path:
    """The classifier of a registered model as a folder of this machine, its files as they were registered.

    Args:
        tracking: Where it is registered.
        model: `digits-cnn` (its champion), `digits-cnn@alias` or `digits-cnn/3`, or the same as a URI of
            MLflow's: `models:/digits-cnn/3`.

    Raises:
        TrackingError: there is no such model, version or alias.
        ClassifierError: a file is not as it was when the model was registered.
    """
    name, at, alias = model.removeprefix(MODELS).partition("@")
    name, slash, number = name.partition("/")
    try:
        if slash and not at:
            version: ModelVersion = tracking.client.get_model_version(name, number)
        else:
            version = tracking.client.get_model_version_by_alias(name, alias or CHAMPION)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            with tracking.answering():
                raise
        known = sorted({v.name for v in list_versions(tracking)[0]})
        hint = f"there are {', '.join(known)}" if known else "none is registered yet"
        msg = f"{model}: no such model ({hint}); imgrec models lists them"
        raise TrackingError(msg) from error
    folder = _download(tracking, f"{MODELS}{name}/{version.version}")
    refuse_changed(folder, version.tags, f"{name}/{version.version}")
    return folder / "artifacts" / FOLDER


def _download(tracking: Tracking, uri: str) -> Path:
    tracking.use()
    with tracking.answering():
        return Path(mlflow.artifacts.download_artifacts(uri))


def _requirements(classifier: Classifier) -> list[str]:
    needs = list(SERVING_NEEDS)
    if isinstance(classifier.card.model, CnnConfig) and classifier.card.model.backbone != "compact":
        needs.append("torchvision")
    needs += [PACKAGES[one.filter] for one in classifier.card.filters if one.filter in PACKAGES]
    return [f"{package}=={version(package)}" for package in dict.fromkeys(needs)]


def _has_files(tracking: Tracking, version: ModelVersion) -> bool:
    """Whether the files of a version are there, as far as can be seen without fetching them."""
    with tracking.answering():
        address = tracking.client.get_model_version_download_uri(version.name, version.version)
    return not address.startswith("file://") or Path(unquote(urlsplit(address).path)).is_dir()


def _champion(tracking: Tracking, name: str) -> ModelVersion | None:
    """The champion of a model; None where it has none, and an error where MLflow does not say."""
    with tracking.answering():
        try:
            model = tracking.client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        version = model.aliases.get(CHAMPION)
        return tracking.client.get_model_version(name, version) if version else None


def _why_not(new: Mapping[str, str], champion: ModelVersion) -> str:
    """Why a version does not become champion over this one; empty if it does."""
    old, way = champion.tags, "MLflow's UI or set_registered_model_alias makes it champion"
    if any(new[key] != old.get(key) for key in ("data.fingerprint", "data.splits")):
        return (
            f"version {champion.version} stays champion, for it was scored on other pictures; {way}"
        )
    try:
        score = float(old[MONITOR])
    except (KeyError, ValueError):
        return f"version {champion.version} stays champion, for it has no score; {way}"
    if float(new[MONITOR]) >= score:
        return ""
    return f"version {champion.version} stays champion: it was better on the same data"
