"""What a run will take, before it is started."""

from pathlib import Path

import pytest

from imgrec.config import DataConfig
from imgrec.data.shape import guess
from imgrec.data.sources import list_samples, open_source
from pipelines.costs.estimate import Overheads, decoding_seconds
from tests.unit.data.made import MakeFolder


def test_the_time_to_decode_grows_with_the_pictures(make_folder: MakeFolder) -> None:
    """From some that are decoded on this machine; a source of one broken file costs nothing else."""
    config = DataConfig(source=str(make_folder(count=40)))
    samples = list_samples(open_source(config.source, Path("downloads")), config)
    shape, decided = guess(samples, config)
    few = decoding_seconds(samples, decided, shape)
    Path(samples[0].content.path).write_bytes(b"broken")  # type: ignore[attr-defined]
    many = decoding_seconds(samples * 100, decided, shape)

    assert 0 < few < many


def test_what_a_run_took_to_start_is_taken_from_the_last_one() -> None:
    """A run that took all from the record started nothing, and says nothing."""
    metrics = {"seconds/ray": 3.0, "seconds/train": 9.0, "seconds/register": 4.0, "models": 2.0}

    assert Overheads.of(metrics) == Overheads(3.0, 9.0, 2.0, "as measured before")
    assert Overheads.of({"models": 4.0}) is None
    assert Overheads.of(metrics | {"models": 0.0}) is None


def test_without_a_run_starts_are_guessed_from_this_machine() -> None:
    """In proportion to one start that is timed."""
    guessed = Overheads.guessed()

    assert guessed.ray > 0
    assert guessed.workers / guessed.ray == pytest.approx(3.0)
