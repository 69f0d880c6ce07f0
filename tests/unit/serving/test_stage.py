"""Threads that take what waits, all together."""

import threading

from imgrec.serving.stage import Stage


def test_what_waits_is_taken_together_and_never_more_than_so_many() -> None:
    """So a batch is as large as the load, and a lone item waits for nothing."""
    busy, go = threading.Event(), threading.Event()
    batches: list[list[int]] = []

    def work(items: list[int]) -> None:
        batches.append(items)
        busy.set()
        go.wait(10)

    stage = Stage[int]("test", [work], most=4)
    stage.put(0)
    busy.wait(10)
    for number in range(1, 7):
        stage.put(number)
    go.set()
    stage.close()
    stage.join()

    assert batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_each_thread_ends_after_what_was_put_before() -> None:
    """Nothing is lost where a version retires."""
    done: list[int] = []
    stage = Stage[int]("test", [done.extend, done.extend], most=2)
    for number in range(100):
        stage.put(number)
    stage.close()
    stage.join()

    assert sorted(done) == list(range(100))
