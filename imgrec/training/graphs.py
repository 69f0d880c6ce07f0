"""Training steps as CUDA graphs: captured once for each size of pictures, then replayed as a whole.

A step of a small network is some hundred kernels of a few microseconds each, and a CPU takes about as long to start one as
a GPU to run it. A graph is replayed by one call: the same kernels, with the same numbers, at the same places in memory. So

- what it reads, and what it gives, lies in tensors of its own, which are filled anew for each step;
- learning rates, which change, are read from the device;
- what is drawn or decided on the CPU stays outside: augmentation, mixing, the decay of the moving average.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from imgrec.config import TrainConfig
from imgrec.data.transfer import sent
from imgrec.errors import ConfigError
from imgrec.training.microbatch import is_out_of_memory

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Inputs (B, C, H, W) and targets (B,) or (B, K) to logits (B, K) and loss (), after which the weights have moved."""
WARM_UP = 3
"""Steps of each size that are made kernel by kernel: in them kernels are chosen and optimizers make their state."""


@dataclass(frozen=True, slots=True)
class _Captured:
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
            f"{workers} workers train one model, and their gradients' exchange is not captured"
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
        self._pool = torch.cuda.graph_pool_handle()  # one is enough: no two graphs run at a time
        self._warmed_up: Counter[Any] = Counter()
        self._captured: dict[Any, _Captured] = {}

    def run(self, step: Step, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What `step` gives; the tensors hold until the next step.

        Args:
            step: The same in every call; it leaves no gradients behind.
            inputs: (B, C, H, W), as the network takes them.
            targets: (B,) labels or (B, K) probabilities.

        Raises:
            RuntimeError: something in the step cannot be captured; this process can train no more then.
        """
        self._rates.send()
        size = (inputs.shape, targets.shape)
        captured = self._captured.get(size)
        if captured is None and self._warmed_up[size] < WARM_UP:
            self._warmed_up[size] += 1
            return self._warm_up(step, inputs, targets)
        if captured is None:
            captured = self._captured[size] = self._capture(step, inputs, targets)
        return captured.replay(inputs, targets)

    def _warm_up(self, step: Step, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The step kernel by kernel, in the stream that it will be captured in."""
        usual, aside = torch.cuda.current_stream(self._device), _stream_of(self._device)
        aside.wait_stream(usual)
        with torch.cuda.stream(aside), self._rates.read():
            outputs = step(inputs, targets)
        usual.wait_stream(aside)
        return outputs

    def _capture(self, step: Step, inputs: Tensor, targets: Tensor) -> _Captured:
        own = inputs.clone(), targets.clone()
        graph = torch.cuda.CUDAGraph()
        try:
            # Another thread may send pictures meanwhile: what it asks of the GPU is no part of the step.
            with (
                torch.cuda.graph(
                    graph,
                    self._pool,
                    _stream_of(self._device),
                    capture_error_mode="thread_local",
                ),
                self._rates.read(capturing=True),
            ):
                outputs = step(*own)
        except RuntimeError as error:
            # The end of a capture that failed says only that it failed.
            cause = error.__context__ or error
            if is_out_of_memory(cause):
                raise torch.OutOfMemoryError(str(cause)) from error
            msg = f"a step of this network cannot be captured as a CUDA graph; leave out train.cuda_graphs ({cause})"
            raise RuntimeError(msg) from error
        return _Captured(graph, *own, outputs)


@cache
def _stream_of(device: torch.device) -> torch.cuda.Stream:
    """One for all fits of a process: libraries keep memory for each stream."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class RatesOnDevice:
    """Learning rates where a captured step can read them.

    Schedules and checkpoints go on with numbers: the tensors stand in their place during a step alone.
    """

    def __init__(self, device: torch.device, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers = optimizers
        self._rates = torch.zeros(len(self._groups()), device=device)

    def _groups(self) -> list[dict[str, Any]]:
        """As they are now: others take their place when a checkpoint is read."""
        return [group for one in self._optimizers for group in one.param_groups]

    def send(self) -> None:
        """Bring them to what the schedules say now."""
        rates = torch.tensor([group["lr"] for group in self._groups()])
        self._rates.copy_(sent(rates, self._rates.device))

    @contextmanager
    def read(self, *, capturing: bool = False) -> Iterator[None]:
        """Inside, optimizers read them from the device.

        Args:
            capturing: Whether a graph is captured there. AdamW is told, and complains elsewhere of being told.
        """
        groups = self._groups()
        kept = [dict(group) for group in groups]
        for group, rate in zip(groups, self._rates.unbind(), strict=True):
            group["lr"] = rate
            if capturing and "capturable" in group:
                group["capturable"] = True
        try:
            yield
        finally:
            for group, own in zip(groups, kept, strict=True):
                group.update(own)
