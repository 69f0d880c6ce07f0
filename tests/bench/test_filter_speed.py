"""What each filter, and each change of training pictures, costs on this CPU.

uv run pytest -m bench -s tests/bench/test_filter_speed.py
"""

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from imgrec.preprocess.augment import Augmentation, mixed
from imgrec.preprocess.filters import filtered
from imgrec.preprocess.recipe import ChannelStatistics, Recipe
from tests.unit.preprocess.made import EVERY

BATCH = 256
ROUNDS = 5
STATISTICS = ChannelStatistics((0.5,) * 3, (0.25,) * 3)
CHANGES = (
    Augmentation(),
    Augmentation(flip=True, shift=0.125, erase=0.25),
    Augmentation(rotate=15.0, crop_area=0.64),
    Augmentation(color=0.4),
    Augmentation(policy="randaugment"),
    Augmentation(policy="trivialaugment"),
)


@pytest.mark.bench
@pytest.mark.parametrize("side", [32, 128])
def test_filters_keep_up(side: int) -> None:
    """Images/s of batches of RGB pictures; slower than 20 would be no use for training."""
    images = torch.randint(0, 256, (BATCH, side, side, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    levels = images.float() / 255
    labels = torch.randint(0, 10, (BATCH,))
    works: dict[str, Callable[[], Tensor]] = {
        one.filter: lambda one=one: filtered(levels, [one])  # type: ignore[misc]
        for one in EVERY
    }
    for how in CHANGES:
        recipe = Recipe(STATISTICS, (), how)
        works[f"recipe: {how}"] = lambda recipe=recipe: recipe(images)  # type: ignore[misc]
    for how in (Augmentation(mixup=0.2), Augmentation(cutmix=1.0)):
        works[str(how)] = lambda how=how: mixed(levels, labels, 10, how)[0]  # type: ignore[misc]
    speeds = {name: _images_per_second(work) for name, work in works.items()}
    print(f"\n{side} x {side} RGB, batch {BATCH}, {torch.get_num_threads()} threads")
    for name, speed in speeds.items():
        print(f"  {name:40} {speed:12,.0f} images/s")

    assert min(speeds.values()) > 20


def _images_per_second(work: Callable[[], Tensor]) -> float:
    work()
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return BATCH / min(seconds)
