"""Everything that decides what a fit comes to: small, complete, and sent to every worker."""

import hashlib
import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from imgrec.config import DataConfig, Filter, ImageShape, ModelConfig, TrainConfig
from imgrec.config.sections import PROBE_EPOCHS
from imgrec.models.weights import Weights
from imgrec.preprocess.augment import Augmentation
from imgrec.preprocess.recipe import ChannelStatistics, Recipe
from imgrec.preprocess.view import View
from imgrec.training.growth import share_of_side
from imgrec.training.precision import Arithmetic
from imgrec.version import fit_version

# Of a step, which goes forward once and backward at twice the cost.
FORWARD_SHARE = 1 / 3
SPLITTING = ("val_fraction", "test_fraction", "test_from", "split_seed")


@dataclass(frozen=True, slots=True)
class FitSpec:
    """What a worker needs to know to train one model; small, and sent to every worker.

    Attributes:
        store: Folder of the store.
        data: For the splits.
        seed: Of weights, order and augmentation.
        image_shape: Height, width, channels of what the model sees.
        view: Which part of a stored picture that is.
        weights: What the network begins with; None where it begins with random weights.
        class_counts: Training pictures of each class.
        model: The architecture.
        train: With epochs, batch_size and imbalance chosen.
        filters: Of all pictures, in this order.
        statistics: Of the training split, filtered.
        augmentation: Of training pictures.
        accumulate: Parts of a batch whose gradients are added up before a step; for models whose
            batch does not fit into memory at once. BatchNorm sees the parts.
        arithmetic: What `train.precision` was taken as, for the machines that train; empty where whoever
            builds the learner is to look at this one.
    """

    store: Path
    data: DataConfig
    seed: int
    image_shape: ImageShape
    view: View
    weights: Weights | None
    class_counts: tuple[int, ...]
    model: ModelConfig
    train: TrainConfig
    filters: tuple[Filter, ...]
    statistics: ChannelStatistics
    augmentation: Augmentation
    accumulate: int = 1
    arithmetic: Arithmetic | Literal[""] = ""

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_counts)

    @property
    def num_train(self) -> int:
        """Pictures in the training split."""
        return sum(self.class_counts)

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in the training split."""
        return self.num_train // self.train.batch_size

    @property
    def probe_epochs(self) -> int:
        """How many epochs, the first ones, train the last layer alone and have no steps."""
        return PROBE_EPOCHS if self.weights else 0

    def steps_before(self, epoch: int) -> int:
        """How many steps are done when an epoch, counted from 0, begins."""
        return max(0, epoch - self.probe_epochs) * self.steps_per_epoch

    @property
    def total_steps(self) -> int:
        """Of all epochs."""
        return self.steps_before(self.train.epochs)

    def weights_file(self) -> Path | None:
        """What the network is built from; None where its weights are random, or somebody only plans.

        Raises:
            ConfigError: the file is not what it was.
        """
        if self.weights is None or self.weights.to_be_fetched:
            return None
        return self.weights.checked()

    def make_recipe(self) -> Recipe:
        """What happens to pictures before the model."""
        return Recipe(self.statistics, self.filters, self.augmentation, self.view)

    def parts(self, world_size: int) -> int:
        """In how many parts each of so many workers computes its share of a batch: the same number on all.

        Each has two pictures at least, for a batch normalization has nothing to say of one.
        """
        smallest_share = self.train.batch_size // world_size
        return max(1, min(self.accumulate, smallest_share // 2))

    def share_of_side(self, step: int) -> float:
        """What share of their side pictures have in a step, counted from 0 over all epochs."""
        progress = step / max(1, self.total_steps)  # none, where the last layer alone is trained
        return share_of_side(self.train.start_size, progress, min(self.image_shape[:2]))

    def share_after(self, epoch: int) -> float:
        """The same in the last step of an epoch, counted from 1: that of the pictures that judge it."""
        if epoch <= self.probe_epochs:
            return 1.0
        return self.share_of_side(self.steps_before(epoch) - 1)

    def mean_side(self, epoch: int) -> float:
        """The mean of it over the steps of an epoch, counted from 0, in pixels."""
        return min(self.image_shape[:2]) * statistics.fmean(self._shares_of_side(epoch))

    def cost(self, epoch: int) -> float:
        """What an epoch, counted from 0, costs beside one of whole pictures: their area."""
        if epoch < self.probe_epochs:
            return FORWARD_SHARE
        return statistics.fmean(share**2 for share in self._shares_of_side(epoch))

    @property
    def passes(self) -> float:
        """What all epochs cost together, in passes over all training pictures at their full size."""
        return sum(self.cost(epoch) for epoch in range(self.train.epochs))

    def _shares_of_side(self, epoch: int) -> list[float]:
        if epoch < self.probe_epochs:
            return [1.0]
        first = self.steps_before(epoch)
        return [self.share_of_side(first + step) for step in range(self.steps_per_epoch)]

    @property
    def key(self) -> str:
        """A hash, the same for all specs that come to the same model with the same code.

        Where the store lies is not in it, nor how much of a batch fits into memory, nor what `auto` was taken
        as: that stands in the record.
        """
        content = asdict(self) | {
            "code": fit_version(),
            "store": self.store.name,
            "weights": self.weights and self.weights.sha256,
            "data": self.data.model_dump(mode="json", include=set(SPLITTING)),
            "model": self.model.model_dump(mode="json"),
            "train": self.train.model_dump(mode="json"),
            "filters": [one.model_dump(mode="json") for one in self.filters],
        }
        del content["accumulate"], content["arithmetic"]
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
