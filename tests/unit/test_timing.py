"""Where the time went: everything is counted, once."""

import time
from collections.abc import Iterator

import pytest
import torch

from imgrec.training.clock import DATA, MODEL, OPTIMIZER, OTHER, Clock
from pipelines.costs.timing import StageClock, in_detail, in_words


def test_the_kinds_add_up_to_the_time() -> None:
    """What is of no kind is there too, and what was taken is not counted again."""
    clock = Clock(torch.device("cpu"))
    started = time.perf_counter()
    for _ in clock.each(DATA, range(3)):
        with clock.on(MODEL):
            time.sleep(0.02)
        with clock.on(OPTIMIZER):
            time.sleep(0.01)
        time.sleep(0.01)
    spent = clock.take()
    whole = time.perf_counter() - started

    assert sum(spent.values()) == pytest.approx(whole, abs=0.005)
    assert spent[MODEL] == pytest.approx(0.06, abs=0.03)
    assert spent[MODEL] > spent[OPTIMIZER] > spent[DATA]
    assert spent[OTHER] >= 0.03
    assert sum(clock.take().values()) < 0.01


def test_waiting_for_the_next_item_is_counted_and_working_on_it_is_not() -> None:
    """To the end of the items."""
    clock = Clock(torch.device("cpu"))

    def items() -> Iterator[int]:
        yield 1
        time.sleep(0.03)

    for _ in clock.each(DATA, items()):
        time.sleep(0.05)
    assert 0.03 <= clock.take()[DATA] < 0.05


def test_training_is_divided_by_what_the_workers_say() -> None:
    """Two that worked side by side for 6 s each did not take 12 s of the run."""
    stages = {"ray": 2.0, "train": 1.0, "fit": 6.0, "register": 1.0}
    times = in_detail(stages, [{MODEL: 5.0, DATA: 1.0}, {MODEL: 5.5, DATA: 0.5}])

    assert sum(times.values()) == pytest.approx(10.0)
    assert times[MODEL] == pytest.approx(6.0 * 10.5 / 12)
    assert times["data/train"] == pytest.approx(6.0 * 1.5 / 12)


def test_training_that_the_workers_do_not_explain_is_said_to_be_between_steps() -> None:
    """Such as the death of one."""
    times = in_detail({"fit": 10.0}, [{MODEL: 4.0}])
    assert times == {MODEL: 4.0, OTHER: 6.0}


def test_the_largest_part_comes_first_and_with_a_cure() -> None:
    """For people."""
    times = {"ray": 1.0, MODEL: 6.0, "data/train": 3.0}
    line, limit = in_words(times, {"cnn": "212 GFLOP/s"})
    assert line == "forward and backward 60%, waiting for batches 30%, starting Ray 10%"
    assert limit.startswith(
        "60% of the time went to forward and backward (cnn 212 GFLOP/s): the hardware is at work"
    )


def test_a_stage_ends_where_the_next_begins() -> None:
    """And one that is entered again goes on."""
    stages = StageClock()
    stages.enter("ray")
    time.sleep(0.02)
    stages.enter("train")
    time.sleep(0.01)
    stages.enter("ray")
    time.sleep(0.01)
    seconds = stages.seconds()
    assert seconds["ray"] >= 0.03
    assert 0.01 <= seconds["train"] < seconds["ray"]
