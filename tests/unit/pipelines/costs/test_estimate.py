"""What a run will take, before it is started."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from imgrec.config import DataConfig
from imgrec.data.shape import guess
from imgrec.data.sources import open_source
from imgrec.data.sources.listing import list_samples
from pipelines.costs import estimate
from pipelines.costs.estimate import Overheads, decoding_seconds
from tests.unit.data.made import MakeFolder


def test_the_time_to_decode_grows_with_the_pictures(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In proportion, without the start of processes; one that cannot be read is no obstacle."""
    config = DataConfig(source=str(make_folder(count=40)))
    samples = list_samples(open_source(config, Path("downloads")), config)
    Path(samples[0].content.path).write_bytes(b"broken")  # type: ignore[attr-defined]
    how = guess(samples, config, 0)
    clock = iter([0.0, 3.0, 10.0, 10.5])
    monkeypatch.setattr(estimate, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(estimate, "SAMPLED", 10)
    monkeypatch.setattr(estimate, "available_cores", lambda: 2)

    assert decoding_seconds(samples, how, 0) == pytest.approx(0.5 * 120 / 20)


def test_a_first_look_that_is_long_is_not_repeated(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As over a slow network."""
    config = DataConfig(source=str(make_folder(count=4)))
    samples = list_samples(open_source(config, Path("downloads")), config)
    how = guess(samples, config, 0)
    clock = iter([0.0, 60.0])
    monkeypatch.setattr(estimate, "time", SimpleNamespace(perf_counter=lambda: next(clock)))

    assert decoding_seconds(samples, how, 0) == pytest.approx(60.0)


def test_what_a_run_took_to_start_is_taken_from_the_last_one() -> None:
    """A run that took all from the record started nothing, and says nothing."""
    metrics = {
        "work_seconds/ray": 3.0,
        "work_seconds/train": 9.0,
        "work_seconds/register": 2.0,
        "models": 4.0,
    }

    assert Overheads.of(metrics) == Overheads(3.0, 9.0, 2.0, "as measured before")
    assert Overheads.of({"models": 4.0}) is None


def test_nothing_of_the_users_folder_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file called random.py lies in many."""
    (tmp_path / "random.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)

    assert Overheads.guessed(alone=True).ray > 0


def test_without_a_run_starts_are_guessed_from_this_machine() -> None:
    """In proportion to one start that is timed."""
    guessed = Overheads.guessed(alone=False)
    alone = Overheads.guessed(alone=True)

    assert guessed.ray > 0
    assert guessed.workers > alone.workers > guessed.register > guessed.ray
