"""How much is computed is counted, not guessed."""

import pytest
import torch
from torch import nn

from imgrec.config import CnnConfig, RnnConfig
from imgrec.models import build_model
from imgrec.models.build import lay_out
from imgrec.models.folding import FoldingConv
from imgrec.training.throughput import peak_flops, training_flops


def test_a_matrix_counts_two_operations_for_each_weight_and_pass() -> None:
    """Forward, and backward to the inputs and to the weights; the first layer's inputs need none."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16), nn.ReLU(), nn.Linear(16, 10))
    first, second = 3 * 8 * 8 * 16, 16 * 10
    assert training_flops(model, (8, 8, 3)) == 2 * (2 * first + 3 * second)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_recurrent_layers_are_counted(cell: str) -> None:
    """Gates times inputs and states, forward and backward, for every row of both directions."""
    config = RnnConfig(cell=cell, hidden=32, tokens="rows")
    flops = training_flops(build_model(config, (16, 16, 1), 10), (16, 16, 1))
    gates = 3 if cell == "gru" else 4
    weights = gates * 32 * (16 + 32)
    assert flops == pytest.approx(3 * 2 * weights * 16 * 2, rel=0.25)


def test_counting_leaves_the_model_as_it_was() -> None:
    """No gradients, no other statistics, still in evaluation."""
    model = build_model(CnnConfig(widths=(8, 8)), (16, 16, 3), 10).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert training_flops(model, (16, 16, 3)) > 0
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_card_is_known_by_a_part_of_its_name() -> None:
    """What the maker gives for its arithmetic; nothing is said of cards that are not known."""
    assert peak_flops("NVIDIA H100 80GB HBM3", "bf16") == 989e12
    assert peak_flops("NVIDIA H100 PCIe", "bf16") == 756e12
    assert peak_flops("NVIDIA H100 NVL", "bf16") == 835e12
    assert peak_flops("NVIDIA L40S", "fp32") == 92e12
    assert peak_flops("NVIDIA L40", "fp32") == 90e12
    assert peak_flops("NVIDIA RTX A1000", "bf16") == 0  # no A100
    assert peak_flops("NVIDIA T400", "fp32") == 0  # no T4
    assert peak_flops("Tesla T4", "fp16") == 65e12
    assert peak_flops("Tesla V100-SXM2-16GB", "fp32") == 15.7e12
    assert peak_flops("Radeon", "bf16") == 0


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_convolutions_in_groups_are_counted_as_what_they_are(groups: int) -> None:
    """However wide they are, and however a CPU computes their gradients; a picture of the first layer needs none."""
    first = FoldingConv(3, 8, 5, padding=2)
    second = FoldingConv(8, 8, 5, padding=2, groups=groups)
    model = lay_out(nn.Sequential(first, second, nn.Flatten()))
    places = 10 * 10
    counted = 2 * places * (2 * first.weight.numel() + 3 * second.weight.numel())

    assert training_flops(model, (10, 10, 3)) == counted


def test_transposed_convolutions_are_counted_by_what_they_are_given() -> None:
    """Each place of that is multiplied by the whole kernel, forwards and twice backwards."""
    first, second = nn.Conv2d(3, 8, 1, bias=False), nn.ConvTranspose2d(8, 4, 2, stride=2)
    counted = 2 * 36 * (2 * first.weight.numel() + 3 * second.weight.numel())

    assert training_flops(nn.Sequential(first, second, nn.Flatten()), (6, 6, 3)) == counted
