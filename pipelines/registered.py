"""Registered models as a start: the network of one, its weights but those of the last layer, and what it knows."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from imgrec.classifier import OF_TORCHVISION, WEIGHTS, Card, read_card
from imgrec.config import Branch, Config
from imgrec.config.architectures.architecture import REGISTERED
from imgrec.data.splits import Splits
from imgrec.data.store import Store
from imgrec.errors import ConfigError
from imgrec.machine import locked
from imgrec.models.weights import Weights, hash_of, keep, refuse_noncommercial
from imgrec.tracking.connection import Tracking, connect
from imgrec.tracking.versions import Digests, fetch_version, find_version, read_trained_on


@dataclass(frozen=True, slots=True)
class RegisteredStart:
    """What a registered model gives to one that begins with it.

    Attributes:
        weights: All of its weights; of the last layer nothing is taken.
        trained_on: Digests of the pictures that it has learned from, those of its own start among them; None where
            an earlier imgrec has registered it.
    """

    weights: Weights
    trained_on: Digests | None

    def seen(self, store: Store, splits: Splits) -> dict[str, int | None]:
        """How many pictures of the splits that judge it has learned from; None where nobody knows."""
        if self.trained_on is None:
            return {"val": None, "test": None}
        digests = store.looks()["digest"]
        return {
            name: int(np.isin(digests[rows], self.trained_on).sum())
            for name, rows in (("val", splits.val), ("test", splits.test))
        }


def learned_from(store: Store, splits: Splits, start: RegisteredStart | None) -> Digests | None:
    """Digests of the pictures that a model has learned from, by itself or before; None where that is not known."""
    digests: Digests = store.looks()["digest"][splits.train]
    if start is None:
        return np.unique(digests)
    if start.trained_on is None:
        return None
    return np.unique(np.concatenate([digests, start.trained_on]))


def begin_with_registered(
    config: Config,
    tracking: Tracking | None = None,
    decided: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Config, dict[str, RegisteredStart]]:
    """The settings with the networks of the registered models that they name, each by its version.

    Args:
        config: The settings as they were written.
        tracking: Where the models are registered; connected to where nothing is said and one is named.
        decided: What a run was begun with, by architecture: `champion` may be another by now.

    Returns:
        The settings, and the starts by version (`models:/photos-cnn/3`).

    Raises:
        TrackingError: there is no such model, version or alias.
        ClassifierError: its files are not as they were registered.
        ConfigError: it is of another architecture, the settings ask for another network, or its licence is refused.
    """
    branches, starts = list[Branch](), dict[str, RegisteredStart]()
    for branch in config.branches:
        if not branch.model.begins_with_registered:
            branches.append(branch)
            continue
        tracking = tracking or connect(config.tracking, Path(config.storage), create=False)
        begun = decided.get(branch.arch, "")
        named = begun if begun.startswith(REGISTERED) else str(branch.model.pretrained)
        version = find_version(tracking, named)
        name = f"{REGISTERED}{version.name}/{version.version}"
        with tempfile.TemporaryDirectory(prefix="imgrec-") as copy:
            folder = fetch_version(tracking, version, None if tracking.is_local else Path(copy))
            card = read_card(folder)
            filters = [one.model_dump() for one in card.filters]
            branches.append(branch.with_registered(card.model, name, filters))
            where = f"{branch.arch}.model.pretrained"
            weights = _kept(card, folder / WEIGHTS, name, config, where)
            starts[name] = RegisteredStart(weights, read_trained_on(folder))
    return config.model_copy(update={"branches": tuple(branches)}), starts


def _kept(card: Card, file: Path, name: str, config: Config, where: str) -> Weights:
    """Its weights as a file under the storage, which every worker sees."""
    if card.format == OF_TORCHVISION and not card.model.is_compact:
        msg = f"{where}: the network of {name} is torchvision's, of an earlier imgrec; none begins with it"
        raise ConfigError(msg)
    began_with = card.made_by.get("weights") or None
    licence = str(began_with["licence"]) if began_with else ""
    if not config.pretrained.allow_noncommercial:
        refuse_noncommercial(licence, name, where)
    home = Path(config.storage) / "weights"
    home.mkdir(parents=True, exist_ok=True)
    sha256 = hash_of(file)
    kept = home / f"{sha256}.safetensors"
    with locked(home / "lock"):
        if not kept.is_file() or hash_of(kept) != sha256:
            keep(home, lambda part: shutil.copyfile(file, part))
    return Weights(
        name=name.removeprefix(REGISTERED),
        source="registered here",
        licence=licence,
        sha256=sha256,
        file=kept,
        input_size=card.view.size,
        crop_ratio=card.view.crop_ratio,
        interpolation=card.view.interpolation,
        mean=tuple(card.statistics.mean),
        std=tuple(card.statistics.std),
        began_with=began_with,
    )
