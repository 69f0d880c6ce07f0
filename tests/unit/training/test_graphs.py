"""What a CUDA graph replays is the whole step: nothing in it is a number of the CPU that changes from step to step.

A graph needs a GPU (tests/bench/test_gpu.py). What it does to a step can be seen without one: `make_fx` traces the
operations of a call with the numbers that they had, and the trace can be replayed.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from imgrec.config import ARCHS, Arch, TrainConfig
from imgrec.data.loader import Shard
from imgrec.errors import ConfigError
from imgrec.training.graphs import RatesOnDevice, Step, refuse_graphs
from imgrec.training.learner import Learner, build_learner
from imgrec.training.spec import FitSpec
from tests.unit.training.made import CPU, spec_for, weights

KINDS: list[tuple[Arch, str]] = [*((arch, "") for arch in ARCHS), ("cnn", "adamw"), ("cnn", "sgd")]
WARM_UP, REPLAYED = 2, 4


def spec_of(arch: Arch, optimizer: str, storage: Path) -> FitSpec:
    own = [f"train.optimizer='{optimizer}'"] if optimizer else []
    return spec_for(arch, storage, *own, "train.max_grad_norm=1.0")


def batches(spec: FitSpec) -> Iterator[tuple[Tensor, Tensor]]:
    """One after the other, each another."""
    height, width, channels = spec.image_shape
    generator = torch.Generator().manual_seed(0)
    while True:
        inputs = torch.randn(16, channels, height, width, generator=generator)
        yield inputs, torch.randint(spec.num_classes, (16,), generator=generator)


def traced(learner: Learner, inputs: Tensor, targets: Tensor) -> Step:
    """The step, made once and traced."""

    def step(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        # make_fx counts the arguments of a method wrongly.
        return learner.whole_step(inputs, targets)

    # The trace has the backward pass in it.
    return torch.no_grad()(make_fx(step)(inputs, targets))


def trained(
    spec: FitSpec, *, trace: bool, rates_on_device: bool = True, steps: int = WARM_UP + REPLAYED
) -> Tensor:
    """The weights after some steps, the rate of each another, of which the last are replayed from a trace."""
    torch.manual_seed(0)
    learner = build_learner(spec, CPU, Shard())
    learner.model.train()
    rates = RatesOnDevice(CPU, learner.optimizers)
    step: Step = learner.whole_step
    for number, (inputs, targets) in zip(range(steps), batches(spec), strict=False):
        rates.send()
        if rates_on_device:
            with rates.read():
                if trace and number == WARM_UP:
                    step = traced(learner, inputs, targets)
                else:
                    step(inputs, targets)
        elif trace and number == WARM_UP:
            step = traced(learner, inputs, targets)
        else:
            step(inputs, targets)
        for schedule in learner.schedules:
            schedule.step()
    return weights(learner)


@pytest.mark.parametrize(("arch", "optimizer"), KINDS)
def test_a_step_that_is_replayed_is_the_step(arch: Arch, optimizer: str, tmp_path: Path) -> None:
    """To the last bit, with other pictures and at other rates than those that it was traced with."""
    spec = spec_of(arch, optimizer, tmp_path)

    assert torch.equal(trained(spec, trace=True), trained(spec, trace=False))


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd"])
def test_a_rate_that_is_a_number_would_be_replayed_too(optimizer: str, tmp_path: Path) -> None:
    """So the test above sees what it is there for."""
    spec = spec_of("cnn", optimizer, tmp_path)
    replayed = trained(spec, trace=True, rates_on_device=False)

    assert not torch.equal(replayed, trained(spec, trace=False, rates_on_device=False))


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd"])
def test_rates_on_the_device_are_those_of_the_schedules(optimizer: str, tmp_path: Path) -> None:
    """Up to fp32: as numbers they have more digits. Of two steps alone, for what rounding differs in, later ones enlarge."""
    spec = spec_of("cnn", optimizer, tmp_path)
    as_numbers = trained(spec, trace=False, rates_on_device=False, steps=2)
    as_tensors = trained(spec, trace=False, steps=2)

    torch.testing.assert_close(as_tensors, as_numbers, atol=1e-6, rtol=1e-6)


def test_outside_of_a_step_rates_are_numbers(tmp_path: Path) -> None:
    """Also after one that failed, and of optimizers that were read from a checkpoint: schedules and files know nothing else."""
    learner = build_learner(spec_for("cnn", tmp_path), CPU, Shard())
    rates = RatesOnDevice(CPU, learner.optimizers)
    before = [one.state_dict() for one in learner.optimizers]
    for optimizer, state in zip(learner.optimizers, before, strict=True):
        optimizer.load_state_dict(state)

    def fail() -> None:
        with rates.read():
            groups = [group for one in learner.optimizers for group in one.param_groups]
            assert all(isinstance(group["lr"], Tensor) for group in groups)
            msg = "in a step"
            raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match="in a step"):
        fail()
    assert [one.state_dict() for one in learner.optimizers] == before


@pytest.mark.parametrize(
    ("device", "arithmetic", "workers", "told"),
    [
        ("cpu", "fp32", 1, "trained on CPU"),
        ("mps", "fp32", 1, "trained on MPS"),
        ("cuda", "bf16", 2, "2 workers"),
        ("cuda", "fp16", 1, "fp16"),
    ],
)
def test_graphs_that_cannot_be_had_are_refused(
    device: str, arithmetic: str, workers: int, told: str
) -> None:
    """In one line, with the cure."""
    asked = TrainConfig(cuda_graphs=True)

    with pytest.raises(ConfigError, match=f"cuda_graphs = true: .*{told}.*leave it out"):
        refuse_graphs(asked, device, arithmetic, workers)
    refuse_graphs(TrainConfig(), device, arithmetic, workers)
    refuse_graphs(asked, "cuda", "bf16", 1)


def test_a_learner_without_a_gpu_is_not_built_with_graphs(tmp_path: Path) -> None:
    """A setting is obeyed or refused."""
    with pytest.raises(ConfigError, match="NVIDIA GPU"):
        build_learner(spec_for("ann", tmp_path, "train.cuda_graphs=true"), CPU, Shard())
