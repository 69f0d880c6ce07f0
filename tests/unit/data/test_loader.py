"""Batches: the same for any number of workers, every picture in its turn."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imgrec.data.loader import Pictures, Shard, balanced_order, evaluation_batches, training_batches
from imgrec.data.store import Store

CPU = torch.device("cpu")


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_workers_shares_make_up_the_same_batches(
    digits: Store, world_size: int, balanced: bool
) -> None:
    """The number of workers must not change what is learned."""
    rows = np.arange(100)

    def batches(rank: int, size: int) -> list[list[int]]:
        loaded = training_batches(
            Pictures(digits, CPU),
            rows,
            batch_size=16,
            seed=3,
            epoch=5,
            shard=Shard(rank, size),
            balanced=balanced,
        )
        return [batch.images.flatten(1).sum(1).tolist() for batch in loaded]

    alone = batches(0, 1)
    shares = [batches(rank, world_size) for rank in range(world_size)]

    assert len(alone) == 6
    for step, batch in enumerate(alone):
        together = [image for share in shares for image in share[step]]
        assert sorted(together) == sorted(batch)


def test_every_picture_takes_turns_to_be_mirrored(digits: Store) -> None:
    """In every other epoch; and in each about half of them."""

    def turns(epoch: int) -> dict[bytes, bool]:
        loaded = training_batches(
            Pictures(digits, CPU),
            np.arange(256),
            batch_size=64,
            seed=1,
            epoch=epoch,
            shard=Shard(),
        )
        return {
            image.numpy().tobytes(): bool(turn)
            for batch in loaded
            for image, turn in zip(batch.images, batch.turns, strict=True)
        }

    first, second, third = (turns(epoch) for epoch in range(3))
    assert all(second[image] is not turn for image, turn in first.items())
    assert first == third
    assert 90 < sum(first.values()) < 166


def test_the_order_depends_on_seed_and_epoch_alone(digits: Store) -> None:
    """So that a resumed run sees the same batches."""

    def labels(seed: int, epoch: int) -> list[int]:
        loaded = training_batches(
            Pictures(digits, CPU),
            np.arange(64),
            batch_size=64,
            seed=seed,
            epoch=epoch,
            shard=Shard(),
        )
        return next(iter(loaded)).labels.tolist()

    assert labels(0, 0) == labels(0, 0)
    assert labels(0, 0) != labels(0, 1)
    assert labels(0, 0) != labels(1, 0)


@pytest.mark.parametrize("world_size", [1, 2, 7])
def test_evaluation_sees_every_picture_exactly_once(digits: Store, world_size: int) -> None:
    """Padding, as samplers do it, would count some twice."""
    rows = np.arange(100, 203)
    seen = [
        label
        for rank in range(world_size)
        for _, labels in evaluation_batches(
            Pictures(digits, CPU), rows, batch_size=10, shard=Shard(rank, world_size)
        )
        for label in labels.tolist()
    ]

    assert sorted(seen) == sorted(digits.labels[rows].tolist())


counts_of_classes = st.lists(st.integers(1, 5000), min_size=2, max_size=30)


@given(counts_of_classes, st.integers(0, 9))
def test_the_sampler_shows_every_class_equally_often_and_every_picture_in_turn(
    counts: list[int], seed: int
) -> None:
    """Nothing twice before everything of its class once."""
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = np.arange(len(labels)) * 3
    order = balanced_order(rows, labels, np.random.default_rng(seed))
    seen = np.bincount(order // 3, minlength=len(labels))
    by_class = [seen[labels == label] for label in range(len(counts))]

    assert len(order) == len(rows)
    totals = [shown.sum() for shown in by_class]
    assert max(totals) - min(totals) <= 1
    assert all(shown.max() - shown.min() <= 1 for shown in by_class)
