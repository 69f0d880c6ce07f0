"""Registered models, or classifiers in folders, as a server: joins serving with tracking.

`build` is what Ray Serve imports (cluster/serve/serve.yaml); it needs imgrec[serve].
"""

import functools
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from imgrec.config import Config, load_config
from imgrec.errors import ConfigError, TrackingError
from imgrec.named import is_folder_of
from imgrec.serving.guard import TOKEN
from imgrec.serving.source import Fetched, FolderSource, ModelSource
from imgrec.tracking.connection import Tracking, connect
from imgrec.tracking.tags import ABOUT
from imgrec.tracking.versions import CHAMPION, fetch_version, find_version, list_versions

if TYPE_CHECKING:
    from imgrec.serving.replicas import Application


class Arguments(BaseModel):
    """Of `build`: what `imgrec serve` takes, and how many replicas there are."""

    model_config = ConfigDict(extra="forbid")

    models: list[str] = []
    settings: list[str] = []
    """As `--set` takes them."""
    replicas: int = Field(default=1, ge=1)
    cpus: float = Field(default=1.0, gt=0)
    """Cores of each replica."""
    without_token: bool = False
    """Answer whoever asks; else IMGREC_TOKEN must be set where the replicas run."""


def build(arguments: Arguments) -> "Application":
    """An application for Ray Serve.

    Raises:
        ConfigError: a setting is wrong, or there is no token and nobody has said that none is wanted.
    """
    from imgrec.serving.replicas import application  # noqa: PLC0415 - Ray Serve is an extra

    config = load_config(None, arguments.settings)
    token = os.environ.get(TOKEN, "")
    if not token and not arguments.without_token:
        msg = f"{TOKEN} is not set: set it under runtime_env, or say without_token: true"
        raise ConfigError(msg)
    make = functools.partial(source_of, config, arguments.models)
    return application(
        make,
        config.serve,
        token,
        replicas=arguments.replicas,
        cpus=arguments.cpus,
    )


class RegisteredModels:
    """Versions of registered models, as their aliases name them at the time."""

    def __init__(self, tracking: Tracking, models: Sequence[str]) -> None:
        """These models.

        Args:
            tracking: Where they are registered.
            models: As `imgrec predict` takes them: `digits-cnn`, `digits-cnn@alias`, `digits-cnn/3`.

        Raises:
            ConfigError: one is named twice.
        """
        self._tracking = tracking
        parts = [_parts(model) for model in models]
        named = Counter(name for name, _ in parts)
        # A model by its name alone, where that says which.
        names = [name if named[name] == 1 else f"{name}@{which}" for name, which in parts]
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            msg = f"{twice[0]}: named twice"
            raise ConfigError(msg)
        self._models = dict(zip(names, models, strict=True))

    def names(self) -> list[str]:
        """Of the models, by which they are served."""
        return list(self._models)

    def wanted(self, name: str) -> str:
        """The version that the model's alias names now.

        Raises:
            TrackingError: MLflow does not answer, or has no such model, version or alias.
        """
        return str(find_version(self._tracking, self._models[name]).version)

    @contextmanager
    def fetch(self, name: str, version: str) -> Iterator[Fetched]:
        """Its files where they lie, or as a copy; none is as it was when the version was registered, or it is refused.

        Raises:
            TrackingError: MLflow does not answer.
            ClassifierError: a file was changed.
        """
        model, _ = _parts(self._models[name])
        registered = find_version(self._tracking, f"{model}/{version}")
        facts = {
            key.removeprefix(ABOUT): value
            for key, value in sorted(registered.tags.items())
            if key.startswith(ABOUT)
        }
        with tempfile.TemporaryDirectory(prefix="imgrec-") as copy:
            into = None if self._tracking.is_local else Path(copy)
            yield Fetched(fetch_version(self._tracking, registered, into), facts)


def source_of(config: Config, models: Sequence[str]) -> ModelSource:
    """Where these models come from.

    Args:
        config: Names the MLflow.
        models: Registered ones, or folders with a classifier each; none stands for every champion on record.

    Raises:
        ConfigError: both kinds are named, or one twice.
        ClassifierError: a folder holds no classifier.
        TrackingError: MLflow does not answer, or no model is champion.
    """
    folders = [Path(model) for model in models if is_folder_of(model)]
    if folders and len(folders) < len(models):
        msg = "folders and registered models cannot be served together; name one kind"
        raise ConfigError(msg)
    if folders:
        names = {folder.resolve().name: folder for folder in folders}
        if len(names) < len(folders):
            msg = "two of the folders have the same name, and models go by it"
            raise ConfigError(msg)
        return FolderSource(names)
    tracking = connect(config.tracking, Path(config.storage), create=False)
    if not models:
        versions, _ = list_versions(tracking)
        models = [one.name for one in versions if one.champion]
        if not models:
            msg = "no model is champion yet; imgrec run trains some, imgrec models lists them"
            raise TrackingError(msg)
    return RegisteredModels(tracking, models)


def _parts(model: str) -> tuple[str, str]:
    """The name, and which of its versions, of what people write."""
    plain = model.removeprefix("models:/")
    name, at, alias = plain.partition("@")
    name, slash, number = name.partition("/")
    return name, alias if at else number if slash else CHAMPION
