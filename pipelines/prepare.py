"""Pictures to a store, splits and one spec for each architecture."""

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from imgrec.config import Arch, Branch, Config, DataConfig, Filter
from imgrec.config.branch import BACKBONE
from imgrec.data.findings import Findings
from imgrec.data.parallel import end_decoders
from imgrec.data.scan import DecodeBackend
from imgrec.data.shape import are_photos, compact_size
from imgrec.data.sources.sample import Progress
from imgrec.data.splits import Splits, make_splits
from imgrec.data.store import Store, prepare_store
from imgrec.errors import ConfigError
from imgrec.models import build_model
from imgrec.models.weights import Weights
from imgrec.preprocess.augment import choose_augmentation
from imgrec.preprocess.filters import refuse_too_small
from imgrec.preprocess.recipe import ChannelStatistics
from imgrec.preprocess.statistics import channel_statistics
from imgrec.preprocess.view import View
from imgrec.tracking.connection import Tracking
from imgrec.training.growth import resized
from imgrec.training.microbatch import is_out_of_memory
from imgrec.training.optim import refuse_muon
from imgrec.training.spec import FitSpec
from imgrec.training.throughput import operations_of
from pipelines.networks import (
    KnownWeights,
    asked,
    decide_networks,
    photo_side,
    sources_of,
    training_on_gpu,
)
from pipelines.registered import begin_with_registered


@dataclass(frozen=True, slots=True)
class SpentBudget:
    """What a `train.budget` has come to.

    Attributes:
        settings: By key.
        network: That was measured, and what it begins with.
        workers: That were measured.
    """

    settings: dict[str, Any]
    network: str
    workers: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that is decided before training.

    Attributes:
        store: The decoded pictures.
        findings: What is wrong with them, or odd.
        splits: Which of them train, choose and test.
        config: The settings, with every network decided.
        asked: A hash of the settings before that.
        notes: For people, what was decided and why.
        weights: What networks begin with.
        on_gpu: Whether training has GPUs, as it was known when the run was begun.
        statistics: Of the training split, behind any filters.
        specs: What each architecture will be trained with, unless a search finds better.
        paces: What each `train.budget` has come to.
    """

    store: Store
    findings: Findings
    splits: Splits
    config: Config
    asked: str
    notes: tuple[str, ...]
    weights: KnownWeights
    on_gpu: bool
    statistics: "Statistics"
    specs: dict[Arch, FitSpec]
    paces: dict[Arch, SpentBudget] = field(default_factory=dict)

    def at_pace(self, paces: Mapping[Arch, SpentBudget], notes: Sequence[str]) -> "Prepared":
        """The same with what some `train.budget` have come to, and notes about that for people."""
        if not paces:
            return self
        branches = tuple(
            branch.at_pace(paces[branch.arch].settings) if branch.arch in paces else branch
            for branch in self.config.branches
        )
        specs = self.specs | {
            branch.arch: self.spec_of(branch) for branch in branches if branch.arch in paces
        }
        config = self.config.model_copy(update={"branches": branches})
        config, idle = _without_idle_spaces(config, specs, paces)
        told = (*self.notes, *notes, *idle)
        known = self.paces | dict(paces)
        return replace(self, config=config, specs=specs, paces=known, notes=told)

    def spec_of(self, branch: Branch) -> FitSpec:
        """What an architecture is trained with, with all that its settings leave to the data chosen.

        Raises:
            ConfigError: the weights that it asks for cannot be had.
        """
        return _spec(
            self.config, branch, self.store, self.splits, self.statistics, self.weights, self.on_gpu
        )


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of the training split, computed once for all architectures and trials with equal views and filters."""

    store: Store
    splits: Splits
    known: dict[tuple[View, tuple[Filter, ...]], ChannelStatistics] = field(default_factory=dict)

    def behind(self, view: View, filters: tuple[Filter, ...]) -> ChannelStatistics:
        """As a view shows them and they come out of these filters."""
        key = (view, filters)
        if key not in self.known:
            self.known[key] = channel_statistics(self.store, self.splits.train, view, filters)
        return self.known[key]


def network_of(spec: FitSpec) -> str:
    """The network of a spec and what it begins with, in a word."""
    if spec.weights:
        return f"{spec.model.backbone} {spec.weights.sha256[:16]}"
    return f"{spec.model.backbone} of random weights"


def workers_of(prepared: Prepared) -> str:
    """What is going to train, in a word."""
    cluster = prepared.config.cluster
    where = "GPUs" if prepared.on_gpu else f"CPUs, {cluster.cpus_per_worker or 'any'} cores each"
    return f"{cluster.workers} on {where}"


def prepare(
    config: Config,
    progress: Progress,
    backend: DecodeBackend | None = None,
    *,
    tracking: Tracking | None = None,
    decided: Mapping[str, str] = MappingProxyType({}),
    on_gpu: bool | None = None,
    planning: bool = False,
) -> Prepared:
    """Decode once, split, and settle whatever the settings leave to the data.

    Args:
        config: Everything.
        progress: Told how far reading and decoding are.
        backend: Where to decode; this machine, if nothing is said.
        tracking: Where registered models are; connected to where nothing is said and the settings name one.
        decided: The networks of a run that was begun with these settings, by architecture.
        on_gpu: Whether the cluster has GPUs; this machine is asked where nothing is said.
        planning: Fetch nothing.

    Raises:
        DataError: the pictures cannot be used as they are.
        ConfigError: a model cannot be built as asked: said now, not by a worker after others have
            been trained.
    """
    written = asked(config)
    config, registered = begin_with_registered(config, tracking, decided)
    store = prepare_store(
        config.data,
        Path(config.storage),
        progress=progress,
        photo_side=photo_side(config, registered),
        backend=backend,
    )
    end_decoders()  # what they hold is wanted for training
    findings = Findings(store, config.data.allow_leakage)
    findings.refuse_unusable(config.data.source)
    splits = make_splits(store, config.data)
    weights = KnownWeights(sources_of(config, planning=planning), registered)
    on_gpu = training_on_gpu(config.cluster, decided, on_gpu)
    config, notes = decide_networks(config, store, weights, decided, on_gpu=on_gpu)
    statistics = Statistics(store, splits)

    def built(branch: Branch) -> FitSpec:
        spec = _spec(config, branch, store, splits, statistics, weights, on_gpu)
        with torch.random.fork_rng(devices=[]), _memory_for(branch):
            model = build_model(spec.model, spec.image_shape, spec.num_classes, spec.weights_file())
            refuse_muon(model, spec.train)
            if not _refuses_growth(model, spec):
                return spec
        weights.takes_one_size.add(spec.model.backbone)
        _refuse_written_growth(branch, spec)
        return _spec(config, branch, store, splits, statistics, weights, on_gpu)

    specs = {branch.arch: built(branch) for branch in config.branches}
    for branch in config.branches:
        for settings in branch.other_backbones:  # of which trials will begin
            built(branch.with_settings(settings))
    settled = [branch.arch for branch in config.branches if not branch.train.budget]
    config, idle = _without_idle_spaces(config, specs, settled)
    notes += (*idle, *_about_seen(config, store, splits, weights))
    return Prepared(
        store, findings, splits, config, written, notes, weights, on_gpu, statistics, specs
    )


@contextmanager
def _memory_for(branch: Branch) -> Iterator[None]:
    """A network for which the system refuses the memory is a ConfigError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        msg = (
            f"{branch.arch}.model: there is not enough memory on this machine to build this network; make it "
            f"smaller ({str(error).strip().splitlines()[-1][:120]})"
        )
        raise ConfigError(msg) from error


def _refuses_growth(model: nn.Module, spec: FitSpec) -> bool:
    """Whether the model does not take the pictures of the first steps."""
    share = spec.share_of_side(0)
    if share >= 1:
        return False
    height, width, channels = spec.image_shape
    try:
        with torch.inference_mode():
            model.eval()(resized(torch.zeros(2, channels, height, width), share))
    except (RuntimeError, AssertionError, ValueError):
        return True
    return False


def _refuse_written_growth(branch: Branch, spec: FitSpec) -> None:
    """Raise ConfigError where somebody asks for what the network does not take; a default gives way."""
    if "start_size" in branch.written["train"]:
        height, width, _ = spec.image_shape
        msg = (
            f"{branch.arch}.train.start_size = {spec.train.start_size:g}: this network takes pictures of "
            f"{height} x {width} pixels only; set it to 1"
        )
        raise ConfigError(msg)


def _spec(
    config: Config,
    branch: Branch,
    store: Store,
    splits: Splits,
    statistics: Statistics,
    known: KnownWeights,
    on_gpu: bool,
) -> FitSpec:
    weights = known.of(branch.model)
    if weights:
        _refuse_other_channels(branch, weights, store.image_shape[2])
    view = _view(config.data, store, weights)
    channels = store.image_shape[2]
    counts = np.bincount(store.labels[splits.train], minlength=len(store.class_names))
    class_counts = tuple(counts.tolist())
    filters = branch.preprocess.filters
    refuse_too_small(filters, (*view.size, channels))
    shape = (*view.size, channels)
    operations = operations_of(branch.model, shape) if weights else None
    train = branch.train.resolved(class_counts, operations, on_gpu=on_gpu)
    if branch.model.backbone in known.takes_one_size:
        train = train.model_copy(update={"start_size": 1.0})
    return FitSpec(
        store=store.folder,
        data=config.data,
        seed=config.seed,
        image_shape=shape,
        view=view,
        weights=weights,
        class_counts=class_counts,
        model=branch.model,
        train=train,
        filters=filters,
        statistics=ChannelStatistics(weights.mean, weights.std)
        if weights
        else statistics.behind(view, filters),
        augmentation=choose_augmentation(
            branch.preprocess,
            channels,
            train.epochs,
            is_pretrained=weights is not None and not branch.model.is_compact,
        ),
    )


def _refuse_other_channels(branch: Branch, weights: Weights, channels: int) -> None:
    """Networks of timm's see grey pictures in three channels; ours were built for one or the other."""
    learned = len(weights.mean)
    if branch.model.is_compact and learned != channels:
        msg = (
            f"{branch.arch}.model.pretrained: {weights.name} was trained on pictures of {learned} channels, and "
            f"these have {channels}; set data.channels = {learned}"
        )
        raise ConfigError(msg)


def _about_seen(
    config: Config, store: Store, splits: Splits, weights: KnownWeights
) -> Iterator[str]:
    """Where a registered model has learned from pictures that are to judge what begins with it."""
    for branch in config.branches:
        start = weights.start_of(branch.model)
        seen = start.seen(store, splits) if start else {}
        if start and None in seen.values():
            yield (
                f"{branch.arch}: what {start.weights.name} has learned from is not known, for an earlier imgrec has "
                f"registered it: its scores may be too good"
            )
            continue
        told = " and ".join(f"{count:,} {name} pictures" for name, count in seen.items() if count)
        if start and told:
            yield (
                f"{branch.arch}: {start.weights.name}, which it begins with, has learned from {told} of this "
                f"run: its scores are too good to compare with those of others"
            )


def _without_idle_spaces(
    config: Config, specs: Mapping[Arch, FitSpec], settled: Container[Arch]
) -> tuple[Config, tuple[str, ...]]:
    """Of a linear probe alone a search can only try other networks: its one strength is chosen by itself.

    Args:
        config: The settings.
        specs: What comes of them.
        settled: The architectures of which it is known whether the last layer alone is trained.

    Returns:
        The settings, and for people which spaces that were written have no effect.
    """
    branches, notes = list[Branch](), list[str]()
    for branch in config.branches:
        spec = specs[branch.arch]
        is_probe = spec.weights is not None and spec.train.finetune == "probe"
        idle = is_probe and branch.arch in settled
        kept = tuple(one for one in branch.space if one.key == BACKBONE) if idle else branch.space
        branches.append(branch.model_copy(update={"space": kept}))
        if idle and any(
            f"{part}.{key}" != BACKBONE
            for part in branch.written_space
            for key in branch.written_space[part]
        ):
            notes.append(f"{branch.arch}: its space has no effect: the last layer alone is trained")
    return config.model_copy(update={"branches": tuple(branches)}), tuple(notes)


def _view(config: DataConfig, store: Store, weights: Weights | None) -> View:
    """What a network sees of the stored pictures: a pretrained one its weights' centre crop, others all."""
    looks = store.looks()
    if weights is None:
        return View(compact_size(looks, config))
    size = config.image_size or weights.input_size
    # Small pictures have no margin to crop, and who pads or stretches wants to lose nothing.
    cropped = are_photos(looks, store.image_shape[2]) and config.resize == "fill"
    return View(size, weights.crop_ratio if cropped else 1.0, weights.interpolation)
