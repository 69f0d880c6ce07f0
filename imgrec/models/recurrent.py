"""Recurrent layers in the arithmetic that was asked for."""

import torch
from torch import Tensor, nn


class _AsAsked:
    """On a GPU autocast computes recurrent layers in fp16, whatever it was asked for; so those for bf16 are in fp32.

    In fp16 a gradient that nobody scales may become zero, and the record would name another arithmetic.
    """

    def forward(self, input: Tensor, hx: None = None) -> tuple[Tensor, Tensor]:  # noqa: A002 - torch's names
        if input.device.type != "cuda" or not torch.is_autocast_enabled("cuda"):
            return super().forward(input, hx)  # type: ignore[misc]
        if torch.get_autocast_dtype("cuda") == torch.float16:
            return super().forward(input, hx)  # type: ignore[misc]
        with torch.autocast("cuda", enabled=False):
            return super().forward(input.float(), hx)  # type: ignore[misc]


class Gru(_AsAsked, nn.GRU):  # type: ignore[misc]
    """torch's."""


class Lstm(_AsAsked, nn.LSTM):  # type: ignore[misc]
    """torch's."""


AS_ASKED: dict[type, type] = {nn.GRU: Gru, nn.LSTM: Lstm}
