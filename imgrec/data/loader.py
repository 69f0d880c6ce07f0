"""Batches straight from the store. Their order is a pure function of (seed, epoch, step)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from imgrec.data.splits import Indices
from imgrec.data.store import Store

Batch = tuple[Tensor, Tensor]
"""Images (B, C, H, W) uint8 and labels (B,) int64, on the device."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Which part of the work is this process's."""

    rank: int = 0
    world_size: int = 1


def training_batches(
    store: Store,
    rows: Indices,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    shard: Shard,
    device: torch.device,
) -> Iterator[Batch]:
    """This worker's share of every batch of one epoch, in the epoch's own random order.

    The batches are the same for any number of workers; each takes every world_size-th picture of
    them. What does not fill a last batch waits for another epoch's order.

    Args:
        store: Where the pictures lie.
        rows: The training split, (N,).
        batch_size: The global one, at most N.
        seed: With epoch, decides the order.
        epoch: From 0.
        shard: This worker among all.
        device: Where the batches are to be.
    """
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    for start in range(0, len(order) - batch_size + 1, batch_size):
        chosen = order[start : start + batch_size]
        yield _take(store, chosen[shard.rank :: shard.world_size], device)


def evaluation_batches(
    store: Store, rows: Indices, *, batch_size: int, shard: Shard, device: torch.device
) -> Iterator[Batch]:
    """This worker's share of a split, in order; over all workers every picture exactly once."""
    own = rows[shard.rank :: shard.world_size]
    for start in range(0, len(own), batch_size):
        yield _take(store, own[start : start + batch_size], device)


def _take(store: Store, rows: Indices, device: torch.device) -> Batch:
    # (B, H, W, C) seen as (B, C, H, W) is channels_last already, which convolutions like best.
    images = torch.from_numpy(store.images[rows]).permute(0, 3, 1, 2)
    labels = torch.from_numpy(store.labels[rows])
    if device.type == "cuda":
        images = images.pin_memory().to(device, non_blocking=True)
        labels = labels.pin_memory().to(device, non_blocking=True)
    return images, labels
