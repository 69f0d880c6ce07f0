"""The time of a search is wall time, on however many places it runs."""

from types import SimpleNamespace

import pytest

from imgrec.distributed import share


@pytest.mark.parametrize("running", [[1], [2], [2, 1], [5, 3]])
def test_all_trials_together_use_a_second_in_a_second(
    running: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A budget of 100 s let 400 s pass where two trials ran on eight places."""
    now = [0.0]
    monkeypatch.setattr(share, "time", SimpleNamespace(monotonic=lambda: now[0]))
    shares = share.Shares(
        (
            name,
            SimpleNamespace(trials={str(n): SimpleNamespace(used=0.0) for n in range(count)}),
        )
        for name, count in zip("ab", running, strict=False)
    )
    clock = share.ShareClock(shares)
    for _ in range(100):
        now[0] += 1.0
        clock.advance()
    used = [sum(trial.used for trial in one.trials.values()) for one in shares.values()]

    assert sum(used) == pytest.approx(100)
    assert used == pytest.approx([100 * count / sum(running) for count in running])
