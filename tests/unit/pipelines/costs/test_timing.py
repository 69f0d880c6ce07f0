"""Where the time of a run went: everything is counted, once."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from imgrec.training.clock import DATA, MODEL, OTHER
from pipelines.costs import timing
from pipelines.costs.timing import StageClock, in_detail, in_words


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock of a run by so many seconds; it does not go by itself."""
    now = [100.0]
    monkeypatch.setattr(timing, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


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


def test_a_stage_ends_where_the_next_begins(hands: Callable[[float], None]) -> None:
    """And one that is entered again goes on."""
    stages = StageClock()
    for stage, seconds in (("ray", 2), ("train", 1), ("ray", 4)):
        stages.enter(stage)
        hands(seconds)
    assert stages.seconds() == {"loading": 0, "ray": 6, "train": 1}
