"""The one training loop, for every architecture, with or without Ray.

No file, Ray or MLflow in it, and no `.item()` in a step: each would wait for the device. (In fp16 a step waits once:
the gradient scaler must know whether gradients overflowed.)
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.distributed as dist

from imgrec.data.decode import pictures_at_once
from imgrec.data.loader import (
    Pictures,
    Shard,
    TrainingBatch,
    evaluation_batches,
    training_batches,
)
from imgrec.data.splits import Indices
from imgrec.errors import DivergedError, TrainingError
from imgrec.preprocess.augment import mixed
from imgrec.training.clock import DATA, EVALUATION, MODEL, OPTIMIZER, REPORT
from imgrec.training.growth import resized
from imgrec.training.learner import Learner
from imgrec.training.loss import Loss
from imgrec.training.metrics import Meter, Scores
from imgrec.training.microbatch import is_out_of_memory
from imgrec.training.probe import EVALUATIONS, all_features, learned_from, solve
from imgrec.training.spec import FitSpec

SPENT = "work_seconds/"
"""Before the kind of work, in the metrics of an epoch. MLflow shows metrics by name: scores come first."""
OF_FIT = "work_seconds_of_fit/"
"""The same in the metrics of a model: of all its epochs together."""
LEAST_SCALE = 1.0
"""Of gradients in fp16: below it they would be made smaller, not larger, and each step before was left out."""
LOOKED_AT = 1 << 16
"""Features that the last layer is given at a time."""
SOLVING_SHARE = 1 / 3
"""Of the epoch that trains the last layer alone, as it is told; its features are the rest. A choice: it changes nothing but
how far a person is told that it is."""
JUDGED_BY = "val/image_share"
"""The metric that says what share of their side the pictures had that an epoch was judged by."""


@dataclass(frozen=True, slots=True)
class EpochReport:
    """What one epoch came to.

    Attributes:
        epoch: From 1.
        epochs: How many there will be.
        metrics: `train/loss`, `val/macro_f1`, ..., `learning_rate`, `image_side` (the shorter one, in
            pixels, of training pictures), `val/image_share` (of their side, of those that judge: as the last of them),
            `images_per_second` (of training alone) and `epoch_seconds` (of training and evaluation).
        best: Whether no epoch before was better.
    """

    epoch: int
    epochs: int
    metrics: dict[str, float]
    best: bool


def ignore_step(epoch: int, step: int) -> None:
    """The step callback of those who do not watch."""


def fit(
    learner: Learner,
    *,
    on_epoch: Callable[[EpochReport], None],
    on_step: Callable[[int, int], None] = ignore_step,
    pictures: Pictures | None = None,
) -> None:
    """Train from where the learner stands to the last epoch; `learner.best` is the result.

    Args:
        learner: Fresh, or restored from a checkpoint.
        on_epoch: Called after every epoch, when `learner.save` would be consistent.
        on_step: Called after every step with the epoch (from 1) and the step in it (from 1).
        pictures: Those of the learner's store, where they come from elsewhere.

    Raises:
        DivergedError: the loss of an epoch is not a number.
    """
    spec = learner.spec
    splits = learner.splits
    pictures = pictures or Pictures(learner.store, learner.device)
    learner.clock.take()
    for epoch in range(learner.epochs_done, spec.train.epochs):
        started = time.perf_counter()
        _seed_epoch(spec.seed, epoch, learner.shard)
        if epoch < spec.probe_epochs:
            train, val, images = train_last_layer(learner, pictures, partial(on_step, epoch + 1))
            trained = time.perf_counter()
        else:
            batches = training_batches(
                pictures,
                splits.train,
                batch_size=spec.train.batch_size,
                seed=spec.seed,
                epoch=epoch,
                shard=learner.shard,
                balanced=spec.train.imbalance == "sampler",
            )
            train = train_epoch(learner, batches, partial(on_step, epoch + 1))
            images = spec.steps_per_epoch * spec.train.batch_size
            trained = time.perf_counter()
            _refuse_divergence(learner, train, epoch + 1)
            learner.share_buffers()
            with learner.clock.on(EVALUATION):
                share = spec.share_after(epoch + 1)
                val = evaluate(learner, pictures, splits.choosing, share=share)
        learner.epochs_done = epoch + 1
        best = learner.keep_if_best(val)
        metrics = train.as_metrics("train") | val.as_metrics("val")
        rates = learner.schedules[0].get_last_lr() if epoch >= spec.probe_epochs else [0.0]
        metrics["learning_rate"] = float(max(rates))
        metrics["image_side"] = spec.mean_side(epoch)
        metrics[JUDGED_BY] = spec.share_after(epoch + 1)
        metrics["images_per_second"] = images / (trained - started)
        metrics["epoch_seconds"] = time.perf_counter() - started
        metrics |= {f"{SPENT}{kind}": spent for kind, spent in learner.clock.take().items()}
        learner.history.append(metrics)
        with learner.clock.on(REPORT):
            on_epoch(EpochReport(epoch + 1, spec.train.epochs, metrics, best))


def train_epoch(
    learner: Learner, batches: Iterable[TrainingBatch], on_step: Callable[[int], None]
) -> Scores:
    """One pass over the batches; scores are those of the moving model, augmentation included."""
    learner.model.train()
    learner.recipe.train()
    meter = Meter(learner.spec.num_classes, learner.device)
    clock, graphs = learner.clock, learner.graphs
    steps_before = learner.spec.steps_before(learner.epochs_done)
    parts = learner.spec.parts(learner.shard.world_size)
    for step, batch in enumerate(clock.each(DATA, batches), start=1):
        share = learner.spec.share_of_side(steps_before + step - 1)
        with clock.on(MODEL):
            divided = zip(*(one.tensor_split(parts) for one in batch), strict=True)
            for part, (images, labels, turns) in enumerate(divided, start=1):
                # Workers add their gradients up with the last part; before it each has its own.
                with learner.without_reducing() if part < parts else nullcontext():
                    with learner.precision.autocast():
                        inputs, targets = mixed(
                            resized(learner.recipe(images, turns), share),
                            labels,
                            learner.spec.num_classes,
                            learner.spec.augmentation,
                        )
                    if graphs:
                        logits, loss = graphs.run(learner.whole_step, inputs, targets)
                    else:
                        logits, loss = learner.add_gradients(inputs, targets)
                meter.update(logits, labels, loss)
        with clock.on(OPTIMIZER):
            if not graphs:
                learner.step()
            for schedule in learner.schedules:
                schedule.step()
            if learner.average:
                learner.average.update()
        on_step(step)
    meter.reduce()
    return meter.scores()


def train_last_layer(
    learner: Learner, pictures: Pictures, on_step: Callable[[int], None]
) -> tuple[Scores, Scores, int]:
    """Solve the last layer on frozen features: scores of train and val, and how many pictures were seen.

    Every worker takes part in the features, and rank 0's solution is everybody's.
    """
    spec, network, splits = learner.spec, learner.model, learner.splits
    own = max(1, len(learner.store.labels) // learner.shard.world_size)
    evaluations = itertools.count(1)

    # There are no steps: what is told is a share of an epoch's.
    def tell(share: float) -> None:
        on_step(min(spec.steps_per_epoch, int(share * spec.steps_per_epoch)))

    def advance(done: int) -> None:
        tell((1 - SOLVING_SHARE) * done / own)

    def solving() -> None:
        tell(1 - SOLVING_SHARE + SOLVING_SHARE * next(evaluations) / EVALUATIONS)

    with learner.clock.on(MODEL):
        features = all_features(
            spec,
            network,
            learner.recipe,
            pictures,
            learner.store,
            learner.precision,
            learner.shard,
            advance,
        )
    labels = torch.from_numpy(learner.store.labels)
    with learner.clock.on(OPTIMIZER):
        imbalance = spec.train.imbalance
        if imbalance == "sampler":
            # There is no order of pictures to balance: margins come to the same.
            imbalance = "logit_adjustment"
        if learner.shard.rank == 0:
            rows = learned_from(splits.train, learner.store.labels[splits.train], spec.seed)
            inputs = torch.from_numpy(features[rows])
            loss_fn = Loss(imbalance, spec.class_counts, 0.0)
            biased = network.last_layer.bias is not None
            probe = solve(
                inputs,
                labels[rows],
                loss_fn,
                spec.seed,
                learner.device,
                biased=biased,
                on_evaluation=solving,
            )
            probe.put_into(network)
        if dist.is_initialized():
            for parameter in network.last_layer.parameters():
                dist.broadcast(parameter.data, src=0)
        learner.begin_anew()
    with learner.clock.on(EVALUATION), torch.inference_mode():
        scores = []
        for rows in (splits.train, splits.choosing):
            meter = Meter(spec.num_classes, learner.device)
            for start in range(0, len(rows), LOOKED_AT):
                some = rows[start : start + LOOKED_AT]
                logits = network.classify(torch.from_numpy(features[some]).to(learner.device))
                meter.update(logits, labels[some].to(learner.device))
            scores.append(meter.scores())
    return scores[0], scores[1], len(labels)


@torch.inference_mode()
def evaluate(learner: Learner, pictures: Pictures, rows: Indices, *, share: float = 1.0) -> Scores:
    """Scores of the evaluated model on a split, divided among the workers, each picture once.

    Pictures have this share of their side: a network that has seen small ones says little of whole ones.
    """
    model, recipe = learner.evaluated.eval(), learner.recipe.eval()
    meter = Meter(learner.spec.num_classes, learner.device)
    at_once = pictures_at_once(learner.spec.image_shape)
    batches = evaluation_batches(pictures, rows, batch_size=at_once, shard=learner.shard)
    try:
        for images, labels in batches:
            with learner.precision.without_scaler().autocast():
                logits = model(resized(recipe(images), share))
            meter.update(logits, labels)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise _too_large(learner.spec, at_once) from error
        raise
    meter.reduce()
    return meter.scores()


def _too_large(spec: FitSpec, at_once: int) -> TrainingError:
    height, width, _ = spec.image_shape
    graphs = (
        ", or leave train.cuda_graphs out, which keeps memory" if spec.train.cuda_graphs else ""
    )
    return TrainingError(
        f"out of memory while {at_once} pictures of {height} x {width} were evaluated at once: lower "
        f"data.image_size, or take a smaller {spec.model.arch}{graphs}"
    )


def _seed_epoch(seed: int, epoch: int, shard: Shard) -> None:
    """Make all randomness of an epoch a function of (seed, epoch, rank), so that it can resume."""
    mixed = np.random.SeedSequence([seed, epoch, shard.rank]).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(mixed))


def _refuse_divergence(learner: Learner, train: Scores, epoch: int) -> None:
    spec = learner.spec
    if learner.scaler.is_enabled() and learner.scaler.get_scale() < LEAST_SCALE:
        msg = f"gradients overflow in fp16 in epoch {epoch}, at any scale: set {spec.model.arch}.train.precision = 'fp32'"
        raise DivergedError(msg)
    if math.isfinite(train.loss):
        return
    cure = f"lower {spec.model.arch}.train.learning_rate (now {spec.train.learning_rate:g})"
    if not spec.train.max_grad_norm:
        cure += " or set train.max_grad_norm"
    msg = f"loss is {train.loss} in epoch {epoch}: {cure}"
    raise DivergedError(msg)
