"""Trials that start workers of their own, on a real Ray with two cores."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from imgrec.config import ClusterConfig
from imgrec.distributed.events import SearchEvent, TrialEpoch
from imgrec.distributed.session import Session, ray_session
from imgrec.search.study import DEFAULTS
from imgrec.training.checkpoint import latest_state
from tests.conftest import processes_of
from tests.integration.watched import Watched

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """With the dashboard, without which Ray would not free what a killed trainer held."""
    log_file = tmp_path_factory.mktemp("logs") / "ray.log"
    with ray_session(ClusterConfig(), log_file, cpus=2, dashboard=True) as up:
        yield up


def test_trials_with_several_workers_are_stopped_early_and_keep_their_best_checkpoint(
    session: Session, tmp_path: Path
) -> None:
    """Each starts workers of its own, which hold both cores: the trial itself must hold none."""
    watched = Watched(
        tmp_path,
        "archs=['ann']",
        "search.trials=3",
        "search.workers_per_trial=2",
        "ann.space.train.learning_rate={low=1e-7, high=2e-3, log=true}",
    )
    watched.run(session)
    search = watched.searches["ann"]
    best = search.study.best
    assert best is not None

    assert sorted(trial.number for trial in watched.ended["ann"]) == [0, 1, 2]
    assert len(next(t for t in watched.ended["ann"] if t.number == DEFAULTS).scores) == 9
    assert any(trial.state == "stopped" for trial in watched.ended["ann"])
    assert latest_state(search.folder, search.make_spec(best.settings).key) is not None
    assert [f.name for f in search.folder.iterdir()] == [f"trial-{best.number}"]


@pytest.mark.chaos
def test_a_trial_whose_workers_die_too_often_has_failed(session: Session, tmp_path: Path) -> None:
    """It was not stopped early: its scores say nothing of its settings."""

    def kill_worker(event: SearchEvent) -> None:
        if isinstance(event, TrialEpoch):
            for process in processes_of(psutil.Process(), "RayTrainWorker"):
                os.kill(process.pid, signal.SIGKILL)

    watched = Watched(
        tmp_path,
        "archs=['ann']",
        "search.trials=1",
        "search.workers_per_trial=2",
        "cluster.max_failures=0",
        "train.epochs=2000",
        react=kill_worker,
    )
    watched.run(session)
    (trial,) = watched.ended["ann"]

    assert trial.state == "failed"
    assert "more often than cluster.max_failures = 0 allows" in trial.reason
