"""Batches straight from the store. Their order is a pure function of (seed, epoch, step)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imgrec.data.splits import Indices
from imgrec.data.store import Store

TURNS = 0xF11  # tells the draws of turns from those of orders
Batch = tuple[Tensor, Tensor]
"""Images (B, C, H, W) uint8 and labels (B,) int64, on the device."""


class TrainingBatch(NamedTuple):
    """What a worker trains on in one step, on the device.

    Attributes:
        images: (B, C, H, W) uint8.
        labels: (B,) int64.
        turns: (B,) bool, whose turn it is to be mirrored, where pictures are mirrored at all.
    """

    images: Tensor
    labels: Tensor
    turns: Tensor


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
    balanced: bool = False,
) -> Iterator[TrainingBatch]:
    """This worker's share of every batch of one epoch, in the epoch's own random order.

    A picture is mirrored in every other epoch, half of them in the even ones. Tossing a coin each
    time would show a quarter of the pictures the same way in two epochs running, and another quarter
    the other way. Source: Jordan 2024, "alternating flip" (arXiv:2404.00498).

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
        balanced: Show every class equally often.
    """
    rng = np.random.default_rng([seed, epoch])
    order = balanced_order(rows, store.labels[rows], rng) if balanced else rng.permutation(rows)
    first_turns = np.random.default_rng([seed, TURNS]).random(len(store.labels)) < 0.5
    turns = torch.from_numpy(first_turns ^ bool(epoch % 2))
    for start in range(0, len(order) - batch_size + 1, batch_size):
        chosen = order[start : start + batch_size][shard.rank :: shard.world_size]
        yield TrainingBatch(*_take(store, chosen, device), turns[chosen].to(device))


def balanced_order(
    rows: Indices, labels: npt.NDArray[np.int64], rng: np.random.Generator
) -> Indices:
    """As many rows as there are, in random order, with every class equally often.

    Within a class every picture comes before one of them comes again. A place that cannot be divided
    evenly goes to classes that are drawn.

    Args:
        rows: (N,).
        labels: The class of each, (N,).
        rng: Decides.
    """
    classes, counts = np.unique(labels, return_counts=True)
    by_class = np.split(rows[np.argsort(labels, kind="stable")], np.cumsum(counts)[:-1])
    shares = np.full(len(classes), len(rows) // len(classes))
    shares[rng.permutation(len(classes))[: len(rows) % len(classes)]] += 1
    chosen = []
    for members, share in zip(by_class, shares, strict=True):
        rounds = [rng.permutation(members) for _ in range(-(-share // len(members)))]
        chosen.append(np.concatenate(rounds)[:share])
    return rng.permutation(np.concatenate(chosen))


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
