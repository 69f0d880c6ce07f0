"""Versions of registered models: which there are, which one is champion, and how to fetch one.

Imports no torch: `imgrec models` answers in the time that MLflow takes to import.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import mlflow
import numpy as np
import numpy.typing as npt
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from imgrec.config.architectures.architecture import REGISTERED
from imgrec.errors import TrackingError
from imgrec.tracking.connection import Tracking
from imgrec.tracking.hashes import refuse_changed
from imgrec.tracking.tags import ARCH, BEGINS_WITH, RANDOM, SEEN

CHAMPION, CHALLENGER = "champion", "challenger"
# What MLflow answers where there is no such model, version or alias, or no such name can be.
ABSENT = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"})
SHOWN_SCORES = ("accuracy", "macro_f1", "balanced_accuracy", "loss")
FOLDER = "classifier"
TRAINED_ON = "trained_on.npy"
"""Beside the classifier: digests of the pictures that it has learned from, (N,) V16, ascending."""
Digests = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """A version of a registered model.

    Attributes:
        name: Such as `digits-cnn`.
        version: From 1.
        champion_version: That the alias `champion` points to; 0 where there is none.
        run_id: The run that made it.
        tags: Data fingerprint, code version and scores, as text.
        challenger_version: That the alias `challenger` points to, as far as that was asked; 0 where there is none.
    """

    name: str
    version: int
    champion_version: int
    run_id: str
    tags: dict[str, str]
    challenger_version: int = 0

    @property
    def challenger(self) -> bool:
        """Whether it waits for what is decided about it, or was refused last."""
        return self.challenger_version == self.version

    @property
    def champion(self) -> bool:
        """Whether it is the one that the alias `champion` points to."""
        return self.champion_version == self.version

    @property
    def begins_with(self) -> str:
        """The name of the weights that it began with, or `random weights`, as all did before there was a choice."""
        return self.tags.get(BEGINS_WITH, RANDOM)


def registered(version: ModelVersion, champion: ModelVersion | None) -> RegisteredVersion:
    """From MLflow's own, and the champion of the model."""
    leads = int(champion.version) if champion else 0
    number, tags = int(version.version), dict(version.tags)
    return RegisteredVersion(version.name, number, leads, version.run_id, tags)


def find_challenger(tracking: Tracking, name: str, number: int = 0) -> RegisteredVersion:
    """The version with this number; without one the challenger, or else the newest.

    Raises:
        TrackingError: there is none.
    """
    versions = [one for one in list_versions(tracking)[0] if one.name == name]
    if number:
        found = next((one for one in versions if one.version == number), None)
    else:
        with tracking.answering():
            model = tracking.client.get_registered_model(name) if versions else None
        alias = int(model.aliases.get(CHALLENGER, 0)) if model else 0
        found = next(
            (one for one in versions if one.version == alias), versions[0] if versions else None
        )
    if found is None:
        known = sorted({one.name for one in list_versions(tracking)[0]})
        numbers = ", ".join(str(one.version) for one in versions)
        there = (
            f"it has version {numbers}"
            if numbers
            else f"there are {', '.join(known) or 'none yet'}"
        )
        msg = f"{name}{f'/{number}' if number else ''}: no such model ({there}); imgrec models lists them"
        raise TrackingError(msg)
    return found


def find_registered(tracking: Tracking, model: str) -> RegisteredVersion:
    """The version that such a name stands for now, with the champion of its model.

    Raises:
        TrackingError: there is no such model, version or alias.
    """
    version = find_version(tracking, model)
    return registered(version, champion_of(tracking, version.name))


def version_of(tracking: Tracking, run_id: str) -> RegisteredVersion | None:
    """The registered version that a run made, if it is still there."""
    with tracking.answering():
        version = next(iter(tracking.client.search_model_versions(f"run_id = '{run_id}'")), None)
    if version is None or not _has_files(tracking, version):
        return None
    return registered(version, champion_of(tracking, version.name))


def list_versions(tracking: Tracking) -> tuple[list[RegisteredVersion], int]:
    """Every version of every model that imgrec registered, newest first within a model.

    And how many more have imgrec's mark but not its scores: somebody else wrote them.
    """
    client = tracking.client
    with tracking.answering():
        aliases = {
            model.name: [int(model.aliases.get(one, 0)) for one in (CHAMPION, CHALLENGER)]
            for model in _pages(client.search_registered_models)
        }
        # All at once: in a filter a name with a quote in it could not be written.
        ours = [v for v in _pages(client.search_model_versions) if ARCH in v.tags]
    versions = [
        RegisteredVersion(v.name, int(v.version), champion, v.run_id, v.tags, challenger)
        for v in ours
        if _is_ours(v.tags)
        for champion, challenger in [aliases.get(v.name, [0, 0])]
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
    return fetch_version(tracking, find_version(tracking, model))


def find_version(tracking: Tracking, model: str) -> ModelVersion:
    """The version that such a name stands for now.

    Raises:
        TrackingError: there is no such model, version or alias.
    """
    name, at, alias = model.removeprefix(REGISTERED).partition("@")
    name, slash, number = name.partition("/")
    try:
        if slash and not at:
            return tracking.client.get_model_version(name, number)
        return tracking.client.get_model_version_by_alias(name, alias or CHAMPION)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            with tracking.answering():
                raise
        versions = [v for v in list_versions(tracking)[0] if v.name == name]
        if versions and not slash and alias in {"", CHAMPION}:
            msg = f"{model}: none of its {len(versions)} versions is champion; name one: {name}/{versions[0].version}"
            raise TrackingError(msg) from error
        known = sorted({v.name for v in list_versions(tracking)[0]})
        hint = f"there are {', '.join(known)}" if known else "none is registered yet"
        msg = f"{model}: no such model ({hint}); imgrec models lists them"
        raise TrackingError(msg) from error


def fetch_version(tracking: Tracking, version: ModelVersion, into: Path | None = None) -> Path:
    """The classifier of a version as a folder of this machine, its files as they were registered.

    Args:
        tracking: Where it is registered.
        version: Which.
        into: Where to copy it to; without, it is used where it lies, or MLflow makes a folder for the copy.

    Raises:
        ClassifierError: a file is not as it was when the model was registered.
    """
    folder = download(tracking, f"{REGISTERED}{version.name}/{version.version}", into)
    refuse_changed(folder, version.tags, f"{version.name}/{version.version}")
    return folder / "artifacts" / FOLDER


def read_trained_on(folder: Path) -> Digests | None:
    """Digests of the pictures that a fetched classifier has learned from; None of one of an earlier imgrec."""
    file = folder / TRAINED_ON
    if not file.is_file():
        return None
    digests: Digests = np.load(file, allow_pickle=False)
    return digests


def has_seen(tags: Mapping[str, str]) -> bool:
    """Whether what a version began with has learned from pictures that judge it, or nobody knows."""
    return any(count != 0 for count in json.loads(tags.get(SEEN, "{}")).values())


def download(tracking: Tracking, uri: str, into: Path | None = None) -> Path:
    """What a URI of MLflow's names, as a folder of this machine."""
    tracking.use()
    with tracking.answering():
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=into and str(into)))


def _has_files(tracking: Tracking, version: ModelVersion) -> bool:
    """Whether the files of a version are there, as far as can be seen without fetching them."""
    with tracking.answering():
        address = tracking.client.get_model_version_download_uri(version.name, version.version)
    return not address.startswith("file://") or Path(unquote(urlsplit(address).path)).is_dir()


def champion_of(tracking: Tracking, name: str) -> ModelVersion | None:
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
