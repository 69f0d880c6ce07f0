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

RMS_OF_ADAMW = 0.2
"""Root mean square of an update of AdamW, as a share of the learning rate."""
FIXED_NORM_RATE = 12.0
"""Relative size of an update per unit of learning rate, for kernels of fixed norm: that of a kernel of
3 x 3 x 400, whose entries have a mean square of 1/3600."""
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
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                # Laid out as the weight is, so that the columns of both matrices mean the same.
                gradient = torch.empty_like(weight).copy_(weight.grad)
                mean = state["momentum"].lerp_(gradient, 1 - group["momentum"])
                ahead = as_matrix(gradient.lerp_(mean, group["momentum"]))
                update = orthogonalized(ahead, group["iterations"])
                _apply(as_matrix(weight), update, group)


def _apply(weight: Tensor, update: Tensor, group: dict[str, Any]) -> None:
    rate = group["lr"]
    if group["fixed"]:
        weight.mul_(math.sqrt(len(weight)) / weight.norm())
        # As many of the singular values are 1 as there are rows, or columns if those are fewer.
        share = FIXED_NORM_RATE * math.sqrt(len(weight) / min(weight.shape))
        weight.add_(update, alpha=-rate * share)
    else:
        weight.mul_(1 - rate * group["weight_decay"])
        weight.add_(update, alpha=-rate * RMS_OF_ADAMW * math.sqrt(max(weight.shape)))


def orthogonalized(matrix: Tensor, iterations: int) -> Tensor:
    """A matrix (m, n) with the same singular vectors, and singular values near 1, by products alone.

    In bf16 on a GPU, which has units for that, and as it comes on a CPU.
    """
    linear, cubic, quintic = COEFFICIENTS
    narrow = matrix.bfloat16() if matrix.device.type == "cuda" else matrix
    tall = narrow.shape[0] > narrow.shape[1]
    result = narrow.T if tall else narrow
    result = result / (result.norm() + 1e-7)
    for _ in range(iterations):
        square = result @ result.T
        factor = torch.addmm(square, square, square, beta=cubic, alpha=quintic)
        result = torch.addmm(result, factor, result, beta=linear)
    return (result.T if tall else result).to(matrix.dtype)


def as_matrix(tensor: Tensor) -> Tensor:
    """(out, ...) as (out, rest), without a copy in either memory format.

    In channels_last the rest is ordered (h, w, in); the order of columns does not matter here.
    """
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.view(tensor.shape[0], -1)
