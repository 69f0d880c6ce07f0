"""How much training computes, and how much of that the device could."""

import copy
import math
import re
import warnings
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.backends import mkldnn

from imgrec.config import ImageShape, ModelConfig
from imgrec.models import build_model
from imgrec.models.network import BatchNorm

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

PEAK_FLOPS = {
    "H200": (989e12, 67e12),
    "H100 NVL": (835e12, 60e12),
    "H100 PCIe": (756e12, 51e12),
    "H100": (989e12, 67e12),
    "A100": (312e12, 19.5e12),
    "L40S": (362e12, 92e12),
    "L40": (181e12, 90e12),
    "L4": (121e12, 30e12),
    "A10G": (70e12, 35e12),
    "RTX 4090": (165e12, 83e12),
    "V100": (125e12, 15.7e12),
    "T4": (65e12, 8.1e12),
}
"""Operations a second in bf16 (of the last two, which know none, in fp16), with matrix units and without sparsity, and in fp32, as the makers' data
sheets give them; by words of the name that torch has for a GPU, more words before fewer."""


# A backward pass costs about twice its forward pass.
PASSES = 3


def _counting() -> "FlopCounterMode":
    # With it torch imports Triton, a quarter of a second in every process.
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    # torch's own count of this one takes a depthwise convolution for one of all channels with all.
    own = {torch.ops.aten.convolution_backward: _flops_of_backward}
    return FlopCounterMode(display=False, custom_mapping=own)


def _flops_of_backward(
    gradient: Sequence[int], maps: Sequence[int], weight: Sequence[int], *others: Any, **_: object
) -> int:
    """Operations of the backward pass of a convolution, by shapes: those of a forward pass for each gradient that is wanted."""
    transposed, wanted = others[-4], others[-1]
    shape = maps if transposed else gradient
    places = shape[0] * math.prod(shape[2:])
    return 2 * places * math.prod(weight) * sum(wanted[:2])


def training_flops(model: nn.Module, image_shape: ImageShape) -> int:
    """Floating point operations of a forward and a backward pass over one picture.

    Counted are matrix products and convolutions, a multiplication and an addition as two; what
    normalizations and activations add is little.
    """
    height, width, channels = image_shape
    throwaway = copy.deepcopy(model).cpu().train().requires_grad_()
    for module in throwaway.modules():
        if isinstance(module, BatchNorm):
            module.train()  # a folded kernel that was computed for good has no gradient
    # oneDNN has recurrent layers as one operation, of which the counter knows nothing. To switch it off
    # makes torch warn of TF32, which nobody asked for.
    with (
        warnings.catch_warnings(action="ignore"),
        mkldnn.flags(enabled=False),
        _counting() as counter,
    ):
        throwaway(torch.zeros(2, channels, height, width)).sum().backward()
    return counter.get_total_flops() // 2


def multiply_adds(model: nn.Module, image_shape: ImageShape) -> int:
    """Multiplications with an addition of a forward pass over one picture, counted as `training_flops` does."""
    height, width, channels = image_shape
    throwaway = copy.deepcopy(model).cpu().eval()
    with (
        warnings.catch_warnings(action="ignore"),
        mkldnn.flags(enabled=False),
        torch.no_grad(),
        _counting() as counter,
    ):
        throwaway(torch.zeros(1, channels, height, width))
    return counter.get_total_flops() // 2


@cache
def operations_of(config: ModelConfig, image_shape: ImageShape) -> float:
    """Operations to train a network on one picture, counted without computing them."""
    with torch.device("meta"):
        model = build_model(config, image_shape, 2)
    height, width, channels = image_shape
    with torch.no_grad(), _counting() as counter:
        model.eval()(torch.zeros(1, channels, height, width, device="meta"))
    return float(PASSES * counter.get_total_flops())


def peak_flops(name: str, precision: str) -> float:
    """What a GPU could do in a second at most; 0 where its name is not known here."""
    for words, (half, fp32) in PEAK_FLOPS.items():
        if re.search(rf"\b{words}\b", name):
            return fp32 if precision == "fp32" else half
    return 0.0


def gpu_name(device: torch.device) -> str:
    """The GPU's name; empty on a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


def reset_gpu_bytes(device: torch.device) -> None:
    """Let `gpu_bytes` begin anew: another model is trained."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def gpu_bytes(device: torch.device) -> int:
    """The most memory that this process has taken on the GPU for a model; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
