"""Pictures to a store, splits and one spec for each architecture."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from imgrec.config import Arch, Branch, Config, Filter
from imgrec.data.findings import Findings
from imgrec.data.parallel import end_decoders
from imgrec.data.scan import DecodeBackend, ProgressCallback
from imgrec.data.splits import Splits, make_splits
from imgrec.data.store import Store, prepare_store
from imgrec.errors import ConfigError
from imgrec.models import build_model
from imgrec.preprocess.augment import choose_augmentation
from imgrec.preprocess.filters import refuse_too_small
from imgrec.preprocess.recipe import ChannelStatistics
from imgrec.preprocess.statistics import channel_statistics
from imgrec.training.growth import resized
from imgrec.training.optim import build_optimizers
from imgrec.training.spec import FitSpec


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that is decided before training.

    Attributes:
        store: The decoded pictures.
        findings: What is wrong with them, or odd.
        splits: Which of them train, choose and test.
        statistics: Of the training split, behind any filters.
        specs: What each architecture will be trained with, unless a search finds better.
    """

    store: Store
    findings: Findings
    splits: Splits
    statistics: "Statistics"
    specs: dict[Arch, FitSpec]


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of the training split, computed once for all architectures and trials with equal filters."""

    store: Store
    splits: Splits
    known: dict[tuple[Filter, ...], ChannelStatistics] = field(default_factory=dict)

    def behind(self, filters: tuple[Filter, ...]) -> ChannelStatistics:
        """As they come out of these filters."""
        if filters not in self.known:
            self.known[filters] = channel_statistics(self.store, self.splits.train, filters)
        return self.known[filters]


def prepare(
    config: Config, progress: ProgressCallback, backend: DecodeBackend | None = None
) -> Prepared:
    """Decode once, split, and settle whatever the settings leave to the data.

    Args:
        config: Everything.
        progress: Told how far reading and decoding are.
        backend: Where to decode; this machine, if nothing is said.

    Raises:
        DataError: the pictures cannot be used as they are.
        ConfigError: a model cannot be built as asked: said now, not by a worker after others have
            been trained.
    """
    store = prepare_store(config.data, Path(config.storage), progress=progress, backend=backend)
    end_decoders()  # what they hold is wanted for training
    findings = Findings(store, config.data.allow_leakage)
    findings.refuse_unusable(config.data.source)
    splits = make_splits(store, config.data)
    statistics = Statistics(store, splits)
    specs = {
        branch.arch: make_spec(config, branch, store, splits, statistics)
        for branch in config.branches
    }
    with torch.random.fork_rng(devices=[]):
        for spec in specs.values():
            model = build_model(spec.model, spec.image_shape, spec.num_classes)
            build_optimizers(model, spec.train)
            _refuse_growth(model, spec)
    return Prepared(store, findings, splits, statistics, specs)


def _refuse_growth(model: nn.Module, spec: FitSpec) -> None:
    """Raise ConfigError where the model does not take the pictures of the first steps."""
    share = spec.share_of_side(0)
    if share >= 1:
        return
    height, width, channels = spec.image_shape
    try:
        with torch.inference_mode():
            model.eval()(resized(torch.zeros(2, channels, height, width), share))
    except (RuntimeError, AssertionError, ValueError) as error:
        msg = (
            f"{spec.model.arch}.train.start_size = {spec.train.start_size:g}: this network takes "
            f"pictures of {height} x {width} pixels only; set it to 1"
        )
        raise ConfigError(msg) from error


def make_spec(
    config: Config, branch: Branch, store: Store, splits: Splits, statistics: "Statistics"
) -> FitSpec:
    """What an architecture is trained with, with all that the settings leave to the data chosen."""
    counts = np.bincount(store.labels[splits.train], minlength=len(store.class_names))
    class_counts = tuple(counts.tolist())
    filters = branch.preprocess.filters
    refuse_too_small(filters, store.image_shape)
    train = branch.train.resolved(class_counts)
    return FitSpec(
        store=store.folder,
        data=config.data,
        seed=config.seed,
        image_shape=store.image_shape,
        class_counts=class_counts,
        model=branch.model,
        train=train,
        filters=filters,
        statistics=statistics.behind(filters),
        augmentation=choose_augmentation(branch.preprocess, store.image_shape[2], train.epochs),
    )
