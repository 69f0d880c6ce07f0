"""What a time leaves room for, measured on a real Ray with two cores: by one worker, by two, and by one that dies."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray
from ray.exceptions import RayTaskError
from ray.train import TrainingFailedError

from imgrec.config import AnnConfig, ClusterConfig, CnnConfig, load_config
from imgrec.distributed.demand import plan_demand
from imgrec.distributed.pace import pace_of_workers
from imgrec.distributed.session import Session
from imgrec.errors import ConfigError, TrainingError
from imgrec.training.pace import MOST_TIMES, Budget
from imgrec.training.spec import FitSpec
from pipelines.pace import at_pace
from pipelines.prepare import prepare
from tests.conftest import no_progress, processes_of

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
AMPLE = Budget(36_000.0)


@pytest.fixture
def spec(tmp_path: Path) -> FitSpec:
    """A small cnn of the digits."""
    settings = [f"storage='{tmp_path}'", "archs=['cnn']", "cnn.model.widths=[8, 16]"]
    return prepare(load_config(None, settings), no_progress).specs["cnn"]


@pytest.fixture(autouse=True)
def _no_worker_is_kept(session: Session) -> Iterator[None]:
    """One that waits for its lane holds a core, and two workers of the next test would wait for that for ever."""
    yield
    while session.prepared:
        ray.kill(session.prepared.pop())


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_say_how_many_epochs_a_time_leaves_room_for(
    session: Session, spec: FitSpec, tmp_path: Path, workers: int
) -> None:
    """As many workers as are going to train, each with its share of a batch; and nothing of it is left behind."""
    demand = plan_demand(session.nodes, ClusterConfig(workers=workers))
    before = set(tmp_path.iterdir())

    ample = pace_of_workers(session, demand, [spec], AMPLE, storage=tmp_path, keep=False)
    tiny = pace_of_workers(session, demand, [spec], Budget(1e-3), storage=tmp_path, keep=False)

    assert ample.epochs == MOST_TIMES * spec.train.epochs
    assert tiny.epochs == 1
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_worker_finds_is_said_as_it_is(
    session: Session, spec: FitSpec, tmp_path: Path, workers: int
) -> None:
    """A network that cannot be built is the person's mistake; what is ours shows where."""
    demand = plan_demand(session.nodes, ClusterConfig(workers=workers))
    unknown = replace(spec, model=CnnConfig(backbone="resnet1", pretrained=False))
    nowhere = replace(spec, store=tmp_path / "nowhere")

    with pytest.raises(ConfigError, match="resnet1"):
        pace_of_workers(session, demand, [unknown], AMPLE, storage=tmp_path, keep=False)
    with pytest.raises((RayTaskError, TrainingFailedError), match="nowhere"):
        pace_of_workers(session, demand, [nowhere], AMPLE, storage=tmp_path, keep=False)


def test_the_worker_that_was_measured_trains_or_is_gone(
    session: Session, spec: FitSpec, tmp_path: Path
) -> None:
    """It has imported all that it takes to train; and where trials come next, they wait for its cores."""
    demand = plan_demand(session.nodes, ClusterConfig())

    pace_of_workers(session, demand, [spec], AMPLE, storage=tmp_path, keep=False)
    assert session.prepared == []
    pace_of_workers(session, demand, [spec], AMPLE, storage=tmp_path, keep=True)
    assert len(session.prepared) == 1


def test_a_worker_without_the_memory_for_a_network_makes_place_for_the_next(
    session: Session, spec: FitSpec, tmp_path: Path
) -> None:
    """It lives, and would hold its cores while the next one waits for them for ever."""
    demand = plan_demand(session.nodes, ClusterConfig())
    huge = replace(spec, model=AnnConfig(hidden=(10_000_000, 10_000_000)))
    with pytest.raises(TrainingError, match="out of memory"):
        pace_of_workers(session, demand, [huge], AMPLE, storage=tmp_path, keep=True)
    fits = pace_of_workers(session, demand, [spec], AMPLE, storage=tmp_path, keep=False)

    assert session.prepared == []
    assert fits.epochs > 1


class Killer(threading.Thread):
    """Kills whatever worker comes up, as long as it lives."""

    def __init__(self) -> None:
        super().__init__()
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.2):
            for one in processes_of(psutil.Process(), "LoneWorker"):
                with contextlib.suppress(psutil.Error):
                    one.kill()

    def end(self) -> None:
        self._over.set()
        self.join()


def test_a_worker_that_dies_while_it_is_measured_is_said_in_one_line(
    session: Session, spec: FitSpec, tmp_path: Path
) -> None:
    """With what to do instead; nothing was trained yet, so nothing is lost."""
    demand = plan_demand(session.nodes, ClusterConfig())
    killer = Killer()
    killer.start()
    try:
        with pytest.raises(TrainingError, match=r"could not be measured .*set train\.epochs"):
            pace_of_workers(session, demand, [spec], AMPLE, storage=tmp_path, keep=False)
    finally:
        killer.end()


def test_an_architecture_that_cannot_be_measured_fails_alone(
    session: Session, tmp_path: Path
) -> None:
    """The others are trained in their time."""
    settings = [f"storage='{tmp_path}'", "archs=['ann', 'cnn']", "cnn.model.widths=[8, 16]"]
    prepared = prepare(load_config(None, [*settings, "train.budget='30s'"]), no_progress)
    killer, asked = Killer(), 0

    def asked_for() -> Session:
        """For the ann, and then for the cnn."""
        nonlocal asked
        asked += 1
        if asked == 1:
            killer.start()
        else:
            killer.end()
        return session

    settled, failures = at_pace(prepared, {}, asked_for)

    assert list(failures) == ["ann"]
    assert "could not be measured" in str(failures["ann"])
    assert settled.config.branch("cnn").train.budget == 0
    assert settled.specs["cnn"].train.epochs > 0
    assert list(settled.paces) == ["cnn"]
