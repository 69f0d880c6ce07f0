"""Muon's steps: orthogonal, of the size that is promised, in any memory layout."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from imgrec.models.convolution import NormedConv
from imgrec.training import muon
from imgrec.training.muon import (
    FIXED_NORM_RATE,
    RMS_OF_ADAMW,
    Muon,
    as_matrix,
    orthogonalized,
)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000))
def test_a_step_has_the_directions_of_the_gradient_and_even_strengths(
    rows: int, columns: int, seed: int
) -> None:
    """Against the singular value decomposition: U V', but for the strengths that stay near 1."""
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    (found,) = orthogonalized(matrix[None], iterations=5)
    left, strengths, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    along = torch.einsum("mk,mn,kn->k", left, found.double(), right)
    strong = strengths > 0.05 * strengths.norm()
    assert ((along[strong] > 0.6) & (along[strong] < 1.3)).all()


@given(st.integers(1, 12), st.integers(1, 90), st.integers(0, 1000))
def test_wide_matrices_come_out_as_by_one_iteration_after_the_other(
    rows: int, columns: int, seed: int
) -> None:
    """The way by their square saves operations, and changes no more than rounding does.

    Three iterations make small strengths up to 41 times (3.4445 cubed) as large, and the square has them twice: 1e-4 are
    1,700 roundings of fp32.
    """
    matrices = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(seed))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(muon, "LEAST_WIDTH", 1000)
        plain = orthogonalized(matrices, iterations=3)
        each = torch.cat([orthogonalized(one[None], iterations=3) for one in matrices])
    torch.testing.assert_close(orthogonalized(matrices, iterations=3), plain, atol=1e-4, rtol=0)
    # A product of one matrix may add up in another order than that of three: two roundings (1.2e-7), made 41 times as large.
    torch.testing.assert_close(each, plain, atol=1e-5, rtol=0)


def test_weights_of_one_shape_are_trained_as_each_alone() -> None:
    """Those without a gradient are left as they are."""
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(8, 24)) for _ in range(3)]
    weights += [nn.Parameter(torch.randn(8, 3, 4, 2)), nn.Parameter(torch.randn(5, 5))]
    alone = copy.deepcopy(weights)
    for one, other in zip(weights[:-1], alone, strict=False):
        one.grad = torch.randn_like(one)
        other.grad = one.grad.clone()
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
    Muon(weights[:2], weights[2:], **settings).step()
    for number, one in enumerate(alone):
        Muon([one] if number < 2 else [], [] if number < 2 else [one], **settings).step()
    for one, other in zip(weights, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


@pytest.mark.parametrize("free", [True, False])
def test_kernels_are_trained_alike_in_either_memory_format(free: bool) -> None:
    """A kernel's rows are its outputs, and what lies in a row may be ordered as it likes."""
    ends = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        layer = nn.Conv2d(4, 8, 3, bias=False).to(memory_format=memory_format)
        weights = [layer.weight]
        optimizer = Muon(
            weights if free else [], [] if free else weights, lr=0.1, momentum=0.9, weight_decay=0.1
        )
        for _ in range(3):
            layer(torch.rand(2, 4, 5, 5).to(memory_format=memory_format)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append(layer.weight.detach().contiguous())
    torch.testing.assert_close(ends[0], ends[1], atol=1e-4, rtol=1e-3)


def test_a_gradient_in_another_layout_than_its_weight_means_the_same() -> None:
    """Entry by entry, whatever order they lie in."""
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 8, 3, bias=False).to(memory_format=torch.channels_last)
    other = copy.deepcopy(layer)
    gradient = torch.randn(8, 4, 3, 3)
    layer.weight.grad = gradient.contiguous(memory_format=torch.channels_last)
    other.weight.grad = gradient
    for one in (layer, other):
        Muon([one.weight], [], lr=0.1, momentum=0.9, weight_decay=0.0).step()
    assert torch.equal(layer.weight, other.weight)


def test_a_free_weight_moves_as_far_as_with_adamw() -> None:
    """In the root mean square of its entries."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(32, 64))
    weight.grad = torch.randn(32, 64)
    Muon([weight], [], lr=0.01, momentum=0.9, weight_decay=0.0).step()
    moved = weight.detach().square().mean().sqrt().item()
    assert moved == pytest.approx(RMS_OF_ADAMW * 0.01, rel=0.25)


@pytest.mark.parametrize(("narrow", "wide"), [(4, 32), (32, 32), (32, 4)])
def test_a_fixed_norm_stays_and_a_share_of_it_changes(narrow: int, wide: int) -> None:
    """Wide kernels and narrow ones by the same share."""
    torch.manual_seed(0)
    layer = NormedConv(narrow, wide)
    optimizer = Muon([], [layer.weight], lr=0.01, momentum=0.9, weight_decay=0.0)
    for _ in range(3):
        layer.weight.grad = torch.randn_like(layer.weight)
        before = layer.weight.detach() * math.sqrt(wide) / layer.weight.detach().norm()
        optimizer.step()
        moved = (layer.weight.detach() - before).norm().item()
        assert moved == pytest.approx(0.01 * FIXED_NORM_RATE * math.sqrt(wide), rel=0.25)
    assert layer.weight.detach().norm().item() == pytest.approx(math.sqrt(wide), rel=0.1)


def test_a_matrix_is_a_view_and_never_a_copy() -> None:
    """What is written there arrives in the kernel."""
    for memory_format in (torch.contiguous_format, torch.channels_last):
        kernel = torch.zeros(8, 4, 3, 3).to(memory_format=memory_format)
        as_matrix(kernel).fill_(1.0)
        assert kernel.min() == 1.0
