"""Where a GPU is at hand: training on it comes to the same, faster. tests/bench/gpu.py has the figures."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from imgrec.config import load_config
from imgrec.data.loader import Pictures, Shard, TrainingBatch, free_bytes, training_batches
from imgrec.models.recurrent import Gru, Lstm
from imgrec.preprocess.augment import Augmentation
from imgrec.training.learner import build_learner
from imgrec.training.loop import train_epoch
from imgrec.training.loss import Loss
from imgrec.training.microbatch import release_memory
from imgrec.training.probe import fit_probe
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


EVERYTHING = Augmentation(
    flip=True,
    shift=0.1,
    rotate=15.0,
    color=0.3,
    policy="randaugment",
    erase=0.2,
    mixup=0.2,
    cutmix=0.5,
)


@pytest.mark.parametrize("arch", ["ann", "cnn", "rnn", "transformer"])
def test_a_step_does_not_wait_for_the_gpu(specs: dict[str, FitSpec], arch: str) -> None:
    """Whatever is done to the pictures: while the GPU works through a step, the CPU asks for the next ones."""
    spec = specs[arch]
    spec = replace(spec, augmentation=EVERYTHING, train=spec.train.model_copy(update={"epochs": 2}))
    learner = build_learner(spec, CUDA, Shard())
    pictures = Pictures(learner.store, CUDA)
    rows = learner.splits.train

    def batches() -> list[TrainingBatch]:
        drawn = training_batches(
            pictures, rows, batch_size=32, seed=0, epoch=0, shard=Shard(), balanced=False
        )
        return list(itertools.islice(drawn, 4))

    train_epoch(learner, batches(), lambda _: None)  # the first steps choose kernels
    torch.cuda.synchronize()

    def watch(step: int) -> None:
        # From the end of the first step to that of the third: what waits in between raises an error.
        torch.cuda.set_sync_debug_mode("error" if step < 3 else "default")

    try:
        train_epoch(learner, batches(), watch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def movement(spec: FitSpec, *, graphs: bool, steps: int) -> torch.Tensor:
    """How far so many steps move the weights, the pictures of the first half of them small."""
    train = spec.train.model_copy(update={"cuda_graphs": graphs, "precision": "fp32"})
    learner = build_learner(replace(spec, train=train), CUDA, Shard())
    before = nn.utils.parameters_to_vector(learner.model.parameters()).detach().clone()
    pictures, rows = Pictures(learner.store, CUDA), learner.splits.train
    for epoch in (0, spec.train.epochs - 1):
        drawn = training_batches(
            pictures, rows, batch_size=32, seed=0, epoch=epoch, shard=Shard(), balanced=False
        )
        learner.epochs_done = epoch
        torch.manual_seed(epoch)
        train_epoch(learner, itertools.islice(drawn, steps // 2), lambda _: None)
    return nn.utils.parameters_to_vector(learner.model.parameters()).detach() - before


@pytest.mark.parametrize("augmentation", [Augmentation(shift=0.1), EVERYTHING])
@pytest.mark.parametrize("arch", ["ann", "cnn", "rnn", "transformer"])
def test_steps_as_graphs_move_the_weights_as_steps_do(
    specs: dict[str, FitSpec], arch: str, augmentation: Augmentation
) -> None:
    """In the same direction, as far: with both sizes of pictures, at rates that change in every step.

    Not to the last bit: sums on a GPU have no fixed order, and what rounding differs in, later steps enlarge. The bounds are
    choices, for no GPU was at hand: with old pictures, or the rate of another step, it goes elsewhere or not as far.
    """
    spec = replace(specs[arch], augmentation=augmentation)
    size = {"start_size": 0.5} if arch in {"cnn", "transformer"} else {}
    spec = replace(spec, train=spec.train.model_copy(update={"batch_size": 32, **size}))
    steps, graphs = (movement(spec, graphs=on, steps=24) for on in (False, True))

    assert torch.cosine_similarity(steps, graphs, dim=0) > 0.95
    assert float(graphs.norm()) == pytest.approx(float(steps.norm()), rel=0.05)


@pytest.mark.parametrize("arch", ["ann", "cnn", "rnn", "transformer"])
def test_a_fit_by_graphs_learns_and_gives_its_memory_back(
    specs: dict[str, FitSpec], arch: str
) -> None:
    """As well as one by steps; the next model finds the card as this one did."""
    spec = specs[arch]
    spec = replace(spec, train=spec.train.model_copy(update={"cuda_graphs": True}))
    reserved = []
    for _ in range(2):  # the first leaves what libraries keep for the stream of all captures
        assert measure(spec, CUDA)["test_accuracy"] > 0.9
        release_memory()
        reserved.append(torch.cuda.memory_reserved())

    assert reserved[1] <= reserved[0]


def test_a_gpu_in_fp32_comes_to_what_a_cpu_comes_to(specs: dict[str, FitSpec]) -> None:
    """The same pictures in the same order, so about the same accuracy; not the same bits."""
    spec = specs["ann"]
    spec = replace(spec, train=spec.train.model_copy(update={"precision": "fp32", "epochs": 3}))
    here, there = measure(spec, torch.device("cpu")), measure(spec, CUDA)

    assert there["test_accuracy"] == pytest.approx(here["test_accuracy"], abs=0.03)


@pytest.mark.parametrize("arch", ["ann", "cnn", "rnn", "transformer"])
def test_a_gpu_answers_in_fp32_what_a_cpu_answers(specs: dict[str, FitSpec], arch: str) -> None:
    """Rounding alone differs: a model that was registered where there is a GPU serves where there is none."""
    learner = build_learner(specs[arch], CUDA, Shard())
    pictures = torch.from_numpy(learner.store.images[:64]).permute(0, 3, 1, 2)
    model, recipe = learner.model.eval(), learner.recipe.eval()
    with torch.inference_mode():
        there = torch.softmax(model(recipe(pictures.to(CUDA))), dim=1).cpu()
        here = torch.softmax(model.cpu()(recipe.cpu()(pictures)), dim=1)
    torch.testing.assert_close(there, here, atol=1e-5, rtol=0)


def test_a_process_with_a_share_of_a_gpu_counts_on_no_more() -> None:
    """Four trials on one card: each keeps pictures in a part of its own quarter."""
    _, total = torch.cuda.mem_get_info(CUDA)
    torch.cuda.set_per_process_memory_fraction(0.25)
    try:
        assert free_bytes(CUDA) <= total // 4
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_probe_is_solved_on_a_gpu_to_the_same_minimum() -> None:
    """Its sums are in another order, so up to the tolerance that it is solved to."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 3
    features = torch.randn(3, 20, generator=generator)[labels]
    features += torch.randn(600, 20, generator=generator)
    here = fit_probe(features, labels, Loss("none", (200,) * 3, 0.0), 0)
    loss_fn = Loss("none", (200,) * 3, 0.0).to(CUDA)
    there = fit_probe(features.to(CUDA), labels.to(CUDA), loss_fn, 0)

    assert there.strength == here.strength
    torch.testing.assert_close(there.weight, here.weight, atol=1e-2, rtol=0)


@pytest.mark.parametrize("layer", [Gru, Lstm])
def test_a_recurrent_layer_is_in_the_arithmetic_that_was_asked_for(layer: type[nn.Module]) -> None:
    """By itself autocast would take fp16 for bf16."""
    cell, sequences = layer(8, 16).to(CUDA), torch.rand(3, 5, 8, device=CUDA)
    for asked, given in ((torch.bfloat16, torch.float32), (torch.float16, torch.float16)):
        with torch.autocast("cuda", dtype=asked):
            assert cell(sequences)[0].dtype == given
