"""Muon: momentum whose every step is made orthogonal.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the scale of steps
that lets learning rates carry over from AdamW: Liu et al. 2025, "Muon is scalable for LLM training"
(arXiv:2502.16982); kernels of fixed norm: Jordan's airbench94 (2024).

torch has it too (torch.optim.Muon), for matrices only, without kernels of fixed norm, and always in bf16,
which takes a CPU twice as long as fp32 where it has no matrix unit for it (docs/log.md).
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from imgrec.training.precision import has_bf16

# What torch.optim works on lists of tensors with; they have no public names.
lerp_, mul_, add_, norms = (
    torch._foreach_lerp_,
    torch._foreach_mul_,
    torch._foreach_add_,
    torch._foreach_norm,  # noqa: SLF001
)
RMS_OF_ADAMW = 0.2
"""Root mean square of an update of AdamW, as a share of the learning rate."""
FIXED_NORM_RATE = 12.0
"""Relative size of an update per unit of learning rate, for kernels of fixed norm: that of a kernel of
3 x 3 x 400, whose entries have a mean square of 1/3600."""
MOST_AT_ONCE = 1 << 22
"""Numbers in the matrices that are worked on together: larger ones gain nothing by it, and take memory several times."""
LEAST_WIDTH = 2
"""Columns for each row, from which on fewer operations are done on a matrix's square than on the matrix."""
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the polynomial that pulls singular values towards 1, as in Jordan's Muon."""


class Muon(Optimizer):
    """For weights of two dimensions and more; a kernel (out, in, h, w) counts as (out, in*h*w).

    Args:
        free: Weights whose norm matters.
        fixed: Weights whose norm does not, because a normalization follows: it is kept at
            sqrt(out), so that a step changes the same share of each from the first to the last.
        lr: On the scale of AdamW's.
        momentum: Share of the earlier steps in a step; Nesterov's.
        weight_decay: Decoupled; of the free ones.
        iterations: Newton-Schulz iterations. Three make singular values equal within a factor of about two.
    """

    def __init__(
        self,
        free: Iterable[nn.Parameter],
        fixed: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        iterations: int = 3,
    ) -> None:
        groups: list[dict[str, Any]] = [
            {"params": list(free), "fixed": False},
            {"params": list(fixed), "fixed": True},
        ]
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "iterations": iterations,
        }
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the weights from their gradients."""
        assert closure is None
        for group in self.param_groups:
            for weights in _alike(group["params"]):
                # Laid out as the weights are, so that the columns of both matrices mean the same.
                gradients = [torch.empty_like(one).copy_(_gradient_of(one)) for one in weights]
                means = [self._momentum_of(one) for one in weights]
                lerp_(means, gradients, 1 - group["momentum"])
                lerp_(gradients, means, group["momentum"])
                ahead = torch.stack([as_matrix(one) for one in gradients])
                updates = orthogonalized(ahead, group["iterations"])
                _apply([as_matrix(one) for one in weights], updates, group)

    def _momentum_of(self, weight: nn.Parameter) -> Tensor:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum: Tensor = state["momentum"]
        return momentum


def _gradient_of(weight: nn.Parameter) -> Tensor:
    assert weight.grad is not None
    return weight.grad


def _alike(weights: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Those with a gradient, by the shape of their matrices: of one shape as many at once as are small together."""
    by_shape: dict[torch.Size, list[nn.Parameter]] = {}
    for one in weights:
        if one.grad is not None:
            by_shape.setdefault(as_matrix(one).shape, []).append(one)
    return [
        alike[start : start + at_once]
        for shape, alike in by_shape.items()
        for at_once in [max(1, MOST_AT_ONCE // shape.numel())]
        for start in range(0, len(alike), at_once)
    ]


def _apply(weights: list[Tensor], updates: Tensor, group: dict[str, Any]) -> None:
    """Matrices (m, n) of one shape, and what to take from them (B, m, n)."""
    rate, (rows, columns) = group["lr"], weights[0].shape
    if group["fixed"]:
        mul_(weights, [math.sqrt(rows) / norm for norm in norms(weights)])
        # As many of the singular values are 1 as there are rows, or columns if those are fewer.
        share = FIXED_NORM_RATE * math.sqrt(rows / min(rows, columns))
    else:
        mul_(weights, 1 - rate * group["weight_decay"])
        share = RMS_OF_ADAMW * math.sqrt(max(rows, columns))
    if isinstance(rate, Tensor):  # in a step that may be captured (`graphs.py`)
        add_(weights, list(updates * (-rate * share)))
    else:
        add_(weights, list(updates), alpha=-rate * share)


def orthogonalized(matrices: Tensor, iterations: int) -> Tensor:
    """Matrices (B, m, n) with the same singular vectors, and singular values near 1, by products alone.

    In bf16 on a GPU that has units for that, and elsewhere as they come. There wide matrices are left alone until the
    end: what the iterations multiply them by is a polynomial of their small square (m, m). In bf16 that would lose
    the weaker directions, whose squares are weaker still.
    """
    in_bf16 = has_bf16(matrices.device)
    narrow = matrices.bfloat16() if in_bf16 else matrices
    tall = narrow.shape[-2] > narrow.shape[-1]
    wide = narrow.mT if tall else narrow
    wide = wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if not in_bf16 and wide.shape[-1] >= LEAST_WIDTH * wide.shape[-2]:
        wide = _whole_factor(wide @ wide.mT, iterations) @ wide
    else:
        for _ in range(iterations):
            wide = torch.baddbmm(wide, _polynomial(wide @ wide.mT), wide, beta=COEFFICIENTS[0])
    return (wide.mT if tall else wide).to(matrices.dtype)


def _polynomial(square: Tensor) -> Tensor:
    """What an iteration multiplies a matrix by beside a number, from the matrix times itself (B, m, m)."""
    _, cubic, quintic = COEFFICIENTS
    return torch.baddbmm(square, square, square, beta=cubic, alpha=quintic)


def _factor(square: Tensor) -> Tensor:
    """The same with the number."""
    factor = _polynomial(square)
    factor.diagonal(dim1=-2, dim2=-1).add_(COEFFICIENTS[0])
    return factor


def _whole_factor(square: Tensor, iterations: int) -> Tensor:
    """The product of the factors of all iterations; all of them commute, being polynomials of one matrix."""
    whole = factor = _factor(square)
    for _ in range(iterations - 1):
        square = factor @ (factor @ square)
        factor = _factor(square)
        whole = factor @ whole
    return whole


def as_matrix(tensor: Tensor) -> Tensor:
    """(out, ...) as (out, rest), without a copy in either memory format.

    In channels_last the rest is ordered (h, w, in); the order of columns does not matter here.
    """
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.view(tensor.shape[0], -1)
