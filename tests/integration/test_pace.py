"""What a time leaves room for, measured on a real Ray with two cores: by one worker, by two, and by one that dies."""

import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from ray.exceptions import RayTaskError
from ray.train import TrainingFailedError

from imgrec.config import ClusterConfig, CnnConfig, load_config
from imgrec.distributed.demand import plan_demand
from imgrec.distributed.pace import pace_of_workers
from imgrec.distributed.session import Session
from imgrec.errors import ConfigError, TrainingError
from imgrec.training.pace import MOST_TIMES, Budget
from imgrec.training.spec import FitSpec
from pipelines.prepare import prepare
from tests.conftest import no_progress, processes_of

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
AMPLE = Budget(36_000.0)


@pytest.fixture
def spec(tmp_path: Path) -> FitSpec:
    """A small cnn of the digits."""
    settings = [f"storage='{tmp_path}'", "archs=['cnn']", "cnn.model.widths=[8, 16]"]
    return prepare(load_config(None, settings), no_progress).specs["cnn"]


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
    session.prepared.clear()  # without a handle it ends


def test_a_worker_that_dies_while_it_is_measured_is_said_in_one_line(
    session: Session, spec: FitSpec, tmp_path: Path
) -> None:
    """With what to do instead; nothing was trained yet, so nothing is lost."""
    demand = plan_demand(session.nodes, ClusterConfig())
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.2):
            for one in processes_of(psutil.Process(), "LoneWorker"):
                one.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(TrainingError, match=r"could not be measured .*set train\.epochs"):
            pace_of_workers(session, demand, [spec], AMPLE, storage=tmp_path, keep=False)
    finally:
        over.set()
        killer.join()
