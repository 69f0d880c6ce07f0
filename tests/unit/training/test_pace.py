"""Epochs, and a network, for a time that was given: what fits, and no more than is of use."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imgrec.data.loader import Shard
from imgrec.training.pace import (
    ENOUGH,
    MOST_TIMES,
    SUSTAINED,
    USED,
    Budget,
    Pace,
    choose_pace,
    measure,
    most_epochs,
    with_epochs,
)
from imgrec.training.spec import FitSpec
from tests.unit.training.made import CPU, spec_for


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> FitSpec:
    """A cnn whose pictures grow from 16 over 24 to 32 pixels."""
    return spec_for("cnn", tmp_path_factory.mktemp("store"), "data.image_size=32", "train.epochs=9")


@given(
    seconds=st.floats(0.01, 10_000.0),
    step=st.floats(0.001, 1.0),
    look=st.floats(0.0, 0.01),
)
def test_as_many_epochs_as_the_time_has_room_for(
    spec: FitSpec, seconds: float, step: float, look: float
) -> None:
    """One more would take too long, or is more than is of use; only one is trained whatever it takes."""
    pace = Pace({0.5: step / 4, 0.75: step / 2, 1.0: step}, look, 0.0, 1797, 90)
    epochs = most_epochs(spec, pace, Budget(seconds))

    assert 1 <= epochs <= MOST_TIMES * spec.train.epochs
    if epochs > 1:
        assert pace.seconds(with_epochs(spec, epochs)) <= USED * seconds
    if epochs < MOST_TIMES * spec.train.epochs:
        assert pace.seconds(with_epochs(spec, epochs + 1)) > USED * seconds


def test_a_fit_takes_the_time_of_its_steps_and_of_its_evaluations(spec: FitSpec) -> None:
    """By hand: two epochs of small pictures, one of middle ones, two of whole ones."""
    five = with_epochs(spec, 5)
    a_pass = five.steps_per_epoch
    shares = [five.share_of_side(step) for step in range(five.total_steps)]
    pace = Pace({0.5: 1.0, 0.75: 2.0, 1.0: 4.0}, 0.01, 7.0, 1000, 100)

    by_hand = shares.count(0.5) + 2 * shares.count(0.75) + 4 * shares.count(1.0)
    assert len(shares) == 5 * a_pass
    judged = [five.share_after(epoch) for epoch in range(1, 6)]
    looks = sum(share**2 for share in judged)
    assert pace.seconds(five) == pytest.approx((by_hand + looks) / SUSTAINED)


def test_each_size_of_the_pictures_is_measured(spec: FitSpec) -> None:
    """Small pictures cost less; how much less, no rule says."""
    pace = measure(spec, CPU, Shard())

    assert set(pace.step_seconds) == {0.5, 0.75, 1.0}
    assert min(pace.step_seconds.values()) > 0
    assert pace.look_seconds > 0


def test_the_larger_network_is_taken_where_the_time_is_enough_for_it(spec: FitSpec) -> None:
    """With ample time the larger one; with next to none the smallest, for one epoch."""
    small = replace(spec, model=spec.model.model_copy(update={"widths": (8, 8)}))
    large = replace(spec, model=spec.model.model_copy(update={"widths": (8, 16)}))

    ample = choose_pace([small, large], Budget(3600.0), CPU, Shard())
    tiny = choose_pace([small, large], Budget(1e-3), CPU, Shard())

    assert (ample.place, ample.epochs) == (1, MOST_TIMES * spec.train.epochs)
    assert ample.epochs >= ENOUGH * spec.train.epochs
    assert (tiny.place, tiny.epochs) == (0, 1)
    assert tiny.seconds > 1e-3


def test_epochs_that_are_set_are_the_most(spec: FitSpec) -> None:
    """Whoever gives a time and epochs wants neither to be passed."""
    assert choose_pace([spec], Budget(3600.0, 9), CPU, Shard()).epochs == 9


def test_no_larger_network_for_few_epochs_or_little_time(spec: FitSpec) -> None:
    """One epoch is always trained, but not of what takes longer; and few epochs are too few whoever asks for them."""
    small = replace(spec, model=spec.model.model_copy(update={"widths": (8, 8)}))

    assert choose_pace([small, spec], Budget(1e-3, 1), CPU, Shard()).place == 0
    assert choose_pace([small, spec], Budget(3600.0, 2), CPU, Shard()).place == 0


def test_what_is_always_trained_is_in_the_time_that_is_told(spec: FitSpec) -> None:
    """Who wants the whole network fine-tuned gets an epoch of it after the probe."""
    chosen = choose_pace([spec], Budget(1e-3, 0, 2), CPU, Shard())

    assert chosen.epochs == 2
    assert chosen.seconds > 1e-3


def test_where_memory_runs_out_batches_are_measured_in_parts(
    spec: FitSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they will be trained."""
    tried: list[int] = []

    def short_of_memory(one: FitSpec, *_: object) -> Pace:
        tried.append(one.parts(1))
        if one.parts(1) < 4:
            raise torch.OutOfMemoryError
        return Pace({1.0: 1.0}, 0.0, 0.0, 1, 1)

    monkeypatch.setattr("imgrec.training.pace._measure", short_of_memory)
    measure(spec, CPU, Shard())

    assert tried == [1, 4]
