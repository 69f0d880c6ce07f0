"""Seconds by kind of work inside the loop."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch

from imgrec.training import clock as clock_of
from imgrec.training.clock import DATA, MODEL, OPTIMIZER, OTHER, Clock


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock by so many seconds; it does not go by itself."""
    now = [100.0]
    monkeypatch.setattr(clock_of, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


def test_the_kinds_add_up_to_the_time(hands: Callable[[float], None]) -> None:
    """What is of no kind is there too, and what was taken is not counted again."""
    clock = Clock(torch.device("cpu"))
    for _ in clock.each(DATA, range(3)):
        with clock.on(MODEL):
            hands(5)
        with clock.on(OPTIMIZER):
            hands(2)
        hands(1)

    assert clock.take() == {MODEL: 15, OPTIMIZER: 6, DATA: 0, OTHER: 3}
    assert sum(clock.take().values()) == 0


def test_waiting_for_the_next_item_is_counted_and_working_on_it_is_not(
    hands: Callable[[float], None],
) -> None:
    """To the end of the items."""
    clock = Clock(torch.device("cpu"))

    def items() -> Iterator[int]:
        yield 1
        hands(3)

    for _ in clock.each(DATA, items()):
        hands(5)
    assert clock.take()[DATA] == 3
