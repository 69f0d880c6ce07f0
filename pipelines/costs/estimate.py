"""How long a stage will take and how much disk it will use, before it is started."""

import itertools
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import nn

from imgrec.config import Branch
from imgrec.data.decode import Decoding
from imgrec.data.scan import ScanPart, scan_part
from imgrec.data.sources.sample import Sample
from imgrec.errors import ConfigError
from imgrec.machine import available_cores
from imgrec.models import build_model, count_parameters
from imgrec.models.build import lay_out
from imgrec.training.loop import SPENT
from imgrec.training.precision import Precision, choose_arithmetic, device_kind
from imgrec.training.spec import FORWARD_SHARE, FitSpec
from imgrec.training.throughput import PASSES

TIMED_BATCH = 32
TIMED_STEP = 8
COPIES = 5
# Of the epochs that a search would train without early stopping; measured, see docs/results.md.
SEARCHED_SHARE = 0.5
# Pictures for each decoding process that are decoded to see how long all of them will take.
SAMPLED = 32
MOST_SAMPLED_BYTES = 256 << 20
SHORT_SECONDS = 5.0
# What each takes, in starts of a process that imports NumPy; measured, see docs/results.md.
# A local Ray comes up beside imports and data, and one worker alone needs no helpers.
STARTS_OF_RAY, STARTS_OF_WORKERS, STARTS_ALONE, STARTS_TO_REGISTER = 10.0, 110.0, 35.0, 15.0
SMALL_PROCESS = ("-P", "-c", "import numpy, PIL.Image")  # -P: nothing from the current folder


@dataclass(frozen=True, slots=True)
class Overheads:
    """Seconds that a run takes beside decoding and training.

    Attributes:
        ray: To start Ray.
        workers: To start the workers of one lane.
        register: To score and register one model.
        source: Where the numbers are from, for people.
    """

    ray: float
    workers: float
    register: float
    source: str

    @classmethod
    def of(cls, metrics: Mapping[str, float]) -> Self | None:
        """From the metrics of a workflow that ended; None where it started nothing.

        Models are registered beside the training of others; its clock counts the last one.
        """
        if f"{SPENT}train" not in metrics:
            return None
        return cls(
            metrics.get(f"{SPENT}ray", 0.0),
            metrics[f"{SPENT}train"],
            metrics.get(f"{SPENT}register", 0.0),
            "as measured before",
        )

    @classmethod
    def guessed(cls, *, alone: bool) -> Self:
        """From how fast this machine starts a small process; 0.5 s.

        Args:
            alone: One worker trains, on a Ray of this machine.
        """
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            subprocess.run([sys.executable, *SMALL_PROCESS], check=True)  # noqa: S603 - our own
            seconds.append(time.perf_counter() - started)
        one = min(seconds)
        return cls(
            STARTS_OF_RAY * one,
            (STARTS_ALONE if alone else STARTS_OF_WORKERS) * one,
            STARTS_TO_REGISTER * one,
            "guessed from the start of a process",
        )


def decoding_seconds(samples: Sequence[Sample], how: Decoding, workers: int) -> float:
    """How long this machine takes to decode all of them, from some, spread evenly, that it decodes.

    The first time decoding processes are started too; where that was short, a second time is what counts.

    Args:
        samples: All.
        how: They become the pictures of the store.
        workers: Processes that decode; 0 means one a core.
    """
    wanted = SAMPLED * (workers or available_cores())
    count = min(len(samples), wanted, max(1, MOST_SAMPLED_BYTES // math.prod(how.image_shape)))
    some = [samples[number * len(samples) // count].content for number in range(count)]
    seconds = 0.0
    with tempfile.TemporaryDirectory(prefix="imgrec-") as folder:
        part = ScanPart(some, Path(folder, "images.npy"))
        for _ in range(2):
            if seconds > SHORT_SECONDS:
                break
            started = time.perf_counter()
            scan_part(part, workers, lambda _: None, how=how)
            seconds = time.perf_counter() - started
    return seconds * len(samples) / count


def images_per_second(spec: FitSpec) -> float:
    """Training speed of this machine, guessed from a few timed passes: 0.1 s, of a pretrained network 1 s.

    Of that the layers that keep their weights cost a forward pass only, so whole steps are timed.
    """
    if spec.weights:
        return _steps_per_second(spec) * TIMED_STEP
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        model = lay_out(build_model(spec.model, spec.image_shape, spec.num_classes)).eval()
        images = _images(TIMED_BATCH, spec)
        seconds = []
        for _ in range(4):  # the first warms up
            started = time.perf_counter()
            model(images)
            seconds.append(time.perf_counter() - started)
    return TIMED_BATCH / (PASSES * min(seconds[1:]))


def _steps_per_second(spec: FitSpec) -> float:
    """Of batches of TIMED_STEP pictures, in the arithmetic and with the frozen layers of the fit."""
    device = torch.device("cpu")
    kinds = [device_kind(device)]
    arithmetic = choose_arithmetic(spec.train.precision, spec.model, kinds)
    with torch.random.fork_rng(devices=[]):
        model = lay_out(build_model(spec.model, spec.image_shape, spec.num_classes)).train()
        model.freeze(spec.train.freeze)
        images = _images(TIMED_STEP, spec)
        seconds = []
        for _ in range(3):  # the first warms up
            started = time.perf_counter()
            with Precision(device, arithmetic).autocast():
                logits = model(images)
            logits.float().sum().backward()
            seconds.append(time.perf_counter() - started)
    return 1 / min(seconds[1:])


def _images(count: int, spec: FitSpec) -> torch.Tensor:
    """(count, C, H, W), laid out as training has them."""
    height, width, channels = spec.image_shape
    images = torch.zeros(count, channels, height, width)
    return images.contiguous(memory_format=torch.channels_last)


def fit_seconds(spec: FitSpec, speed: float) -> float:
    """All epochs at a speed in images/s; one that trains the last layer alone goes forward once."""
    probed = spec.probe_epochs * FORWARD_SHARE * spec.num_train
    return (probed + spec.total_steps * spec.train.batch_size) / speed


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
