"""How long a stage will take and how much disk it will use, before it is started."""

import itertools
import time
from dataclasses import replace

import torch
from torch import nn

from imgrec.config import Branch
from imgrec.errors import ConfigError
from imgrec.models import build_model, count_parameters
from imgrec.training.spec import FitSpec

# A backward pass costs about twice its forward pass.
PASSES = 3
TIMED_BATCH = 32
COPIES = 5
# Of the epochs that a search would train without early stopping; measured, see docs/results.md.
SEARCHED_SHARE = 0.5


def images_per_second(spec: FitSpec) -> float:
    """Training speed of this machine, guessed from a few timed forward passes; 0.1 s."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        model = build_model(spec.model, spec.image_shape, spec.num_classes).eval()
        height, width, channels = spec.image_shape
        images = torch.zeros(TIMED_BATCH, channels, height, width)
        seconds = []
        for _ in range(4):  # the first warms up
            started = time.perf_counter()
            model(images)
            seconds.append(time.perf_counter() - started)
    return TIMED_BATCH / (PASSES * min(seconds[1:]))


def fit_seconds(spec: FitSpec, speed: float) -> float:
    """All epochs at a speed in images/s."""
    return spec.train.epochs * spec.steps_per_epoch * spec.train.batch_size / speed


def checkpoint_bytes(spec: FitSpec) -> int:
    """At most of one checkpoint: the weights, their average, the best ones, two states of AdamW."""
    return COPIES * 4 * parameters(spec)


def largest_checkpoint(branch: Branch, spec: FitSpec) -> int:
    """The most that a trial's checkpoint can take, over the sizes of models in the space."""
    sizes = [d for d in branch.space if d.key.startswith("model.") and (d.choices or d.whole)]
    largest = checkpoint_bytes(spec)
    for values in itertools.product(*(d.ends for d in sizes)):
        try:
            model = branch.with_settings(
                dict(zip((d.key for d in sizes), values, strict=True))
            ).model
            largest = max(largest, checkpoint_bytes(replace(spec, model=model)))
        except ConfigError:
            continue  # such a model cannot be built, and so not be tried
    return largest


def parameters(spec: FitSpec) -> int:
    """Trainable numbers of the model, without making it."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        model: nn.Module = build_model(spec.model, spec.image_shape, spec.num_classes)
    return count_parameters(model)
