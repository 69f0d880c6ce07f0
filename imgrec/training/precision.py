"""Which arithmetic a training step uses, and how tensors are laid out for it."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch

from imgrec.config import ModelConfig
from imgrec.machine import processor_kind

Arithmetic = Literal["bf16", "fp16", "fp32"]
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
FP16 = "cuda fp16"
LEAST_FOR_FP16 = (7, 0)
"""Compute capability of the first NVIDIA GPUs with matrix units, which know fp16 alone: Volta (V100), Turing (T4)."""
WITHOUT_UNITS = "GTX 16"
"""In the names of GPUs of Turing's capability that have none."""
GAINS = {"cuda bf16", "AuthenticAMD avx512_bf16", "GenuineIntel amx_bf16"}
"""Kinds of device that compute a step in bf16 clearly faster than in fp32. Measured (docs/log.md): on an AMD
Zen 5 and on an Intel Xeon with matrix units (AMX) two to three times as fast; on Intel Xeons without them,
which have the same vector instructions as the AMD, it was slower. An NVIDIA GPU has units for it since
Ampere."""


@dataclass(frozen=True, slots=True)
class Precision:
    """Autocast to half the bits, or plain fp32, for one device."""

    device: torch.device
    arithmetic: Arithmetic

    def autocast(self) -> torch.autocast:
        """The context that forward passes run in."""
        half = HALVES.get(self.arithmetic)
        return torch.autocast(self.device.type, dtype=half, enabled=half is not None)

    def without_scaler(self) -> "Precision":
        """The same where nothing is learned: in fp32 in place of fp16, in which a large activation is none."""
        return replace(self, arithmetic="fp32") if self.arithmetic == "fp16" else self

    def scaler(self) -> torch.amp.GradScaler:
        """What keeps the small gradients of fp16, which has few bits for exponents, from becoming zero."""
        enabled = self.arithmetic == "fp16"
        if enabled:  # the schedule counts a step that is left out, too
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
        return torch.amp.GradScaler(self.device.type, enabled=enabled)

    def __str__(self) -> str:
        """As written in the settings."""
        return self.arithmetic


def choose_arithmetic(
    setting: Literal["auto", "bf16", "fp16", "fp32"], model: ModelConfig, kinds: Iterable[str]
) -> Arithmetic:
    """The setting, with `auto` decided by a rule from the devices that will train, and never by a clock.

    The rule: bf16 where every one of them gains by it, and the architecture does; fp16 where all are GPUs with matrix
    units, and one of them knows no bf16; else fp32. So all workers compute alike, and the same settings on the same machines come to the same model on any day.

    Args:
        setting: `train.precision`.
        model: What is trained.
        kinds: Of all devices that will train, as `device_kind` has them.
    """
    if setting != "auto":
        return setting
    distinct = set(kinds)
    on_gpus = all(kind.startswith("cuda") for kind in distinct)
    if FP16 in distinct and distinct <= {FP16, "cuda bf16"}:
        return "fp16"
    gains = bool(distinct) and distinct <= GAINS and (on_gpus or model.gains_by_bf16)
    return "bf16" if gains else "fp32"


@cache
def has_bf16(device: torch.device) -> bool:
    """Whether it is a GPU with units for bf16, and does not only emulate it."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def device_kind(device: torch.device) -> str:
    """What `choose_arithmetic` goes by: the same on all machines whose arithmetic is as fast."""
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return "cuda"
        if has_bf16(device):
            return "cuda bf16"
        enough = torch.cuda.get_device_capability(device) >= LEAST_FOR_FP16
        without = WITHOUT_UNITS in torch.cuda.get_device_name(device)
        return FP16 if enough and not without else "cuda"
    return processor_kind() if device.type == "cpu" else device.type
