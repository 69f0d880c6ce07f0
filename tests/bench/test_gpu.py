"""Where a GPU is at hand: training on it comes to the same, faster. tests/bench/gpu.py has the figures."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from imgrec.config import load_config
from imgrec.training.spec import FitSpec
from pipelines.prepare import prepare
from tests.bench.gpu import measure
from tests.conftest import no_progress

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
CUDA = torch.device("cuda")


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FitSpec]:
    storage: Path = tmp_path_factory.mktemp("gpu")
    return dict(prepare(load_config(None, [f"storage='{storage}'"]), no_progress).specs)


@pytest.mark.parametrize("arch", ["ann", "cnn", "rnn", "transformer"])
def test_every_architecture_learns_on_a_gpu(specs: dict[str, FitSpec], arch: str) -> None:
    """In bf16, with what it took of the card's memory and time on record."""
    found = measure(specs[arch], CUDA)

    assert found["test_accuracy"] > 0.9
    assert found["precision"] == "bf16"
    assert found["gpu_bytes"] > 0
    assert found["flops_per_second"] > 0


def test_a_gpu_in_fp32_comes_to_what_a_cpu_comes_to(specs: dict[str, FitSpec]) -> None:
    """The same pictures in the same order, so about the same accuracy; not the same bits."""
    spec = specs["ann"]
    spec = replace(spec, train=spec.train.model_copy(update={"precision": "fp32", "epochs": 3}))
    here, there = measure(spec, torch.device("cpu")), measure(spec, CUDA)

    assert there["test_accuracy"] == pytest.approx(here["test_accuracy"], abs=0.03)
