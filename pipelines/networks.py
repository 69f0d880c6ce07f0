"""Which network each architecture has, and what it begins with, where the settings leave it to the data."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import torch

from imgrec.config import Arch, Branch, ClusterConfig, Config, ModelConfig
from imgrec.config.architectures.architecture import AUTO, COMPACT, INPUT_SIDE
from imgrec.data.shape import LEAST_PHOTO_SIDE, are_photos
from imgrec.data.store import Store
from imgrec.errors import ConfigError
from imgrec.models.families import refuse_foreign
from imgrec.models.sources import NOT_HERE, Sources, input_side
from imgrec.models.weights import Weights
from imgrec.preprocess.view import MARGIN
from pipelines.registered import RegisteredStart

ON_GPU = "on_gpu"
"""Beside the architectures in what a run was begun with: `yes` or `no`."""


@dataclass(frozen=True, slots=True)
class KnownWeights:
    """Weights that networks begin with, each found once.

    Attributes:
        sources: Where published ones are looked for.
        registered: Starts from registered models, by version (`models:/photos-cnn/3`).
        takes_one_size: Networks that were found to take pictures of one size only.
    """

    sources: Sources
    registered: Mapping[str, RegisteredStart] = field(default_factory=dict)
    takes_one_size: set[str] = field(default_factory=set)
    _found: dict[tuple[str, bool | str], Weights] = field(default_factory=dict)

    def start_of(self, model: ModelConfig) -> RegisteredStart | None:
        """The registered model that a network begins with; None where it is none."""
        return self.registered[str(model.pretrained)] if model.begins_with_registered else None

    def of(self, model: ModelConfig) -> Weights | None:
        """What a network begins with; None where its weights are random.

        Raises:
            ConfigError: they cannot be had, or may not be used.
        """
        if not model.is_pretrained:
            return None
        if start := self.start_of(model):
            return start.weights
        key = (model.backbone, model.pretrained)
        if key not in self._found:
            self._found[key] = self.sources.find(model)
        return self._found[key]


def sources_of(config: Config, *, planning: bool = False) -> Sources:
    """Where the settings let weights be looked for; whoever plans fetches nothing."""
    pretrained = config.pretrained
    return Sources(
        storage=Path(config.storage),
        folder=Path(pretrained.folder) if pretrained.folder else None,
        allow_noncommercial=pretrained.allow_noncommercial,
        planning=planning,
    )


def asked(config: Config) -> str:
    """A hash of the settings that decide what is trained, as they were written."""
    how = config.model_dump(mode="json", include={"name", "seed", "archs", "data", "pretrained"})
    written = [[branch.written, branch.written_space] for branch in config.branches]
    return hashlib.sha256(json.dumps([how, written], sort_keys=True).encode()).hexdigest()[:16]


def photo_side(
    config: Config, registered: Mapping[str, RegisteredStart] = MappingProxyType({})
) -> int:
    """The side in pixels that a store of photos is to have for these networks; 0 where it matters to none.

    By the settings alone: whether published weights are found must not decide what a store holds.

    Args:
        config: The settings, with the networks of registered models.
        registered: Those models.
    """
    sides = [_input_side(branch.model, config, registered) for branch in config.branches]
    return round(MARGIN * max(sides)) if any(sides) else 0


def _input_side(
    model: ModelConfig, config: Config, registered: Mapping[str, RegisteredStart]
) -> int:
    if not (model.is_open or model.is_pretrained):
        return 0
    if model.begins_with_registered:
        side = max(registered[str(model.pretrained)].weights.input_size)
        return 0 if model.is_compact else side
    if model.backbone != AUTO:
        refuse_foreign(model.arch, model.backbone)
    if config.data.image_size:
        return max(config.data.image_size)
    return INPUT_SIDE if model.backbone == AUTO else input_side(model.backbone)


def decide_networks(
    config: Config,
    store: Store,
    weights: KnownWeights,
    decided: Mapping[str, str] = MappingProxyType({}),
    *,
    on_gpu: bool,
) -> tuple[Config, tuple[str, ...]]:
    """The settings with `backbone = "auto"` decided for every architecture.

    The rule: of photos (`are_photos`) a network that has learned from others, the same for everybody, where its
    weights can be had: where there is a GPU `gpu_backbone`, and without that or without its weights
    `default_backbone`; of other pictures, or without any weights, a compact network that begins with random
    weights. What a run was begun with holds for whoever goes on with it.

    Args:
        config: The settings, with the networks of registered models.
        store: The pictures.
        weights: Where weights are.
        decided: What a run was begun with: the backbone of each architecture, and ON_GPU.
        on_gpu: Whether training has GPUs.

    Returns:
        The settings, and for people what was decided and why.
    """
    branches, notes, compact = list[Branch](), list[str](), dict[str, list[Arch]]()
    for branch in config.branches:
        model = branch.model
        if not model.is_open:
            settled = model.backbone != AUTO
            if model.begins_with_registered:
                notes.append(f"{branch.arch}: begins with the weights {weights.of(model)}")
            branches.append(branch if settled else branch.with_network(COMPACT, pretrained=False))
            continue
        if branch.arch in decided:
            name = decided[branch.arch]
            why_compact = "the run was begun so; --fresh decides anew" if name == COMPACT else ""
        else:
            name, why_compact = _choose(branch, config, store, weights, on_gpu=on_gpu)
        branches.append(branch.with_network(name, pretrained=name != COMPACT))
        if name == COMPACT:
            compact.setdefault(why_compact, []).append(branch.arch)
            notes += [
                f"{branch.arch}: train.{setting} has no effect: its network begins with random weights"
                for setting in branch.without_effect
            ]
            continue
        found = weights.of(branches[-1].model)
        notes.append(f"{branch.arch}: begins with the weights {found}: the pictures are photos")
        if config.search.wanted:
            others = [other for other in model.other_backbones if weights.sources.has(other)]
            branches[-1] = branches[-1].with_backbones(others)
    for reason, archs in compact.items():
        text = f"{', '.join(archs)}: compact, from random weights: {reason}"
        if reason.startswith(NOT_HERE):
            names = [config.branch(arch).model.default_backbone for arch in archs]
            text += f"; imgrec fetch {' '.join(names)} brings them where there is a network"
        notes.append(text)
    return config.model_copy(update={"branches": tuple(branches)}), tuple(notes)


def _choose(
    branch: Branch, config: Config, store: Store, weights: KnownWeights, *, on_gpu: bool
) -> tuple[str, str]:
    """The network of an architecture that leaves it to the data, and where it is compact, why."""
    if not are_photos(store.looks(), store.image_shape[2]):
        return COMPACT, _why_no_photos(store)
    model, reason = branch.model, ""
    for name in [model.gpu_backbone] * on_gpu + [model.default_backbone]:
        reason = _why_without(name, branch, config, weights)
        if not reason:
            return name, ""
    return COMPACT, reason


def _why_without(name: str, branch: Branch, config: Config, weights: KnownWeights) -> str:
    """Why an architecture is compact though the pictures are photos; empty where it is not."""
    if set(branch.written_space.get("model", ())) - {"backbone"}:
        return "its search space is that of the compact network"
    size = config.data.image_size
    if branch.model.fixed_size and size and size != (INPUT_SIDE, INPUT_SIDE):
        return f"data.image_size is set, and {name} takes {INPUT_SIDE} x {INPUT_SIDE} pixels only"
    if reason := weights.sources.why_without(name):
        return reason
    try:
        weights.of(branch.with_network(name, pretrained=True).model)
    except ConfigError as error:  # a hub that has no such file, or goes away in the middle
        return str(error).partition(": ")[2]
    return ""


def training_on_gpu(
    cluster: ClusterConfig, decided: Mapping[str, str], found: bool | None = None
) -> bool:
    """Whether training will have GPUs; what a run was begun with holds.

    Args:
        cluster: The settings.
        decided: What a run was begun with.
        found: Whether the cluster has some; this machine is asked where nothing is said.
    """
    if ON_GPU in decided:
        return decided[ON_GPU] == "yes"
    if found is None:
        found = torch.cuda.is_available()
    return found if cluster.use_gpu == "auto" else cluster.use_gpu


def _why_no_photos(store: Store) -> str:
    if store.image_shape[2] == 1:
        return "the pictures are grey"
    return f"the pictures are smaller than photos ({LEAST_PHOTO_SIDE} pixels)"
