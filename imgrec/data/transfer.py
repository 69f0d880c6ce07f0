"""Tensors from the CPU to where they are worked on."""

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device; nobody waits for it to arrive, nor for what the device is at.

    A GPU reads by itself only from memory that stays where it is. A copy from any other waits until all that was asked
    of the GPU before is done.
    """
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
