"""Of several processes that begin the same run one begins it, over a server's API too."""

import socket
import threading
import time

import pytest

from imgrec.tracking import turns
from imgrec.tracking.connection import Tracking, experiment_id
from imgrec.tracking.turns import one_at_a_time


class Served(Tracking):
    """A record whose API alone can decide, as that of a server."""

    @property
    def is_local(self) -> bool:
        return False


@pytest.mark.parametrize("kind", [Tracking, Served])
def test_of_those_who_begin_in_the_same_moment_one_is_inside_at_a_time(
    tracking: Tracking, kind: type[Tracking]
) -> None:
    """Else both begin the same run: six times of six."""
    inside, most = [0], [0]
    record = kind(tracking.uri, tracking.registry, tracking.client, tracking.artifacts)
    barrier = threading.Barrier(4)
    experiment_id(record, "queue")

    def enter() -> None:
        barrier.wait()
        for _ in range(3):
            with one_at_a_time(record, "queue", "key"):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.02)
                inside[0] -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    place = tracking.client.get_experiment_by_name("queue")

    assert most == [1]
    assert not [name for name in place.tags if name.startswith("imgrec.begin.key.")]


def test_one_that_died_in_the_queue_keeps_nobody(tracking: Tracking) -> None:
    """Kill -9 leaves its number there."""
    record = Served(tracking.uri, tracking.registry, tracking.client, tracking.artifacts)
    place = experiment_id(record, "queue")
    dead = f"0 {int(time.time())} {socket.gethostname()} 1 another-boot:1"
    tracking.client.set_experiment_tag(place, "imgrec.begin.dead.x", dead)
    began = time.monotonic()
    with one_at_a_time(record, "queue", "dead"):
        pass

    assert time.monotonic() - began < 10


def test_one_that_died_on_another_machine_is_passed_over_when_it_was_silent(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By our own clock: theirs may be minutes ahead. What it left is removed."""
    monkeypatch.setattr(turns, "SILENCE_OF_THE_DEAD", 1.0)
    record = Served(tracking.uri, tracking.registry, tracking.client, tracking.artifacts)
    place = experiment_id(record, "queue")
    tracking.client.set_experiment_tag(place, "imgrec.begin.far.x", "1 1 elsewhere 1 boot:1")
    began = time.monotonic()
    with one_at_a_time(record, "queue", "far"):
        pass

    assert 1 <= time.monotonic() - began < 10
    tags = tracking.client.get_experiment_by_name("queue").tags
    assert not [name for name in tags if name.startswith("imgrec.begin.far.")]


def test_one_that_lives_on_another_machine_is_waited_for(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tag changes, however long ago it says that it was written."""
    monkeypatch.setattr(turns, "SILENCE_OF_THE_DEAD", 1.0)
    record = Served(tracking.uri, tracking.registry, tracking.client, tracking.artifacts)
    place = experiment_id(record, "queue")

    def live() -> None:
        for beat in range(6):
            tracking.client.set_experiment_tag(
                place, "imgrec.begin.lives.x", f"1 {beat} elsewhere 1 boot:1"
            )
            time.sleep(0.5)
        tracking.client.delete_experiment_tag(place, "imgrec.begin.lives.x")

    other = threading.Thread(target=live)
    other.start()
    time.sleep(0.2)
    with one_at_a_time(record, "queue", "lives"):
        assert not other.is_alive() or "x" not in str(
            [n for n in tracking.client.get_experiment(place).tags if n.endswith("lives.x")]
        )
    other.join()
