"""Batch normalizations with fixed statistics, as part of the convolutions before them; convolutions that learn fast on a CPU.

With fixed statistics a batch normalization multiplies each channel by a number and adds another. The kernel before it
may be multiplied in its place, which has hundreds of times fewer numbers than the maps behind it. On a CPU that is done in
evaluation, and in training where the statistics are those that came with pretrained weights: a pass over the maps less
forwards, two less backwards, and one copy of them less in memory. Parameters, gradients and files of weights are as they
were. On a GPU it is done for a network that nobody trains any more, and for no other: multiplying kernels in every step is
several small operations a layer, each of which would have to be started.

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
(arXiv:1712.05877), section 3.2.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import TensorWeakRef

from imgrec.models.depthwise import convolve, is_narrow, is_wide
from imgrec.models.network import BatchNorm

FOLDED: dict[type, type] = {}
"""Classes of batch normalizations, and ours in their place."""


class FoldingConv(nn.Conv2d):
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
        if (
            self.groups == self.in_channels
            and not is_narrow(self)
            and torch.is_autocast_enabled("cpu")
        ):
            # oneDNN's gradients of these take several times as long in bf16 (docs/log.md).
            with torch.autocast("cpu", enabled=False):
                return self._conv_forward(input.float(), weight, bias)
        return self._conv_forward(input, weight, bias)

    @property
    def folds(self) -> bool:
        """Whether the normalization is part of it now."""
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


class SameConv(FoldingConv):
    """One of timm's that is padded as TensorFlow does it: so that a side of n places has n / stride behind it, rounded up."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 - torch's name
        left, right = self._missing(1, input)
        top, bottom = self._missing(0, input)
        if self._pads_kernel(input, weight) and (right, bottom) == (left + 1, top + 1):
            weight, padding = F.pad(weight, (1, 0, 1, 0)), (top + 1, left + 1)
        else:
            input, padding = F.pad(input, (left, right, top, bottom)), (0, 0)  # noqa: A001
        return F.conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)

    def _missing(self, axis: int, maps: Tensor) -> tuple[int, int]:
        """Zeros before and behind the rows (axis 0) or columns (axis 1)."""
        side, stride = maps.shape[2 + axis], self.stride[axis]
        reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
        missing = max(0, (-(-side // stride) - 1) * stride + reach - side)
        return missing // 2, missing - missing // 2

    def _pads_kernel(self, maps: Tensor, weight: Tensor) -> bool:
        """Whether a row and a column of zeros before the kernel are faster than a copy of all maps with zeros around them."""
        return (
            self.groups == self.in_channels > 1
            and self.dilation == (1, 1)
            and maps.device.type == "cpu"
            and not _learns(maps, weight)
        )


class _Folded:
    """A batch normalization that may be part of a convolution.

    Attributes:
        conv: Of which, as a tuple of one; empty where it is part of it for ever.
    """

    conv: tuple[FoldingConv, ...]

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        if self.conv and not self.conv[0].folds:
            return super().forward(input)  # type: ignore[misc]
        for name in ("drop", "act"):  # what timm's does behind it
            if layer := getattr(self, name, None):
                input = layer(input)  # noqa: A001
        return input


@contextmanager
def watched(network: nn.Module, norms: tuple[type[BatchNorm], ...]) -> Iterator["Watch"]:
    """Inside, one pass of a network in evaluation, of which it is seen who reads what convolutions give.

    What the network does in this thread is watched, and in no other: somebody else may be asked meanwhile.

    Args:
        network: With our convolutions in it. It is taken to go the same way for all pictures, in training too, but for layers
            that do nothing in evaluation, such as dropout.
        norms: The classes that may be folded: torch's BatchNorm2d, and such as have a dropout and an activation behind it.
    """
    watch = Watch()
    with ExitStack() as hooks:
        for module in network.modules():
            if isinstance(module, FoldingConv):
                hooks.callback(module.register_forward_hook(watch.gave).remove)
            elif type(module) in norms and module.track_running_stats:
                hooks.callback(module.register_forward_pre_hook(watch.enters).remove)
                hooks.callback(module.register_forward_hook(watch.leaves).remove)
            elif not list(module.children()) and type(module) is not nn.Identity:
                hooks.callback(module.register_forward_pre_hook(watch.passes).remove)
        with watch:
            yield watch


def fold_norms(watch: "Watch") -> None:
    """Let normalizations that alone have read what a convolution gave be part of it."""
    for conv, norm in watch.pairs():
        conv.norm = (norm,)
        for name in ("folded_weight", "folded_bias"):
            conv.register_buffer(name, None, persistent=False)
        kind = type(norm)
        made = type(f"Folded{kind.__name__}", (_Folded, kind), {})
        norm.__class__ = FOLDED.setdefault(kind, made)
        norm.conv = (conv,)


@torch.no_grad()
def fold_for_good(network: nn.Module) -> None:
    """Compute kernels with their batch normalizations once, for a network in evaluation that nobody trains any more.

    The weights stay as they are beside them, for whoever writes them to a file; so convolutions are in memory twice.
    """
    for module in network.modules():
        if isinstance(module, FoldingConv) and module.norm:
            module.folded_weight, module.folded_bias = module.folded()


def drop_norms(network: nn.Module) -> None:
    """Leave of a network that was folded for good nothing but what it computes with, for whoever writes that elsewhere."""
    for conv in network.modules():
        if not isinstance(conv, FoldingConv) or not conv.norm or conv.folded_weight is None:
            continue
        norm: Any = conv.norm[0]
        assert conv.folded_bias is not None
        conv.weight = nn.Parameter(conv.folded_weight, requires_grad=False)
        conv.bias = nn.Parameter(conv.folded_bias, requires_grad=False)
        conv.norm, conv.folded_weight, conv.folded_bias = (), None, None
        norm.conv = ()
        norm.weight = norm.bias = None
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None


def _learns(maps: Tensor, weight: Tensor) -> bool:
    return torch.is_grad_enabled() and (maps.requires_grad or weight.requires_grad)


@dataclass
class _Given:
    """What a convolution gave, as long as somebody needs it, and who has read it."""

    conv: FoldingConv
    maps: TensorWeakRef
    readers: list[nn.Module | None] = field(default_factory=list)


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Who reads what convolutions give, in this thread."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._given = list[_Given]()
        self._by_id: dict[int, _Given] = {}
        """The last that was given with this id; an id is that of another tensor when the first is gone."""
        self._inside: nn.Module | None = None
        """The normalization that is computed just now."""
        self._times = Counter[nn.Module]()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self._reads(args, kwargs)
        return func(*args, **(kwargs or {}))

    def _reads(self, *arguments: object) -> None:
        for one in tree_leaves(arguments):
            given = self._by_id.get(id(one))
            if given and given.maps() is one:
                given.readers.append(self._inside)

    def gave(self, conv: FoldingConv, _: object, maps: Tensor) -> None:
        """A convolution has computed these."""
        self._by_id[id(maps)] = _Given(conv, TensorWeakRef(maps))
        self._given.append(self._by_id[id(maps)])
        self._times[conv] += 1

    def enters(self, norm: nn.Module, _: object) -> None:
        """A normalization begins."""
        self._inside = norm
        self._times[norm] += 1

    def leaves(self, *_: object) -> None:
        """It has ended."""
        self._inside = None

    def passes(self, _: object, inputs: object) -> None:
        """Another layer is given these, whether it does anything with them in evaluation or not."""
        self._reads(inputs)

    def pairs(self) -> list[tuple[Any, Any]]:
        """Convolutions that one normalization alone has read, both computed once."""
        pairs = []
        for one in self._given:
            norm = one.readers[0] if one.readers else None
            alone = norm is not None and all(reader is norm for reader in one.readers)
            if norm and alone and self._times[one.conv] == self._times[norm] == 1:
                pairs.append((one.conv, norm))
        return pairs
