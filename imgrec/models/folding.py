"""Batch normalizations with fixed statistics, as part of the convolutions before them.

With fixed statistics a batch normalization multiplies each channel by a number and adds another. The kernel before it
may be multiplied in its place, which has hundreds of times fewer numbers than the maps behind it. So it is in evaluation,
and in training where the statistics are those that came with pretrained weights: a pass over the maps less forwards, two
less backwards, and one copy of them less in memory. Parameters, gradients and files of weights are as they were.

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
(arXiv:1712.05877), section 3.2.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx, nn

from imgrec.models.depthwise import convolve, is_wide, learns_fast_in_bf16
from imgrec.models.network import BatchNorm

FOLDED: dict[type, type] = {}
"""Classes of batch normalizations, and ours in their place."""


class Convolution(nn.Conv2d):
    """torch's, which a batch normalization may be part of; a depthwise one learns fast on a CPU.

    Attributes:
        norm: The batch normalization behind it, as a tuple of one: a module in a module would be a part of it.
        folded_weight: The kernel with that, where it was computed for good; no part of the network's weights.
        folded_bias: The same of the bias.
    """

    norm: tuple[BatchNorm, ...] = ()
    folded_weight: Tensor | None
    folded_bias: Tensor | None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Maps (B, in, H, W) to maps (B, out, h, w)."""
        weight, bias = self.kernel()
        if not _learns(input, weight) or input.device.type != "cpu" or self.groups == 1:
            return self._conv_forward(input, weight, bias)
        if is_wide(self, input):
            return convolve(input, weight, bias)
        if self.groups == self.in_channels and not learns_fast_in_bf16(self):
            with torch.autocast("cpu", enabled=False):
                asked = input.float() if input.dtype == torch.bfloat16 else input
                return self._conv_forward(asked, weight, bias)
        return self._conv_forward(input, weight, bias)

    @property
    def folds(self) -> bool:
        """Whether the normalization is part of it now.

        On a GPU it is where that was done for good: a step of many small kernels more would take longer than one pass less.
        """
        if not self.norm or self.norm[0].training:
            return False
        return self.folded_weight is not None or self.weight.device.type == "cpu"

    def kernel(self) -> tuple[Tensor, Tensor | None]:
        """Weight (out, in, h, w) and bias (out,), with the normalization where it is part of it."""
        if not self.folds:
            return self.weight, self.bias
        if self.folded_weight is not None:
            return self.folded_weight, self.folded_bias
        return self.folded()

    def folded(self) -> tuple[Tensor, Tensor]:
        """The same with the normalization, whose statistics are those that it has."""
        (norm,) = self.norm
        assert norm.running_var is not None
        assert norm.running_mean is not None
        scale = (norm.running_var + norm.eps).rsqrt()
        if norm.affine:
            scale = scale * norm.weight
        bias = -norm.running_mean * scale
        if self.bias is not None:
            bias = bias + self.bias * scale
        if norm.affine:
            bias = bias + norm.bias
        return self.weight * scale.view(-1, 1, 1, 1), bias


class SameConvolution(Convolution):
    """One of timm's that is padded as TensorFlow does it: so that a side of n places has n / stride behind it, rounded up."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 - torch's name
        from timm.layers.padding import pad_same_arg  # noqa: PLC0415 - whoever has such a layer has timm

        sides = [*input.shape[2:]], [*self.kernel_size], [*self.stride], [*self.dilation]
        left, right, top, bottom = pad_same_arg(*sides)
        if (
            (right, bottom) == (left + 1, top + 1)
            and self.groups == self.in_channels > 1
            and self.dilation == (1, 1)
            and input.device.type == "cpu"
            and not _learns(input, weight)
        ):
            # A kernel with a row and a column of zeros before it, rather than a copy of all maps with zeros around them.
            weight, padding = F.pad(weight, (1, 0, 1, 0)), (top + 1, left + 1)
        else:
            input, padding = F.pad(input, (left, right, top, bottom)), (0, 0)  # noqa: A001
        return F.conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class _Folded:
    """A batch normalization that may be part of a convolution.

    Attributes:
        conv: Of which, as a tuple of one.
    """

    conv: tuple[Convolution]

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        if not self.conv[0].folds:
            return super().forward(input)  # type: ignore[misc]
        for name in ("drop", "act"):  # what timm's does behind it
            if layer := getattr(self, name, None):
                input = layer(input)  # noqa: A001
        return input


def _learns(maps: Tensor, weight: Tensor) -> bool:
    return torch.is_grad_enabled() and (maps.requires_grad or weight.requires_grad)


def fold_norms(
    network: nn.Module, convs: Mapping[type, type[Convolution]], norms: Collection[type[BatchNorm]]
) -> None:
    """Let batch normalizations be part of the convolutions before them, wherever nothing else sees what these give.

    Args:
        network: Whose way through it does not depend on the pictures; any other stays as it is.
        convs: Classes of convolutions, and ours in their place.
        norms: The classes that may be folded: torch's BatchNorm2d, and such as have a dropout and an activation behind it.
    """
    for conv, norm in _pairs(network, convs, norms):
        conv.__class__ = convs[type(conv)]
        conv.norm = (norm,)
        for name in ("folded_weight", "folded_bias"):
            conv.register_buffer(name, None, persistent=False)
        kind = type(norm)
        made = type(f"Folded{kind.__name__}", (_Folded, kind), {})
        norm.__class__ = FOLDED.setdefault(kind, made)
        norm.conv = (conv,)


@torch.no_grad()
def fold_for_good(network: nn.Module) -> None:
    """Compute kernels with their batch normalizations once, for a network in evaluation that nobody trains any more."""
    for module in network.modules():
        if isinstance(module, Convolution) and module.norm:
            module.folded_weight, module.folded_bias = module.folded()


class _Tracer(fx.Tracer):
    """One that takes convolutions and normalizations as they are, whoever has written them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | BatchNorm) or super().is_leaf_module(
            m, module_qualified_name
        )


def _pairs(
    network: nn.Module, convs: Collection[type], norms: Collection[type]
) -> list[tuple[Any, Any]]:
    try:
        graph = _Tracer().trace(network)
    except Exception:
        return []
    calls = [node for node in graph.nodes if node.op == "call_module"]
    times = Counter(str(node.target) for node in calls)
    pairs = []
    for node in calls:
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        conv, norm = (network.get_submodule(str(one.target)) for one in (before, node))
        if (
            type(conv) in convs
            and type(norm) in norms
            and norm.track_running_stats
            and times[str(before.target)] == times[str(node.target)] == 1
        ):
            pairs.append((conv, norm))
    return pairs
