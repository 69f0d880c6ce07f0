"""How fast a fit goes where it is going to train, and what that leaves room for in a time that was given for it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
import torch.distributed as dist

from imgrec.data.loader import Pictures, Shard, training_batches
from imgrec.training.learner import Learner, build_learner
from imgrec.training.loop import evaluate, train_epoch
from imgrec.training.microbatch import in_more_parts, is_out_of_memory, out_of_memory
from imgrec.training.spec import FitSpec

MEASURED_EPOCHS = 20
"""Of the fit that is measured: so many that each size of pictures has whole epochs of its own."""
WARMING, TIMED = 2, 6
"""Steps of each size: the first ones look for ways to compute, and allocate."""
EVALUATED = 512
"""Pictures."""
USED = 0.95
"""Of the time that was given: checkpoints, and a machine that has other work too, need the rest."""
MOST_TIMES = 4
"""What the data ask for, so many times, is the most that is trained: more epochs gain nothing any more."""
ENOUGH = 0.7
"""Of the epochs that the data ask for: with fewer a larger network is not better than the smaller one (docs/results.md)."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a fit goes.

    Attributes:
        step_seconds: Of a step, by the share of their side that pictures have.
        look_seconds: To evaluate one whole picture, all workers together.
        pictures: Of the store, whose features a probe computes.
        judged: Of them, those that judge an epoch.
    """

    step_seconds: Mapping[float, float]
    look_seconds: float
    pictures: int
    judged: int

    def seconds(self, spec: FitSpec) -> float:
        """Of a whole fit, with its evaluations, whatever its number of epochs."""
        probe = spec.probe_epochs * self.pictures * self.look_seconds
        steps = sum(self._step(spec.share_of_side(step)) for step in range(spec.total_steps))
        looks = sum(
            spec.share_after(epoch + 1) ** 2 * self.judged * self.look_seconds
            for epoch in range(spec.probe_epochs, spec.train.epochs)
        )
        return probe + steps + looks

    def _step(self, share: float) -> float:
        """Of the size that was measured and is nearest."""
        return self.step_seconds[min(self.step_seconds, key=lambda one: abs(one - share))]


@dataclass(frozen=True, slots=True)
class Budget:
    """What a fit may take.

    Attributes:
        seconds: Time.
        most_epochs: Epochs; 0 means four times what the data ask for.
    """

    seconds: float
    most_epochs: int = 0


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a time leaves room for.

    Attributes:
        place: Of the network among those that there were, from 0.
        epochs: How many.
        seconds: That they will take.
    """

    place: int
    epochs: int
    seconds: float


def choose_pace(
    candidates: Sequence[FitSpec], budget: Budget, device: torch.device, shard: Shard
) -> Chosen:
    """The network and the epochs for a fit that is to take so long.

    The rule: the largest network for which the time is enough for 0.7 times the epochs that the data ask for
    (`TrainConfig.epochs`), and else the smallest; with as many epochs as 95 % of the time has room for, at least one.
    What is timed are steps of the fit itself.

    Args:
        candidates: The same fit with different networks, the smallest first, each with the epochs that the data
            ask for.
        budget: The time.
        device: Where they are trained.
        shard: This worker among all; all come here together, and the slowest decides.

    """
    chosen: Chosen | None = None
    for place, spec in enumerate(candidates):
        pace = measure(spec, device, shard)
        epochs = most_epochs(spec, pace, budget)
        if chosen and epochs < ENOUGH * spec.train.epochs:
            break
        chosen = Chosen(place, epochs, pace.seconds(with_epochs(spec, epochs)))
    assert chosen
    return chosen


def most_epochs(spec: FitSpec, pace: Pace, budget: Budget) -> int:
    """How many epochs take no longer; at least one, or the probe."""
    least, most = 1, budget.most_epochs or MOST_TIMES * spec.train.epochs
    while least < most:
        middle = (least + most + 1) // 2
        if pace.seconds(with_epochs(spec, middle)) <= USED * budget.seconds:
            least = middle
        else:
            most = middle - 1
    return least


def with_epochs(spec: FitSpec, epochs: int) -> FitSpec:
    """The same fit with another number of epochs."""
    return replace(spec, train=spec.train.model_copy(update={"epochs": epochs}))


def measure(spec: FitSpec, device: torch.device, shard: Shard) -> Pace:
    """Train a few steps with pictures of each size, and evaluate some pictures.

    Where a batch does not fit into the memory of a worker that is alone, it is computed in parts, as in training.
    """
    while True:
        try:
            return _measure(spec, device, shard)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or shard.world_size > 1:
                raise
            smaller = in_more_parts(spec, shard.world_size)
            if smaller is None:
                raise out_of_memory(spec, "memory ran out while it was measured") from error
        spec = smaller


def _measure(spec: FitSpec, device: torch.device, shard: Shard) -> Pace:
    spec = with_epochs(spec, MEASURED_EPOCHS)
    learner = build_learner(spec, device, shard)
    pictures = Pictures(learner.store, device)
    steps: dict[float, float] = {}
    for epoch in range(spec.probe_epochs, MEASURED_EPOCHS):
        share = spec.share_of_side(spec.steps_before(epoch))
        if share not in steps:
            learner.epochs_done = epoch
            steps[share] = _slowest(_step_seconds(learner, pictures), device, shard)
    look = _slowest(_look_seconds(learner, pictures), device, shard)
    return Pace(steps, look, len(learner.store.labels), len(learner.splits.choosing))


def _step_seconds(learner: Learner, pictures: Pictures) -> float:
    """The mean of some steps after the first ones."""
    spec = learner.spec
    batches = training_batches(
        pictures,
        learner.splits.train,
        batch_size=spec.train.batch_size,
        seed=spec.seed,
        epoch=learner.epochs_done,
        shard=learner.shard,
        balanced=spec.train.imbalance == "sampler",
    )
    marks = [_now(learner.device)]
    some = islice(batches, WARMING + TIMED)
    train_epoch(learner, some, lambda _: marks.append(_now(learner.device)))
    warm = min(WARMING, len(marks) - 2)  # small data may have one step alone
    return (marks[-1] - marks[warm]) / (len(marks) - 1 - warm)


def _look_seconds(learner: Learner, pictures: Pictures) -> float:
    """Of one whole picture, when some are evaluated for the second time."""
    rows = learner.splits.choosing[:EVALUATED]
    for _ in range(2):
        started = _now(learner.device)
        evaluate(learner, pictures, rows)
        ended = _now(learner.device)
    return (ended - started) / max(1, len(rows))


def _now(device: torch.device) -> float:
    """The time when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _slowest(seconds: float, device: torch.device, shard: Shard) -> float:
    """The longest of all workers: each waits for the others in every step."""
    if shard.world_size == 1:
        return seconds
    longest = torch.tensor([seconds], dtype=torch.float64, device=device)
    dist.all_reduce(longest, op=dist.ReduceOp.MAX)
    return float(longest.item())
