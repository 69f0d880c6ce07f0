"""Lanes side by side: on how many cores each trains, and which models.

A small network does not gain by a second core: its threads wait for each other. So where all networks of a run are
small, its models are trained side by side, each on a share of the cores, rather than one after the other on all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn

from imgrec.config import ImageShape, ModelConfig
from imgrec.distributed.demand import Demand
from imgrec.distributed.local import MEMORY_OF_A_WORKER
from imgrec.models import build_model
from imgrec.models.transformer import Block
from imgrec.training.spec import FitSpec
from imgrec.training.throughput import PASSES

# By step times on one core and on two (docs/log.md). More than two were not measured.
GAIN_OF_CORES = 0.75
"""Where n cores have enough to do, they train a network n ** 0.75 times as fast as one."""
ENOUGH = 2e9
"""Operations of a step, for each core."""
# Choices.
MOST = 16e9
"""Operations of a step, of networks that are small: of larger ones several may not fit into memory side by side."""
LEAST_SAVED = 0.1
"""Of the time, to be worth a process more."""
BYTES_OF_A_WEIGHT = 6 * 4
"""The weight, its gradient, two numbers of the optimizer's, its moving average and that of the best epoch."""


@dataclass(frozen=True, slots=True)
class Load:
    """What it takes to train a model.

    Attributes:
        operations: Of a step, with whole pictures.
        steps: As many with whole pictures as cost the same as all of them.
        weights: How many there are.
    """

    operations: float
    steps: float
    weights: int

    def time_on(self, cores: int) -> float:
        """In no unit; only to be compared."""
        busy = min(cores, max(1.0, self.operations / ENOUGH))
        return self.operations * self.steps / busy**GAIN_OF_CORES


def load_of(spec: FitSpec) -> Load:
    """What a fit of a compact network takes, by arithmetic."""
    operations, weights = _counted(spec.model, spec.image_shape, spec.num_classes)
    steps = spec.passes * spec.steps_per_epoch
    return Load(operations * spec.train.batch_size, steps, weights)


def share_cores(demand: Demand, specs: Sequence[FitSpec], memory: int) -> Demand:
    """The same, or less for each of several lanes, where all networks are compact and small and it saves time.

    Args:
        demand: Of one worker on the cores of one machine.
        specs: All that will be trained.
        memory: Bytes beside what a run with one worker and the smallest of networks takes.
    """
    most = min(demand.cpus, len(specs))
    if most < 2 or demand.room > 1 or not all(spec.model.is_compact for spec in specs):
        return demand
    loads = [load_of(spec) for spec in specs]
    if max(load.operations for load in loads) > MOST:
        return demand
    own = BYTES_OF_A_WEIGHT * max(load.weights for load in loads)
    most = min(most, 1 + max(0, memory - own) // (MEMORY_OF_A_WORKER + own))

    def takes(lanes: int) -> float:
        times = [load.time_on(demand.cpus // lanes) for load in loads]
        return max(sum(times[number] for number in lane) for lane in _dealt(times, lanes))

    lanes = min(range(1, most + 1), key=takes)
    if takes(lanes) > (1 - LEAST_SAVED) * takes(1):
        return demand
    return replace(demand, cpus=demand.cpus // lanes, room=lanes)


def deal(specs: Mapping[str, FitSpec], demand: Demand) -> list[list[str]]:
    """The names of the models of each lane, so that all end at about the same time, as far as that is known.

    Where networks are not compact they are dealt one by one, in their order.
    """
    names = list(specs)
    lanes = min(demand.room, len(names))
    if lanes > 1 and all(spec.model.is_compact for spec in specs.values()):
        times = [load_of(spec).time_on(demand.cpus) for spec in specs.values()]
        return [[names[number] for number in lane] for lane in _dealt(times, lanes)]
    return [names[first::lanes] for first in range(lanes)]


def _dealt(times: Sequence[float], lanes: int) -> list[list[int]]:
    """The longest first, each to the lane that has the least to do; in a lane they keep their order.

    The first lane, whose worker may be up already, has the longest.
    """
    dealt: list[list[int]] = [[] for _ in range(lanes)]
    taken = [0.0] * lanes
    for number in sorted(range(len(times)), key=lambda number: -times[number]):
        lane = taken.index(min(taken))
        dealt[lane].append(number)
        taken[lane] += times[number]
    return [sorted(lane) for lane in dealt]


@cache
def _counted(config: ModelConfig, image_shape: ImageShape, classes: int) -> tuple[float, int]:
    """Operations to train a network on one picture, of what multiplies nearly all; and how many weights it has.

    `training_flops` counts more exactly, with a part of torch that takes a second to import.
    """
    with torch.random.fork_rng(devices=[]):
        model = build_model(config, image_shape, classes).eval()
    counted = 0

    def count(layer: nn.Module, _: object, output: Tensor | tuple[Tensor, ...]) -> None:
        nonlocal counted
        given = output[0] if isinstance(output, tuple) else output
        if isinstance(layer, Block):  # every token with every other, twice
            counted += 2 * given.shape[1] * given.numel()
            return
        channels = given.shape[1] if isinstance(layer, nn.Conv2d) else given.shape[-1]
        weights = sum(p.numel() for p in layer.parameters(recurse=False) if p.ndim >= 2)
        counted += weights * given.numel() // channels

    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.RNNBase | Block):
            layer.register_forward_hook(count)
    height, width, channels = image_shape
    with torch.inference_mode():
        model(torch.zeros(1, channels, height, width))
    return 2.0 * PASSES * counted, sum(p.numel() for p in model.parameters())
