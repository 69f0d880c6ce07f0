"""Searches on a real Ray with two cores: fair shares, early stops, failures, deaths."""

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from imgrec.config import ClusterConfig
from imgrec.distributed.events import SearchEvent, TrialEpoch, TrialStarted
from imgrec.distributed.session import Session, ray_session
from imgrec.errors import StorageError
from imgrec.search.study import DEFAULTS
from imgrec.training.checkpoint import latest_state
from tests.conftest import processes_of
from tests.integration.watched import Watched

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """One local Ray for the module: two at once disturb each other."""
    log_file = tmp_path_factory.mktemp("logs") / "ray.log"
    with ray_session(ClusterConfig(), log_file, cpus=2) as up:
        yield up


def trial_process() -> psutil.Process:
    """A process that runs trials at this moment."""
    return processes_of(psutil.Process(), "ray::ImplicitFunc")[0]


def test_every_search_has_the_same_number_of_trials_and_keeps_the_checkpoint_of_its_best(
    session: Session, tmp_path: Path
) -> None:
    """The defaults are trained to the end; losers are stopped, and their checkpoints removed."""
    watched = Watched(tmp_path, "archs=['ann', 'cnn']", "search.trials=5")
    watched.run(session)
    for arch, search in watched.searches.items():
        trials = {trial.number: trial for trial in watched.ended[arch]}
        best = search.study.best
        assert best is not None
        spec = search.make_spec(best.settings)

        assert sorted(trials) == [0, 1, 2, 3, 4]
        assert trials[DEFAULTS].state == "finished"
        assert len(trials[DEFAULTS].scores) == 9
        assert best.score >= trials[DEFAULTS].score
        assert {trial.state for trial in trials.values()} <= {"finished", "stopped"}
        assert sum(len(trial.scores) for trial in trials.values()) < 5 * 9
        for number, trial in trials.items():
            assert watched.epochs[arch, number] == list(range(1, len(trial.scores) + 1))
        assert [f.name for f in search.folder.iterdir()] == [f"trial-{best.number}"]
        assert latest_state(search.folder, spec.key) is not None


def test_a_trial_that_fails_is_recorded_with_its_reason_and_the_others_go_on(
    session: Session, tmp_path: Path
) -> None:
    """A loss that is no number, and a model that no memory holds: once each, not tried again."""
    watched = Watched(
        tmp_path,
        "archs=['ann']",
        "search.trials=5",
        "train.optimizer=sgd",
        "train.learning_rate=10.0",  # with a weight decay of 1 every step takes the weights times -9
        "train.weight_decay=0.0",
        "train.max_grad_norm=0.0",
        *(f"ann.space.{key}=false" for key in ("train.label_smoothing", "model.dropout")),
        *(f"ann.space.{key}=false" for key in ("preprocess.shift", "preprocess.erase")),
        "ann.space.train.weight_decay=[0.0, 1.0]",
        "ann.space.model.hidden=[[16], [3000000, 3000000]]",
    )
    watched.run(session)
    failed = [trial for trial in watched.ended["ann"] if trial.state == "failed"]
    best = watched.searches["ann"].study.best

    assert len(watched.ended["ann"]) == 4  # there are no more combinations
    assert any("loss is" in trial.reason and "learning_rate" in trial.reason for trial in failed)
    assert any(trial.reason.startswith("out of memory") for trial in failed)
    assert best is not None
    assert best.number == DEFAULTS


def test_a_bug_in_a_trial_ends_the_search_with_its_traceback(
    session: Session, tmp_path: Path
) -> None:
    """As a failed trial it would hide behind those that are well."""
    watched = Watched(tmp_path, "archs=['ann']", "search.trials=3")
    store = watched.prepared.store.folder

    def damage(event: SearchEvent) -> None:
        if isinstance(event, TrialStarted) and event.number == 1:
            (store / "labels.npy").write_bytes(b"no array")

    watched._react = damage

    with pytest.raises(RuntimeError, match=r"(?s)trial \d of ann.*Traceback.*Error"):
        watched.run(session)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for 40 KB."""
    folder = tmp_path / "work"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "none", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.usefixtures("small_disk")
def test_a_disk_failure_ends_the_search_and_no_trial_is_held_to_have_failed(
    session: Session, tmp_path: Path
) -> None:
    """When there is room again, they are tried; the error says in one line what is wrong."""
    watched = Watched(tmp_path, "archs=['ann']", "search.trials=3")
    with pytest.raises(StorageError, match=r"a disk of .* is full .*No space left") as raised:
        watched.run(session)

    assert "\n" not in str(raised.value)
    assert "ann" not in watched.ended
    assert not watched.searches["ann"].study.trials


def test_a_killed_process_costs_no_epoch_and_no_trial(session: Session, tmp_path: Path) -> None:
    """It goes on from the trial's checkpoint, and every epoch is told once."""
    killed: list[int] = []

    def react(event: SearchEvent) -> None:
        if isinstance(event, TrialEpoch) and event.epoch == 5 and not killed:
            process = trial_process()
            killed.append(process.pid)
            os.kill(process.pid, signal.SIGKILL)

    settings = ["archs=['cnn']", "search.trials=2", "search.cpus_per_trial=2", "train.epochs=12"]
    watched = Watched(tmp_path, *settings, "cluster.checkpoint_seconds=0", react=react)
    watched.run(session)

    assert killed
    assert sorted(trial.number for trial in watched.ended["cnn"]) == [0, 1]
    assert watched.epochs["cnn", 0] == list(range(1, 13))
    assert all(trial.state != "failed" for trial in watched.ended["cnn"])


@pytest.mark.chaos
def test_a_process_that_dies_too_often_is_a_failed_trial(session: Session, tmp_path: Path) -> None:
    """And the search goes on with the next."""
    killed: Counter[int] = Counter()

    def react(event: SearchEvent) -> None:
        if isinstance(event, TrialStarted) and event.number == DEFAULTS:
            time.sleep(1)  # until it is at work
            killed[event.number] += 1
            trial_process().kill()

    settings = ["archs=['ann']", "search.trials=2", "search.cpus_per_trial=2", "train.epochs=400"]
    watched = Watched(tmp_path, *settings, "cluster.max_failures=1", react=react)
    watched.run(session)
    states = {trial.number: trial for trial in watched.ended["ann"]}

    assert states[0].state == "failed"
    assert states[0].reason == "its process died more than 1 times"
    assert states[1].state == "finished"
    assert killed[0] == 2


def test_time_is_divided_evenly(session: Session, tmp_path: Path) -> None:
    """A slow architecture gets fewer trials, and not less time."""
    watched = Watched(tmp_path, "archs=['ann', 'cnn']", "search.budget=16s")
    started = time.monotonic()
    watched.run(session)
    seconds = time.monotonic() - started
    used = {arch: sum(t.seconds for t in trials) for arch, trials in watched.ended.items()}

    ann, cnn = len(watched.ended["ann"]), len(watched.ended["cnn"])
    assert (
        ann > cnn or ann == cnn == 1
    )  # beside other tests one trial may take all the time there is
    assert used["ann"] == pytest.approx(used["cnn"], rel=0.35)
    assert seconds < 16 + 15  # and the start of the processes


def test_a_search_that_was_interrupted_tries_only_what_is_left(
    session: Session, tmp_path: Path
) -> None:
    """The trials of the earlier process count, and are not run again."""
    first = Watched(tmp_path, "archs=['ann']", "search.trials=3")
    first.run(session)
    second = Watched(tmp_path, "archs=['ann']", "search.trials=5")
    second.run(session, ended=first.ended["ann"])

    assert sorted(trial.number for trial in second.ended["ann"]) == [3, 4]
    assert len(second.searches["ann"].study.trials) == 5
