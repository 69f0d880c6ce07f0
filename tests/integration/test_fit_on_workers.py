"""The same loop on a real Ray with two cores: one or two workers, deaths, and errors."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import ClassVar

import psutil
import pytest
import ray
import torch
import torch.distributed as dist
from ray.actor import ActorHandle

from imgrec.config import Arch, ClusterConfig, load_config
from imgrec.data.loader import Pictures, Shard
from imgrec.data.splits import make_splits
from imgrec.data.store import open_store
from imgrec.distributed.demand import plan_demand
from imgrec.distributed.events import Mailbox, ProgressEvent, Started
from imgrec.distributed.fit import Fitted, fit_on_workers
from imgrec.distributed.session import Session, ray_session
from imgrec.errors import ClusterError, ConfigError, DivergedError, TrainingError
from imgrec.machine import processor_kind
from imgrec.tracking.connection import connect
from imgrec.tracking.runs import Run
from imgrec.tracking.tags import ARITHMETIC
from imgrec.training.checkpoint import latest_state
from imgrec.training.learner import build_learner
from imgrec.training.loop import EpochReport, evaluate, fit
from imgrec.training.precision import Arithmetic, choose_arithmetic
from imgrec.training.spec import FitSpec
from pipelines.arithmetic import decide_arithmetic, in_arithmetic
from pipelines.costs.timing import StageClock
from pipelines.observer import Observer
from pipelines.prepare import prepare
from pipelines.record.ledger import Ledger
from pipelines.workflow import Workflow
from tests.conftest import no_progress, processes_of, write_photos

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """One local Ray for the module: two at once disturb each other."""
    log_file = tmp_path_factory.mktemp("logs") / "ray.log"
    with ray_session(ClusterConfig(), log_file, cpus=2) as up:
        yield up


def specs_for(storage: Path, archs: str, *settings: str) -> dict[str, FitSpec]:
    small = ["train.epochs=3", "ann.model.hidden=[32]", "cnn.model.widths=[8, 16]"]
    changes = [f"storage='{storage}'", f"archs={archs}", *small, *settings]
    specs = prepare(load_config(None, changes), no_progress).specs
    return {f"{arch}-{storage.name}": spec for arch, spec in specs.items()}


class Watched:
    """Collects what the driver is told, and may do something about it."""

    def __init__(self, react: Callable[[ProgressEvent], None] = lambda _: None) -> None:
        self.epochs: dict[str, list[int]] = {}
        self.starts: list[Started] = []
        self._react = react

    def __call__(self, name: str, event: ProgressEvent) -> None:
        match event:
            case Started():
                self.starts.append(event)
            case EpochReport(epoch=epoch):
                self.epochs.setdefault(name, []).append(epoch)
        self._react(event)


def run(
    session: Session, specs: dict[str, FitSpec], storage: Path, watched: Watched, **cluster: object
) -> dict[str, Fitted | TrainingError]:
    config = ClusterConfig(**cluster)
    demand = plan_demand(session.nodes, config)
    return dict(
        fit_on_workers(session, specs, config, demand, storage=storage / "ray", on_event=watched)
    )


class Silent(Observer):
    """Is told, and says nothing."""


WORKERS = "RayTrainWorker", "LoneWorker"


def workers_of_ray() -> list[psutil.Process]:
    """The processes that train at this moment."""
    return [one for kind in WORKERS for one in processes_of(psutil.Process(), kind)]


def test_a_worker_ends_with_the_weights_of_the_plain_loop_bit_for_bit(
    session: Session, tmp_path: Path
) -> None:
    """Ray carries the loop; it must not change what it computes."""
    specs = specs_for(tmp_path, "['ann', 'cnn']")
    watched = Watched()
    fitted = run(session, specs, tmp_path, watched, cpus_per_worker=2)

    for name, spec in specs.items():
        torch.set_num_threads(2)
        learner = build_learner(spec, torch.device("cpu"), Shard())
        fit(learner, on_epoch=lambda _: None)
        outcome = fitted[name]
        assert isinstance(outcome, Fitted)
        assert learner.best is not None
        assert outcome.best.val == learner.best.val
        for key, value in learner.best.weights.items():
            assert torch.equal(outcome.best.weights[key], value), key
        assert watched.epochs[name] == [1, 2, 3]
    assert list((tmp_path / "ray").iterdir()) == []  # nothing is left behind


def test_the_files_of_the_last_model_stay_until_it_is_scored(
    session: Session, tmp_path: Path
) -> None:
    """Its profile is still to be logged, and a driver that is killed now finds what was trained."""
    specs, config = specs_for(tmp_path, "['ann']"), ClusterConfig()
    outcomes = fit_on_workers(
        session,
        specs,
        config,
        plan_demand(session.nodes, config),
        storage=tmp_path / "ray",
        on_event=Watched(),
        profile=True,
    )
    _, fitted = next(outcomes)
    assert isinstance(fitted, Fitted)
    there = [file.exists() for file in fitted.profile]
    (spec,) = specs.values()
    left = latest_state(tmp_path / "ray", spec.key)

    assert there
    assert all(there)
    assert left
    assert list(outcomes) == []
    assert not left.exists()


def test_two_workers_learn_what_one_learns(session: Session, tmp_path: Path) -> None:
    """The batch is divided, not multiplied, and the gradient is that of the whole batch.

    Without augmentation and dropout, whose draws belong to a worker, and without BatchNorm, whose
    statistics do, the two ways differ by rounding alone.
    """
    settings = [
        "preprocess.augment='none'",
        "train.precision='fp32'",
        "train.batch_size=63",
        "rnn.model.tokens='rows'",
        "rnn.model.hidden=16",
        "rnn.model.dropout=0",
    ]
    specs = specs_for(tmp_path, "['rnn']", *settings)
    (name,) = specs
    one, two = (
        run(session, specs, tmp_path / str(workers), Watched(), workers=workers, cpus_per_worker=1)
        for workers in (1, 2)
    )
    alone, shared = one[name], two[name]

    assert isinstance(alone, Fitted)
    assert isinstance(shared, Fitted)
    spec = specs[name]
    val = len(make_splits(open_store(spec.store), spec.data).val)
    for first, second in zip(alone.history, shared.history, strict=True):
        assert second["train/loss"] == pytest.approx(first["train/loss"], rel=1e-3)
        # Every picture counts once: the accuracy is a whole number of those of the split.
        assert second["val/accuracy"] * val == pytest.approx(round(second["val/accuracy"] * val))
        assert second["val/loss"] == pytest.approx(first["val/loss"], rel=1e-3)


def test_two_workers_train_a_network_with_batch_norm(session: Session, tmp_path: Path) -> None:
    """Their statistics are averaged, so that both evaluate one model: the one that is kept."""
    specs = specs_for(tmp_path, "['cnn']", "train.epochs=12", "train.precision='fp32'")
    ((name, outcome),) = run(session, specs, tmp_path, Watched(), workers=2).items()
    assert isinstance(outcome, Fitted)
    learner = build_learner(specs[name], torch.device("cpu"), Shard())
    learner.evaluated.load_state_dict(outcome.best.weights)
    store = open_store(specs[name].store)
    rows = make_splits(store, specs[name].data).choosing
    alone = evaluate(learner, Pictures(store, learner.device), rows)

    assert outcome.best.val.accuracy > 0.9
    assert alone.accuracy == outcome.best.val.accuracy
    assert alone.loss == pytest.approx(outcome.best.val.loss, rel=1e-5)


def photo_specs(storage: Path, *settings: str) -> dict[str, FitSpec]:
    """EfficientNet-Lite0 from its weights, on two dozen photos."""
    return specs_for(
        storage,
        "['cnn']",
        f"data.source='{write_photos(storage / 'photos')}'",
        "data.image_size=64",
        "cnn.model={backbone='tf_efficientnet_lite0'}",
        "train.precision='fp32'",
        "train.batch_size=8",
        *settings,
    )


@pytest.mark.long
def test_two_workers_probe_and_fine_tune_what_one_does(session: Session, tmp_path: Path) -> None:
    """They divide the features, solve one last layer, and then differ by rounding alone.

    Without augmentation, whose draws belong to a worker. Steps of SGD are as long as their gradients, so rounding
    stays rounding. The two last layers stop at slightly different points around the same minimum, which is flat: a
    loss of 0.6 differs by 2 % where logits differ by 0.006.
    """
    settings = ["preprocess.augment='none'", "cnn.train.optimizer='sgd'", "train.epochs=3"]
    one, two = (
        run(
            session,
            photo_specs(tmp_path / str(workers), *settings, "cnn.train.learning_rate=0.001"),
            tmp_path / str(workers),
            Watched(),
            workers=workers,
            cpus_per_worker=1,
        )
        for workers in (1, 2)
    )
    (alone,), (shared,) = one.values(), two.values()

    assert isinstance(alone, Fitted)
    assert isinstance(shared, Fitted)
    assert len(alone.history) == 3
    for first, second in zip(alone.history, shared.history, strict=True):
        assert second["train/loss"] == pytest.approx(first["train/loss"], rel=2e-2, abs=1e-3)
        assert second["val/loss"] == pytest.approx(first["val/loss"], rel=2e-2, abs=1e-3)


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


def test_a_model_that_fails_does_not_stop_the_others(session: Session, tmp_path: Path) -> None:
    """Its loss is no number; that is said at once, not after four tries."""
    specs = specs_for(
        tmp_path,
        "['ann', 'cnn']",
        "ann.train.optimizer='sgd'",
        "ann.train.learning_rate=10",
        "ann.train.weight_decay=1",
        "ann.train.max_grad_norm=0",
        "ann.train.warmup=0",
        "ann.train.epochs=300",
    )
    ann, cnn = specs
    watched = Watched()
    fitted = run(session, specs, tmp_path, watched)

    assert isinstance(fitted[ann], DivergedError)
    assert "lower ann.train.learning_rate" in str(fitted[ann])
    assert isinstance(fitted[cnn], Fitted)
    assert len(watched.starts) == 2


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


@pytest.mark.parametrize(
    ("cluster", "said"),
    [
        ({"workers": 3}, "needs 3 times 1 cores, each on one node, and the nodes of Ray have 2"),
        (
            {"workers": 1, "cpus_per_worker": 3},
            "needs 1 times 3 cores, each on one node, and the nodes of Ray have 2",
        ),
        ({"workers": 1, "use_gpu": True}, "needs as many GPUs, and Ray has 0"),
    ],
)
def test_what_the_cluster_can_never_give_is_refused_with_the_numbers(
    session: Session, tmp_path: Path, cluster: dict[str, object], said: str
) -> None:
    """Ray itself would wait for ever."""
    with pytest.raises(ClusterError) as caught:
        run(session, specs_for(tmp_path, "['ann']"), tmp_path, Watched(), **cluster)

    assert said in str(caught.value)


def test_a_run_goes_on_in_the_arithmetic_that_it_was_begun_in(
    session: Session, tmp_path: Path
) -> None:
    """Decided from the nodes once; after that the record decides, whatever the nodes are."""
    config = load_config(None, [f"storage='{tmp_path}'", "archs=['ann', 'cnn']"])
    tracking = connect(config.tracking, tmp_path, create=True)
    ledger = Ledger(tracking, prepare(config, no_progress))

    def workflow_of(run: Run) -> Workflow:
        return Workflow(
            ledger, run, lambda: session, lambda: None, tmp_path, Silent(), StageClock()
        )

    with ledger.workflow("workflow", "") as begun:
        decided = decide_arithmetic(workflow_of(begun))
        elsewhere: dict[Arch, Arithmetic] = {
            arch: "fp32" if taken == "bf16" else "bf16" for arch, taken in decided.items()
        }
        # As if it had been begun on machines of another kind.
        begun.set_tags({ARITHMETIC + arch: taken for arch, taken in elsewhere.items()})
        begun.end("FAILED")
    with ledger.workflow("workflow", "") as again:
        taken = decide_arithmetic(workflow_of(again))

    here = [processor_kind()]
    assert decided == {
        branch.arch: choose_arithmetic("auto", branch.model, here) for branch in config.branches
    }
    assert again.id == begun.id
    assert taken == elsewhere
    spec = ledger.prepared.specs["cnn"]
    assert in_arithmetic(spec, taken).arithmetic == elsewhere["cnn"]
    assert in_arithmetic(spec, taken).key == spec.key
