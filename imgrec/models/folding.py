"""Batch normalizations with fixed statistics, folded into the convolutions before them; convolutions that train fast on a CPU.

With fixed statistics, a batch normalization multiplies each channel by a number and adds another. The same is done by
scaling the kernel of the convolution before it, which has far fewer numbers than the feature maps. On a CPU this holds in
evaluation, and in training if the statistics came with pretrained weights. It saves one pass over the maps in the forward
pass, two in the backward pass, and one copy of the maps in memory. Parameters, gradients and weight files stay the same.
On a GPU only networks that are no longer trained are folded: scaling kernels in every step would launch several small
operations for each layer.

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
    """torch's convolution, which a batch normalization may be folded into; a depthwise one trains fast on a CPU.

    Attributes:
        norm: The batch normalization behind it, in a tuple so that torch does not register it as a submodule.
        folded_weight: The folded kernel, if `fold_for_good` has computed it; not in the state dict.
        folded_bias: The folded bias, likewise.
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
        """Whether the normalization is folded in now."""
        if not self.norm or self.norm[0].training:
            return False
        return self.folded_weight is not None or self.weight.device.type == "cpu"

    def kernel(self) -> tuple[Tensor, Tensor | None]:
        """The weight (out, in, h, w) and bias (out,) to convolve with, folded or not."""
        if not self.folds:
            return self.weight, self.bias
        if self.folded_weight is not None:
            return self.folded_weight, self.folded_bias
        return self.folded()

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias with the normalization folded in."""
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
    """timm's Conv2dSame: padded as in TensorFlow, so that a side of n gives ceil(n / stride)."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 - torch's name
        left, right = self._missing(1, input)
        top, bottom = self._missing(0, input)
        if self._pads_kernel(input, weight) and (right, bottom) == (left + 1, top + 1):
            weight, padding = F.pad(weight, (1, 0, 1, 0)), (top + 1, left + 1)
        else:
            input, padding = F.pad(input, (left, right, top, bottom)), (0, 0)  # noqa: A001
        return F.conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)

    def _missing(self, axis: int, maps: Tensor) -> tuple[int, int]:
        """How many zeros go before and behind the rows (axis 0) or columns (axis 1)."""
        from timm.layers.padding import get_same_padding  # noqa: PLC0415 - timm is imported where it is used

        sizes = self.kernel_size[axis], self.stride[axis], self.dilation[axis]
        missing = get_same_padding(maps.shape[2 + axis], *sizes)
        return missing // 2, missing - missing // 2

    def _pads_kernel(self, maps: Tensor, weight: Tensor) -> bool:
        """Whether to pad the kernel with a row and a column of zeros, which saves a padded copy of the maps."""
        return (
            self.groups == self.in_channels > 1
            and self.dilation == (1, 1)
            and maps.device.type == "cpu"
            and not _learns(maps, weight)
        )


class _Folded:
    """A batch normalization that may be folded into a convolution.

    Attributes:
        conv: That convolution, in a tuple as above; empty after `drop_norms`.
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
    """Run one evaluation pass of the network inside; the `Watch` records which layers read the outputs of convolutions.

    Only this thread is watched, so other threads can use their networks meanwhile.

    Args:
        network: Its convolutions are FoldingConv. Its forward pass must take the same path for every batch, in training
            too, except for layers that do nothing in evaluation, such as dropout.
        norms: The classes that may be folded: torch's BatchNorm2d, and subclasses with a dropout and an activation.
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
    """Fold each normalization that is the only reader of a convolution's output."""
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
    """Compute the folded kernels once, for a network in evaluation that is not trained any more.

    The original weights stay, for the state dict; so the weights of convolutions are in memory twice.
    """
    for module in network.modules():
        if isinstance(module, FoldingConv) and module.norm:
            module.folded_weight, module.folded_bias = module.folded()


def drop_norms(network: nn.Module) -> None:
    """Remove normalizations and original kernels after `fold_for_good`, so that an exported graph has each kernel once."""
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
class _Output:
    """One output of a convolution, which is not kept alive, and the normalizations that read it; None for other readers."""

    conv: FoldingConv
    maps: TensorWeakRef
    readers: list[nn.Module | None] = field(default_factory=list)


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records which layers read the outputs of convolutions, in this thread."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._outputs = list[_Output]()
        self._by_id: dict[int, _Output] = {}
        """The latest output with each id: Python reuses the id of a tensor that is gone."""
        self._inside: nn.Module | None = None
        """The normalization whose forward pass is running."""
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
            output = self._by_id.get(id(one))
            if output and output.maps() is one:
                output.readers.append(self._inside)

    def gave(self, conv: FoldingConv, _: object, maps: Tensor) -> None:
        """A convolution returned these maps."""
        self._by_id[id(maps)] = _Output(conv, TensorWeakRef(maps))
        self._outputs.append(self._by_id[id(maps)])
        self._times[conv] += 1

    def enters(self, norm: nn.Module, _: object) -> None:
        """The forward pass of a normalization begins."""
        self._inside = norm
        self._times[norm] += 1

    def leaves(self, *_: object) -> None:
        """It ends."""
        self._inside = None

    def passes(self, _: object, inputs: object) -> None:
        """Another layer gets these inputs; it counts as a reader even if it does nothing in evaluation."""
        self._reads(inputs)

    def pairs(self) -> list[tuple[Any, Any]]:
        """Convolutions with the one normalization that read their output, if both ran once."""
        pairs = []
        for one in self._outputs:
            norm = one.readers[0] if one.readers else None
            alone = norm is not None and all(reader is norm for reader in one.readers)
            if norm and alone and self._times[one.conv] == self._times[norm] == 1:
                pairs.append((one.conv, norm))
        return pairs
