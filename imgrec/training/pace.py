"""How fast a fit goes where it is going to train, and what that leaves room for in a time that was given for it."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
import torch.distributed as dist

from imgrec.data.loader import Pictures, Shard, training_batches
from imgrec.data.store import Store
from imgrec.training.graphs import WARM_UP
from imgrec.training.learner import Learner, build_learner
from imgrec.training.loop import evaluate, train_epoch
from imgrec.training.microbatch import (
    in_more_parts,
    is_out_of_memory,
    out_of_memory,
    release_memory,
)
from imgrec.training.probe import solving_seconds
from imgrec.training.spec import FitSpec

PicturesOf = Callable[[Store, torch.device], Pictures]
MEASURED_EPOCHS = 20
"""Of the fit that is measured: so many that each size of pictures has whole epochs of its own."""
ROUNDS, WARMING, TIMED = 3, 2, 4
"""Each size comes in turn in each round, with so many steps that look for ways to compute, and so many that are timed.
The middle one counts: whatever else the machine does for some seconds slows down one of them."""
SUSTAINED = 0.88
"""Of the speed that some seconds show, what a fit of minutes has (docs/results.md, measured on two cores)."""
EVALUATED = 512
"""Pictures."""
USED = 0.95
"""Of the time that was given: a machine has other work too."""
MOST_TIMES = 4
"""What the data ask for, so many times, is the most that is trained, however much time there is."""
ENOUGH = 0.7
"""Of the epochs that the data ask for: with fewer a larger network is not better than the smaller one (docs/log.md)."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a fit goes.

    Attributes:
        step_seconds: Of a step, by the share of their side that pictures have.
        look_seconds: To evaluate one whole picture, all workers together.
        solve_seconds: To solve the last layer of a probe on its features.
        pictures: Of the store, whose features a probe computes.
        judged: Of them, those that judge an epoch.
    """

    step_seconds: Mapping[float, float]
    look_seconds: float
    solve_seconds: float
    pictures: int
    judged: int

    def seconds(self, spec: FitSpec) -> float:
        """Of a whole fit, with its evaluations, whatever its number of epochs."""
        probe = spec.probe_epochs * (self.pictures * self.look_seconds + self.solve_seconds)
        steps = sum(self._step(spec.share_of_side(step)) for step in range(spec.total_steps))
        looks = sum(
            spec.share_after(epoch + 1) ** 2 * self.judged * self.look_seconds
            for epoch in range(spec.probe_epochs, spec.train.epochs)
        )
        return (probe + steps + looks) / SUSTAINED

    def _step(self, share: float) -> float:
        """Of the size that was measured and is nearest."""
        return self.step_seconds[min(self.step_seconds, key=lambda one: abs(one - share))]


@dataclass(frozen=True, slots=True)
class Budget:
    """What a fit may take.

    Attributes:
        seconds: Time.
        most_epochs: Epochs; 0 means four times what the data ask for.
        least_epochs: Trained whatever they take.
    """

    seconds: float
    most_epochs: int = 0
    least_epochs: int = 1


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
    candidates: Sequence[FitSpec],
    budget: Budget,
    device: torch.device,
    shard: Shard,
    pictures_of: PicturesOf = Pictures,
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
        pictures_of: How pictures will reach the device, of a store.

    Raises:
        TrainingError: a worker that is alone has too little memory for the smallest.
    """
    chosen: Chosen | None = None
    for place, spec in enumerate(candidates):
        if chosen and chosen.epochs < ENOUGH * spec.train.epochs:
            break  # of a larger network there would be fewer
        pace = measure(spec, device, shard, pictures_of)
        release_memory()  # else the next one would find less of it than in training
        epochs = most_epochs(spec, pace, budget)
        seconds = pace.seconds(with_epochs(spec, epochs))
        is_enough = epochs >= ENOUGH * spec.train.epochs and seconds <= USED * budget.seconds
        if chosen and not is_enough:
            break
        chosen = Chosen(place, epochs, seconds)
    assert chosen
    return chosen


def most_epochs(spec: FitSpec, pace: Pace, budget: Budget) -> int:
    """How many epochs take no longer."""
    least, most = budget.least_epochs, budget.most_epochs or MOST_TIMES * spec.train.epochs
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


def measure(
    spec: FitSpec, device: torch.device, shard: Shard, pictures_of: PicturesOf = Pictures
) -> Pace:
    """Train a few steps with pictures of each size, and evaluate some pictures.

    Where a batch does not fit into the memory of a worker that is alone, it is computed in parts, as in training.
    """
    while True:
        try:
            return _measure(spec, device, shard, pictures_of)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or shard.world_size > 1:
                raise
            smaller = in_more_parts(spec, shard.world_size)
            if smaller is None:
                raise out_of_memory(spec, "memory ran out while it was measured") from error
        release_memory()  # here, where no exception keeps alive what the last try had
        spec = smaller


def _measure(spec: FitSpec, device: torch.device, shard: Shard, pictures_of: PicturesOf) -> Pace:
    spec = with_epochs(spec, MEASURED_EPOCHS)
    learner = build_learner(spec, device, shard)
    pictures = pictures_of(learner.store, device)
    first_with = {
        spec.share_of_side(spec.steps_before(epoch)): epoch
        for epoch in reversed(range(spec.probe_epochs, MEASURED_EPOCHS))
    }
    rounds: dict[float, list[float]] = {share: [] for share in first_with}
    for _ in range(ROUNDS):
        for share, learner.epochs_done in first_with.items():
            own = _step_seconds(learner, pictures)
            rounds[share].append(_slowest(own, device, shard))
    steps = {share: statistics.median(took) for share, took in rounds.items()}
    look = _slowest(_look_seconds(learner, pictures), device, shard)
    solve = 0.0
    if spec.probe_epochs:
        own = solving_seconds(spec, learner.model.last_layer.in_features, device)
        solve = _slowest(own, device, shard)
    return Pace(steps, look, solve, len(learner.store.labels), len(learner.splits.choosing))


def _step_seconds(learner: Learner, pictures: Pictures) -> float:
    """The mean of some steps of the epoch where the learner stands."""
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
    warming = WARMING + (WARM_UP if learner.graphs else 0)
    count = min(warming + TIMED, spec.steps_per_epoch)
    warm = min(warming, count - 1)  # small data may have one step alone
    began = _now(learner.device)

    def on_step(step: int) -> None:
        nonlocal began
        if step == warm:
            began = _now(learner.device)  # else a GPU is not waited for, as in training

    train_epoch(learner, islice(batches, count), on_step)
    return (_now(learner.device) - began) / (count - warm)


def _look_seconds(learner: Learner, pictures: Pictures) -> float:
    """Of one whole picture, in the middle one of some evaluations."""
    rows = learner.splits.choosing[:EVALUATED]
    took = []
    for _ in range(ROUNDS):
        started = _now(learner.device)
        evaluate(learner, pictures, rows)
        took.append(_now(learner.device) - started)
    return statistics.median(took) / max(1, len(rows))


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
