"""Batches straight from the store. Their order is a pure function of (seed, epoch, step)."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imgrec.data.encoded import EncodedImages
from imgrec.data.images import AnyImages
from imgrec.data.splits import Indices
from imgrec.data.store import Store
from imgrec.data.transfer import sent

RESIDENT_SHARE = 0.25
"""Of the free memory of a GPU, which pictures may take as a whole."""
COPIED_AT_ONCE = 64 << 20
AHEAD = 1
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


class Pictures:
    """A store's pictures and labels, for a device.

    A CPU reads them from the store's map as they are asked for. On a GPU they lie in its memory as a
    whole where they take a small share of it; otherwise each batch is sent there. Encoded ones are
    decoded a batch ahead.
    """

    def __init__(self, store: Store, device: torch.device) -> None:
        self.labels = store.labels
        self.image_shape = store.image_shape
        self.device = device
        self._images = store.images
        if isinstance(self._images, EncodedImages):
            # As many as whoever trains here was given; the node may have others to serve.
            self._images.threads = torch.get_num_threads()
        self._resident = None
        if device.type == "cuda" and store.images.nbytes <= RESIDENT_SHARE * free_bytes(device):
            self._resident = _copied(store.images, device)

    def take(self, rows: Indices) -> Batch:
        """Those of the rows, as a batch."""
        if self._resident is None:
            return self.batch_of(rows, self._images[rows])
        labels = sent(torch.from_numpy(self.labels[rows]), self.device)
        chosen = sent(torch.from_numpy(rows), self.device)
        return self._resident[chosen].permute(0, 3, 1, 2), labels

    def batch_of(self, rows: Indices, pixels: npt.NDArray[np.uint8]) -> Batch:
        """The pixels (B, H, W, C) of the rows, as a batch."""
        labels = torch.from_numpy(self.labels[rows])
        # Seen as (B, C, H, W) it is channels_last already, which convolutions like best.
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return sent(images, self.device), sent(labels, self.device)

    @property
    def is_resident(self) -> bool:
        """Whether all of them lie in the device's memory."""
        return self._resident is not None

    def in_turn(self, choices: Iterable[Indices]) -> Iterator[tuple[Indices, Batch]]:
        """A batch for each choice of rows, with the rows."""
        if self.is_resident or not isinstance(self._images, EncodedImages):
            for rows in choices:
                yield rows, self.take(rows)
            return
        with ThreadPoolExecutor(1) as pool:
            waiting: deque[tuple[Indices, Future[Batch]]] = deque()
            for rows in choices:
                waiting.append((rows, pool.submit(self.take, rows)))
                if len(waiting) > AHEAD:
                    earlier, batch = waiting.popleft()
                    yield earlier, batch.result()
            for earlier, batch in waiting:
                yield earlier, batch.result()


def free_bytes(device: torch.device) -> int:
    """Of the part of the GPU's memory that this process may take; several trials may share a GPU."""
    free, total = torch.cuda.mem_get_info(device)
    share = int(total * torch.cuda.get_per_process_memory_fraction(device))
    return min(free, share - torch.cuda.memory_reserved(device))


def _copied(images: AnyImages, device: torch.device) -> Tensor:
    """All of them on the device, by way of little memory here."""
    whole = torch.empty(images.shape, dtype=torch.uint8, device=device)
    rows = max(1, COPIED_AT_ONCE // max(1, images[:1].nbytes))
    for start in range(0, len(images), rows):
        whole[start : start + rows] = torch.from_numpy(np.array(images[start : start + rows]))
    return whole


def training_batches(
    pictures: Pictures,
    rows: Indices,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    shard: Shard,
    balanced: bool = False,
) -> Iterator[TrainingBatch]:
    """This worker's share of every batch of one epoch, in the epoch's own random order.

    A picture is mirrored in every other epoch, half of them in the even ones. Tossing a coin each
    time would show a quarter of the pictures the same way in two epochs running, and another quarter
    the other way. Source: Jordan 2024, "alternating flip" (arXiv:2404.00498).

    The batches are the same for any number of workers; each takes every world_size-th picture of
    them. What does not fill a last batch waits for another epoch's order.

    Args:
        pictures: All of them.
        rows: The training split, (N,).
        batch_size: The global one, at most N.
        seed: With epoch, decides the order.
        epoch: From 0.
        shard: This worker among all.
        balanced: Show every class equally often.
    """
    rng = np.random.default_rng([seed, epoch])
    order = balanced_order(rows, pictures.labels[rows], rng) if balanced else rng.permutation(rows)
    first_turns = np.random.default_rng([seed, TURNS]).random(len(pictures.labels)) < 0.5
    turns = torch.from_numpy(first_turns ^ bool(epoch % 2))
    starts = range(0, len(order) - batch_size + 1, batch_size)
    choices = (order[start:][:batch_size][shard.rank :: shard.world_size] for start in starts)
    for chosen, batch in pictures.in_turn(choices):
        yield TrainingBatch(*batch, sent(turns[chosen], pictures.device))


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
    pictures: Pictures, rows: Indices, *, batch_size: int, shard: Shard
) -> Iterator[Batch]:
    """This worker's share of a split, in order; over all workers every picture exactly once."""
    own = rows[shard.rank :: shard.world_size]
    choices = (own[start:][:batch_size] for start in range(0, len(own), batch_size))
    for _, batch in pictures.in_turn(choices):
        yield batch
