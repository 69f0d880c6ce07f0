"""Workers, and the processes that start them, that die or run out of memory: on a real Ray with two cores."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import ClassVar

import psutil
import pytest
import ray
import torch
import torch.distributed as dist
from ray.actor import ActorHandle

from imgrec.distributed.events import Mailbox, ProgressEvent, Started
from imgrec.distributed.fit import Fitted
from imgrec.distributed.session import Session
from imgrec.errors import ConfigError, TrainingError
from imgrec.training.loop import EpochReport
from imgrec.training.spec import FitSpec
from tests.conftest import processes_of
from tests.integration.fits import WORKERS, Watched, photo_specs, run, specs_for, workers_of_ray

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.mark.chaos
def test_workers_that_die_in_the_probe_and_in_fine_tuning_end_with_the_same_weights(
    session: Session, tmp_path: Path
) -> None:
    """The probe is a checkpoint like any other; what is killed before it is computed again."""
    specs = photo_specs(tmp_path, "train.epochs=4")
    killed: dict[str, bool] = {}

    def kill_twice(event: ProgressEvent) -> None:
        in_probe = isinstance(event, Started) and event.epochs_done == 0
        in_fine_tuning = isinstance(event, EpochReport) and event.epoch == 2
        moment = "probe" if in_probe else "fine-tuning"
        if (in_probe or in_fine_tuning) and moment not in killed:
            killed[moment] = any(watched.epochs.values())
            for process in workers_of_ray():
                os.kill(process.pid, signal.SIGKILL)

    watched = Watched(kill_twice)
    once = run(session, specs, tmp_path, watched, checkpoint_seconds=0, cpus_per_worker=2)
    again = run(session, specs, tmp_path / "again", Watched(), cpus_per_worker=2)
    (disturbed,), (undisturbed,) = once.values(), again.values()

    assert killed == {"probe": False, "fine-tuning": True}
    assert isinstance(disturbed, Fitted)
    assert isinstance(undisturbed, Fitted)
    assert disturbed.restarts == 2
    assert list(watched.epochs.values()) == [[1, 2, 3, 4]]
    for key, value in disturbed.best.weights.items():
        assert torch.equal(value, undisturbed.best.weights[key]), key


def test_after_a_kill_the_fit_goes_on_and_every_epoch_is_told_once(
    session: Session, tmp_path: Path
) -> None:
    """Kill -9 in the second model: the first is not trained again, the second ends complete."""
    specs = specs_for(tmp_path, "['ann', 'cnn']", "train.epochs=8")
    ann, cnn = specs
    killed: list[int] = []

    def kill_once(_: ProgressEvent) -> None:
        in_second = len(watched.epochs.get(cnn, [])) >= 3
        if in_second and not killed:
            for process in workers_of_ray():
                killed.append(process.pid)
                os.kill(process.pid, signal.SIGKILL)

    watched = Watched(kill_once)
    fitted = run(session, specs, tmp_path, watched, checkpoint_seconds=0, cpus_per_worker=2)
    undisturbed = run(session, specs, tmp_path / "again", Watched(), cpus_per_worker=2)

    assert killed
    assert watched.epochs == {ann: list(range(1, 9)), cnn: list(range(1, 9))}
    assert len(watched.starts) == 3
    assert watched.starts[2].epochs_done > 0
    for name in specs:
        one, other = fitted[name], undisturbed[name]
        assert isinstance(one, Fitted)
        assert isinstance(other, Fitted)
        assert len(one.history) == 8
        assert one.best.val == other.best.val
        for key, value in one.best.weights.items():
            assert torch.equal(value, other.best.weights[key]), key
    assert isinstance(fitted[cnn], Fitted)
    assert fitted[cnn].restarts == 1


class Greedy(FitSpec):
    """A spec whose step finds no memory on one worker, until a batch is in sixteen parts."""

    def share_of_side(self, step: int) -> float:
        rank = dist.get_rank() if dist.is_initialized() else 0
        if self.accumulate < 16 and rank == dist.get_world_size() - 1:
            msg = "[enforce fail] DefaultCPUAllocator: can't allocate memory"
            raise RuntimeError(msg)
        return FitSpec.share_of_side(self, step)


class Lost(FitSpec):
    """A spec that one worker cannot build, as where weights cannot be had on one node."""

    @property
    def num_classes(self) -> int:
        if dist.is_initialized() and dist.get_rank() == 1:
            msg = "the weights cannot be had on this node"
            raise ConfigError(msg)
        return len(self.class_counts)


class Deadly(FitSpec):
    """A spec that kills the first process of a kind that unpacks it: it is being started."""

    victim: ClassVar = "LoneWorker"

    def __reduce__(self) -> tuple[Callable[[FitSpec, str], FitSpec], tuple[FitSpec, str]]:
        return die_once, (as_kind(FitSpec, self), self.victim)


class DeadlyInGroup(Deadly):
    """The same for a worker that has others beside it."""

    victim: ClassVar = "RayTrainWorker"


class DeadlyToController(Deadly):
    """The same for the process that starts workers."""

    victim: ClassVar = "TrainController"


def die_once(spec: FitSpec, victim: str) -> FitSpec:
    died = spec.store.with_name(victim)
    if victim in " ".join(psutil.Process().cmdline()) and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return spec


class DeadlyMailbox(Mailbox):
    """A mailbox that kills every worker that it comes to."""

    def __reduce__(self) -> tuple[Callable[[ActorHandle], Mailbox], tuple[ActorHandle]]:
        return die_as_worker, (self.actor,)


def die_as_worker(actor: ActorHandle) -> Mailbox:
    if any(kind in " ".join(psutil.Process().cmdline()) for kind in WORKERS):
        os.kill(os.getpid(), signal.SIGKILL)
    return Mailbox(actor)


def as_kind(kind: type[FitSpec], spec: FitSpec) -> FitSpec:
    return kind(**{one.name: getattr(spec, one.name) for one in fields(FitSpec)})


@pytest.mark.parametrize(
    ("kind", "workers"), [(Deadly, 1), (DeadlyInGroup, 2), (DeadlyToController, 2)]
)
def test_a_process_that_dies_while_it_is_started_is_replaced(
    session: Session, tmp_path: Path, kind: type[Deadly], workers: int
) -> None:
    """Ray Train itself gives up where the call that starts the training finds no worker any more."""
    ((name, spec),) = specs_for(tmp_path, "['ann']").items()
    specs = {name: as_kind(kind, spec)}
    fitted = run(session, specs, tmp_path, Watched(), workers=workers)[name]

    assert spec.store.with_name(kind.victim).exists()
    assert isinstance(fitted, Fitted)
    assert len(fitted.history) == 3


def test_a_worker_that_never_starts_is_given_up_with_what_ended_it(
    session: Session, tmp_path: Path
) -> None:
    """The reason is at the end of what Ray says, behind lines of names and numbers."""
    ((name, spec),) = specs_for(tmp_path, "['ann']").items()
    specs = {name: as_kind(DeadlyInGroup, spec)}
    failed = run(session, specs, tmp_path, Watched(), workers=2, max_failures=0)[name]

    assert isinstance(failed, TrainingError)
    assert "its processes died more often" in str(failed)
    assert "connection error code 2" in str(failed)
    assert "actor_id" not in str(failed)
    places = ray.util.placement_group_table().values()
    assert all(place["state"] == "REMOVED" for place in places)  # free for the next lane


def test_workers_that_die_at_every_start_are_given_up(session: Session, tmp_path: Path) -> None:
    """They are started as often as cluster.max_failures allows."""
    deadly = replace(session, mailbox=DeadlyMailbox(session.mailbox.actor))
    specs = specs_for(tmp_path, "['ann']")
    (failed,) = run(deadly, specs, tmp_path, Watched(), max_failures=1).values()

    assert isinstance(failed, TrainingError)
    assert "its processes died more often" in str(failed)


@pytest.mark.chaos
def test_a_controller_that_dies_while_its_workers_train_is_replaced(
    session: Session, tmp_path: Path
) -> None:
    """Ray keeps the place of its workers, and the next one would wait for it for ever."""
    killed: list[int] = []

    def kill_once(event: ProgressEvent) -> None:
        if isinstance(event, EpochReport) and event.epoch > 5 and not killed:
            for process in processes_of(psutil.Process(), "TrainController"):
                killed.append(process.pid)
                process.kill()

    specs = specs_for(tmp_path, "['ann']", "train.epochs=400")
    (name,) = specs
    watched = Watched(kill_once)
    fitted = run(session, specs, tmp_path, watched, workers=2, checkpoint_seconds=0)[name]

    assert killed
    assert isinstance(fitted, Fitted)
    assert watched.epochs[name] == list(range(1, 401))


@pytest.mark.long
def test_memory_that_runs_out_uses_up_no_failure_and_ends_in_smaller_parts(
    session: Session, tmp_path: Path
) -> None:
    """On one of two workers, twice: all of them go on with the same number of parts."""
    specs = specs_for(tmp_path, "['ann']", "train.batch_size=65")
    ((name, spec),) = specs.items()
    fitted = run(
        session, {name: as_kind(Greedy, spec)}, tmp_path, Watched(), workers=2, max_failures=0
    )[name]

    assert isinstance(fitted, Fitted)
    assert fitted.restarts == 2
    assert len(fitted.history) == 3


def test_what_one_worker_finds_all_learn(session: Session, tmp_path: Path) -> None:
    """The others would wait for it in a reduction, until that times out half an hour later."""
    specs = specs_for(tmp_path, "['ann']")
    ((name, spec),) = specs.items()
    began = time.monotonic()

    with pytest.raises(ConfigError, match="cannot be had on this node"):
        run(session, {name: as_kind(Lost, spec)}, tmp_path, Watched(), workers=2)
    assert time.monotonic() - began < 120


def test_a_bug_is_raised_once_with_its_traceback(session: Session, tmp_path: Path) -> None:
    """To try it again would only repeat it, for half a minute."""
    ((name, spec),) = specs_for(tmp_path, "['ann']").items()
    for path in spec.store.iterdir():
        path.unlink()

    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*FileNotFoundError"):
        run(session, {name: spec}, tmp_path, Watched())


@pytest.mark.chaos
def test_workers_that_die_too_often_are_given_up_and_the_next_model_is_trained(
    session: Session, tmp_path: Path
) -> None:
    """Out of memory at every try, say."""
    specs = specs_for(tmp_path, "['cnn', 'ann']", "cnn.train.epochs=2000")
    cnn, ann = specs

    def kill_always(event: ProgressEvent) -> None:
        if isinstance(event, EpochReport) and event.epochs == 2000:
            for process in workers_of_ray():
                os.kill(process.pid, signal.SIGKILL)

    fitted = run(session, specs, tmp_path, Watched(kill_always), max_failures=0)

    assert isinstance(fitted[cnn], TrainingError)
    assert "more often than cluster.max_failures = 0 allows" in str(fitted[cnn])
    assert isinstance(fitted[ann], Fitted)
