"""Which arithmetic a training step uses, and how tensors are laid out for it."""

import contextlib
import hashlib
import math
import os
import platform
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from imgrec.config import Arch

WORTH_BF16 = 1.3


@dataclass(frozen=True, slots=True)
class Precision:
    """bf16 autocast or plain fp32, for one device."""

    device: torch.device
    bf16: bool

    def autocast(self) -> torch.autocast:
        """The context that forward passes run in."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def __str__(self) -> str:
        """As written in the settings."""
        return "bf16" if self.bf16 else "fp32"


def choose_precision(
    setting: Literal["auto", "bf16", "fp32"], arch: Arch, device: torch.device, memory: Path
) -> Precision:
    """The setting, with `auto` decided by what this device computes faster.

    A GPU with bf16 in hardware gains for every architecture. On a CPU the flag says little: AVX-512
    BF16 made a cnn step 2 to 6 times faster on a Zen 5, and slower on a Xeon that has it too
    (docs/log.md). So a CPU is measured, for the cnn and the transformer; the ann and an rnn of
    rows lost there, and stay in fp32, as does every rnn until one of convolutions was measured.

    Args:
        setting: `train.precision`.
        arch: What is trained.
        device: Where.
        memory: Folder in which the verdict on this kind of CPU is kept. All workers, and all later
            runs, go by the first one: otherwise a busy moment could change what a seed comes to.
    """
    match setting, device.type:
        case "auto", "cuda":
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        case "auto", "cpu":
            bf16 = arch in {"cnn", "transformer"} and _remembered_verdict(memory)
        case _:
            bf16 = setting == "bf16"
    return Precision(device, bf16)


def lay_out(module: nn.Module, arch: Arch) -> nn.Module:
    """The module with its convolutions in channels_last, the layout that the store's pictures have.

    In torch 2.13 it made a fp32 step of the cnn on a CPU up to three times faster; the ann
    has no convolution to gain.
    """
    if arch == "ann":
        return module
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _remembered_verdict(memory: Path) -> bool:
    digest = hashlib.sha256(_cpu_name().encode()).hexdigest()[:12]
    verdict = memory / f"bf16-{digest}.txt"
    if not verdict.exists():
        draft = memory / f"{verdict.name}.{uuid.uuid4().hex}"
        draft.write_text("yes" if _cpu_gains_from_bf16() else "no", encoding="utf-8")
        with contextlib.suppress(FileExistsError):
            os.link(draft, verdict)  # whole or not at all, and the first worker's stays
        draft.unlink()
    return verdict.read_text(encoding="utf-8") == "yes"


def _cpu_name() -> str:
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _cpu_gains_from_bf16() -> bool:
    """Whether a convolution's forward and backward pass are clearly faster in bf16, on this CPU.

    Takes about 0.1 s. The margin keeps a busy moment from tipping the choice: what gains at all
    gains a factor of two.
    """
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):  # noqa: SLF001 - torch has no public name for it
        return False
    with torch.random.fork_rng(devices=[]):
        layer = nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = torch.rand(16, 64, 32, 32).contiguous(memory_format=torch.channels_last)
    seconds = {True: math.inf, False: math.inf}
    for bf16 in (True, False) * 4:
        started = time.perf_counter()
        with Precision(images.device, bf16).autocast():
            loss = layer(images).sum()
        loss.backward()
        seconds[bf16] = min(seconds[bf16], time.perf_counter() - started)
    return seconds[True] * WORTH_BF16 < seconds[False]
