"""Training steps as CUDA graphs: recorded once for each size of pictures, then started as a whole.

A step of a small network is some hundred kernels of a few microseconds each, and a CPU takes about as long to start one as
a GPU to run it. A graph is started by one call, and repeats what was recorded: the same kernels, with the same numbers,
at the same places in memory. So

- what it reads, and what it gives, lies in tensors of its own, which are filled anew for each step;
- learning rates, which change, are read from the device;
- what is drawn or decided on the CPU stays outside: augmentation, mixing, the decay of the moving average.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from imgrec.config import TrainConfig
from imgrec.errors import ConfigError, TrainingError
from imgrec.training.microbatch import is_out_of_memory

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Inputs (B, C, H, W) and targets (B,) or (B, K) to logits (B, K) and loss (), after which the weights have moved."""
WARM_UP = 3
"""Steps of each size that are made one kernel at a time: in them kernels are chosen and optimizers make their state."""


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A graph, and the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    targets: Tensor
    outputs: tuple[Tensor, Tensor]

    def replay(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        self.inputs.copy_(inputs)
        self.targets.copy_(targets)
        self.graph.replay()
        return self.outputs


def refuse_graphs(train: TrainConfig, device: str, arithmetic: str, workers: int) -> None:
    """Raise ConfigError where graphs are asked for and cannot be had.

    Args:
        train: Of one architecture.
        device: "cuda", "cpu" or "mps".
        arithmetic: What it is trained in.
        workers: That train one model together.
    """
    if not train.cuda_graphs:
        return
    if device != "cuda":
        problem = f"it is trained on {device.upper()}, and not on an NVIDIA GPU"
    elif workers > 1:
        problem = (
            f"{workers} workers train one model, and their gradients' exchange is not recorded"
        )
    elif arithmetic == "fp16":
        problem = "in fp16 a step waits for the GPU to tell whether gradients overflowed"
    else:
        return
    msg = f"train.cuda_graphs = true: {problem}; leave it out"
    raise ConfigError(msg)


class Graphs:
    """The steps of one fit on one GPU.

    Args:
        device: The GPU.
        optimizers: Whose rates the steps read; the same in all steps.
    """

    def __init__(self, device: torch.device, optimizers: Sequence[Optimizer]) -> None:
        self._device = device
        self._rates = RatesOnDevice(device, optimizers)
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()  # one is enough: no two graphs run at a time
        self._made: Counter[Any] = Counter()
        self._recorded: dict[Any, _Recorded] = {}

    def run(self, step: Step, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What `step` gives; the tensors hold until the next step.

        Args:
            step: The same in every call; it leaves no gradients behind.
            inputs: (B, C, H, W), as the network takes them.
            targets: (B,) labels or (B, K) probabilities.

        Raises:
            TrainingError: something in the step cannot be recorded.
        """
        self._rates.send()
        size = (inputs.shape, targets.shape)
        recorded = self._recorded.get(size)
        if recorded is None and self._made[size] < WARM_UP:
            self._made[size] += 1
            return self._aside(step, inputs, targets)
        if recorded is None:
            recorded = self._recorded[size] = self._record(step, inputs, targets)
        return recorded.replay(inputs, targets)

    def _aside(self, step: Step, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The step itself, in a stream beside the usual one, as it will be recorded."""
        usual = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(usual)
        with torch.cuda.stream(self._stream), self._rates.read():
            outputs = step(inputs, targets)
        usual.wait_stream(self._stream)
        return outputs

    def _record(self, step: Step, inputs: Tensor, targets: Tensor) -> _Recorded:
        own = inputs.clone(), targets.clone()
        graph = torch.cuda.CUDAGraph()
        try:
            # Another thread may send pictures meanwhile: what it asks of the GPU is no part of the step.
            with (
                torch.cuda.graph(
                    graph, self._pool, self._stream, capture_error_mode="thread_local"
                ),
                self._rates.read(),
            ):
                outputs = step(*own)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            first = next(iter(str(error).strip().splitlines()), "")[:200]
            msg = f"a step of this network cannot be recorded as a CUDA graph: leave out train.cuda_graphs ({first})"
            raise TrainingError(msg) from error
        return _Recorded(graph, *own, outputs)


class RatesOnDevice:
    """Learning rates where a recorded step can read them.

    Schedules and checkpoints go on with numbers: the tensors stand in their place during a step alone.
    """

    def __init__(self, device: torch.device, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers = optimizers
        self._rates = [torch.zeros((), device=device) for _ in self._groups()]

    def _groups(self) -> list[dict[str, Any]]:
        """As they are now: others take their place when a checkpoint is read."""
        return [group for one in self._optimizers for group in one.param_groups]

    def send(self) -> None:
        """Bring them to what the schedules say now."""
        for group, rate in zip(self._groups(), self._rates, strict=True):
            rate.fill_(group["lr"])

    @contextmanager
    def read(self) -> Iterator[None]:
        """Inside, optimizers read them from the device."""
        groups = self._groups()
        kept = [dict(group) for group in groups]
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = True
        try:
            yield
        finally:
            for group, own in zip(groups, kept, strict=True):
                group.update(own)
