"""Optimizers and the learning rate of every step."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from imgrec.config import TrainConfig
from imgrec.errors import ConfigError
from imgrec.models.convolution import NormedConv, Whiten
from imgrec.models.network import Network
from imgrec.training.muon import Muon

Parameters = list[nn.Parameter]
MOMENTUM = {"sgd": 0.9, "muon": 0.95}
"""The default of each optimizer that has one."""


def build_optimizers(model: Network, config: TrainConfig) -> list[Optimizer]:
    """One optimizer, or for `muon` two: Muon for the matrices inside, AdamW for the rest.

    Weight decay acts on the matrices that inputs are multiplied by: not on biases, norms, positions, layer
    scales and other parameters that are matrices by their shape only.

    Raises:
        ConfigError: `muon` for a network that has nothing for it.
    """
    refuse_muon(model, config)
    multiplied = _multiplied(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if id(p) in multiplied]
    vectors = [p for p in trained if id(p) not in multiplied]
    rate, decay = config.learning_rate, config.weight_decay
    if config.layer_decay < 1:
        groups = _by_depth(model, multiplied, config)
    else:
        groups = [
            {"params": matrices, "weight_decay": decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
    match config.optimizer:
        case "adamw":
            return [_adamw(groups, rate)]
        case "sgd":
            momentum = MOMENTUM["sgd"] if config.momentum is None else config.momentum
            return [SGD(groups, lr=rate, momentum=momentum, nesterov=momentum > 0, fused=True)]
        case "muon":
            inside = _inner_matrices(model)
            fixed = {id(m.weight) for m in model.modules() if isinstance(m, NormedConv)}
            muon = Muon(
                [weight for weight in inside if id(weight) not in fixed],
                [weight for weight in inside if id(weight) in fixed],
                lr=rate,
                weight_decay=decay,
                momentum=MOMENTUM["muon"] if config.momentum is None else config.momentum,
            )
            chosen = {id(weight) for weight in inside}
            groups[0]["params"] = [p for p in matrices if id(p) not in chosen]
            return [muon, _adamw(groups, rate)]


def refuse_muon(model: Network, config: TrainConfig) -> None:
    """Raise ConfigError where `muon` is asked for, and a network has nothing for it.

    Apart, for whoever only wants to know: with the first optimizer torch imports its compiler, which takes a second.
    """
    if config.optimizer == "muon" and not _inner_matrices(model):
        msg = "train.optimizer = 'muon': this network has no layer between its first and last"
        raise ConfigError(msg)


class Together:
    """Several optimizers as one: a scaled step is made by all of them, or left out by all.

    Each for itself, one would step with gradients that were clipped by the norm of another's that overflowed.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers = optimizers

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Of all."""
        return [group for one in self._optimizers for group in one.param_groups]

    def step(self) -> None:
        """Of all."""
        for one in self._optimizers:
            one.step()


def _adamw(groups: list[dict[str, Any]], rate: float) -> AdamW:
    return AdamW(groups, lr=rate, betas=(0.9, 0.99), fused=True)


def _by_depth(model: Network, multiplied: set[int], config: TrainConfig) -> list[dict[str, Any]]:
    """A group for each depth, and in it one of what decays; the deeper, the higher their learning rate."""
    depths = model.depths()
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            place = (depths[name], id(parameter) in multiplied)
            groups.setdefault(place, []).append(parameter)
    return [
        {
            "params": groups[depth, decays],
            "lr": config.learning_rate * config.layer_decay ** (1 - depth),
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for depth, decays in sorted(groups)
    ]


def _multiplied(model: nn.Module) -> set[int]:
    """The ids of the weights that a layer multiplies its inputs by, by what the layer is and not by shapes."""
    kinds = nn.Linear | nn.modules.conv._ConvNd | nn.RNNBase | nn.MultiheadAttention  # noqa: SLF001 - the class of all convolutions
    return {
        id(p)
        for layer in model.modules()
        if isinstance(layer, kinds)
        for name, p in layer.named_parameters(recurse=False)
        if "weight" in name and p.ndim >= 2
    }


def _inner_matrices(model: nn.Module) -> Parameters:
    """Weights of the layers between the first and the last: what Muon is meant for.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
    """
    layers: list[list[Tensor]] = []
    for layer in model.modules():
        # What whitens is a first layer too, though it is not trained.
        if isinstance(layer, Whiten | nn.Linear | nn.Conv2d):
            layers.append([layer.weight])
        elif isinstance(layer, nn.RNNBase):
            matrices = {n: p for n, p in layer.named_parameters(recurse=False) if p.ndim >= 2}
            # Those of both directions that read what comes in are one layer, all the others inside.
            layers += [
                [p for n, p in matrices.items() if n.startswith("weight_ih_l0") == reads]
                for reads in (True, False)
            ]
    inside = [weight for layer in layers[1:-1] for weight in layer]
    return [weight for weight in inside if isinstance(weight, nn.Parameter)]


def match_layout(optimizer: Optimizer) -> None:
    """Lay loaded state out in memory like its parameters.

    Files hold plain layout. torch's fused optimizers walk the memory of state and parameter side by
    side, so beside a kernel in channels_last a plain momentum would belong to other weights.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def build_schedules(
    optimizers: Iterable[Optimizer], config: TrainConfig, total_steps: int
) -> list[LambdaLR]:
    """The learning rate as a share of its peak, for each step."""
    warmup_steps = round(config.warmup * total_steps)

    def share_of_peak(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        match config.decay:
            case "cosine":
                return 0.5 * (1 + math.cos(math.pi * progress))
            case "linear":
                return 1 - progress

    return [LambdaLR(optimizer, share_of_peak) for optimizer in optimizers]
