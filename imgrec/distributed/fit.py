"""Models trained on the workers of a Ray cluster, through Ray Train.

A lane is one TorchTrainer whose workers train one model after the other, or one process on this machine (`alone`).
To start one takes seconds (docs/results.md), more than to train a small model, so it is paid once a lane and
not once a model. There are as many lanes as the cluster has room for, or as share a machine's cores (`lanes.py`).
"""

import os
import shutil
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import ray.train
from ray.exceptions import RayActorError, RayTaskError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from imgrec.config import ClusterConfig
from imgrec.distributed.alone import train_alone
from imgrec.distributed.demand import Demand, spare_cores
from imgrec.distributed.events import Failed, Finished, Mailbox, ProgressEvent, Started
from imgrec.distributed.lanes import deal
from imgrec.distributed.lone_worker import start_worker
from imgrec.distributed.session import Session
from imgrec.distributed.trainer import LaneConfig, has_died, how_it_ended, train
from imgrec.distributed.worker import ANSWER_SECONDS, MOST_EXCUSED, PROFILE, LaneSpec, work
from imgrec.errors import TrainingError
from imgrec.training.checkpoint import load_state
from imgrec.training.clock import ANSWERING
from imgrec.training.learner import Best, best_of
from imgrec.training.loop import SPENT, EpochReport
from imgrec.training.spec import FitSpec

POLL_SECONDS = 0.25
LEAST_RESIZE_SECONDS = 5.0
PLACE_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Fitted:
    """What the training of one model came to.

    Attributes:
        best: The best epoch, with its weights.
        history: The metrics of every epoch.
        ended: It is what came out, and no checkpoint on the way: a fit that nothing more came of has fewer epochs.
        seconds: Of all its epochs, training and evaluation.
        spent: The same and what lay between, by kind of work (training/clock.py).
        restarts: How often workers died and were replaced.
        images_per_second: Median over epochs, of training alone.
        device: `cpu` or `cuda`.
        gpu_name: The GPU's name; empty on a CPU.
        gpu_bytes: The most memory that was taken on it.
        precision: `bf16`, `fp16` or `fp32`.
        threads: Of each worker on its cores, those that trained it last; 0 where an earlier imgrec trained it.
        folder: Where it lies, with what the workers have answered (`read_answers`).
        profile: A trace of some steps, if one was asked for.
    """

    best: Best
    history: list[dict[str, float]]
    ended: bool
    seconds: float
    spent: dict[str, float]
    restarts: int
    images_per_second: float
    device: str
    gpu_name: str
    gpu_bytes: int
    precision: str
    threads: int
    folder: Path
    profile: tuple[Path, ...] = ()


def load_fitted(folder: Path, *, restarts: int = 0) -> Fitted:
    """What a finished training, or its last checkpoint, left in a folder."""
    state = load_state(folder)
    best = best_of(state)
    assert best is not None
    history = state["history"]
    return Fitted(
        best=best,
        history=history,
        ended="model" not in state,
        seconds=sum(epoch["epoch_seconds"] for epoch in history),
        spent=_spent(history) | {ANSWERING: state.get(ANSWER_SECONDS, 0.0)},
        restarts=restarts,
        images_per_second=statistics.median(
            # Of a probe it tells whether its features were there already.
            epoch["images_per_second"]
            for epoch in history[state["probe_epochs"] :] or history
        ),
        device=state["device"],
        gpu_name=state["gpu_name"],
        gpu_bytes=state["gpu_bytes"],
        precision=state["precision"],
        threads=state.get("threads", 0),
        folder=folder,
        profile=tuple(sorted((folder / PROFILE).glob("*"))),
    )


def _spent(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    spent: Counter[str] = Counter()
    for epoch in history:
        spent.update({k.removeprefix(SPENT): v for k, v in epoch.items() if k.startswith(SPENT)})
    return dict(spent)


FitOutcome = tuple[str, Fitted | TrainingError]


def fit_on_workers(
    session: Session,
    specs: Mapping[str, FitSpec],
    cluster: ClusterConfig,
    demand: Demand,
    *,
    storage: Path,
    on_event: Callable[[str, ProgressEvent], None],
    resume: Mapping[str, Path] = MappingProxyType({}),
    profile: bool = False,
    answers: bool = False,
) -> Iterator[FitOutcome]:
    """Begin to train models, each on cluster.workers workers, as many at a time as the cluster has room for.

    A model whose workers die is taken up again from its last checkpoint. One that fails does not
    stop the others.

    Args:
        session: A Ray that is up.
        specs: What to train, by name.
        cluster: How many workers, and with what.
        demand: What `plan_demand` counts for these nodes, or of that what `share_cores` leaves each lane.
        storage: Folder for checkpoints, seen by every node. Each call makes one of its own in it, for Ray continues
            what it finds under a lane's name, whatever models the lane has now.
        on_event: Told in this process how each model goes; every epoch once.
        resume: Checkpoints of the same specs to go on from, by name.
        profile: Leave a trace of some steps of each (training/profiling.py).
        answers: Let the workers say what each model makes of the pictures that judge it (training/answers.py).

    Returns:
        The name and the result of each model as it ends: TrainingError if its loss diverged or
        its workers died more often than max_failures. While it is waited for, `on_event` is told.

    Raises, while it is waited for:
        ConfigError: an architecture cannot be built as asked.
        StorageError: there is no room for a checkpoint; a later call goes on.
    """
    storage = storage / f"fits-{uuid4().hex[:8]}"
    shares = deal(specs, demand)

    def start(chosen: list[str]) -> _Lane:
        lane = f"lane-{chosen[0]}"
        lane_spec = LaneSpec(
            lane=lane,
            specs={name: specs[name] for name in chosen},
            threads=demand.cpus,
            checkpoint_seconds=cluster.checkpoint_seconds,
            folder=storage / lane / "models",
            mailbox=session.mailbox,
            use_gpu=demand.use_gpu,
            resume={name: resume[name] for name in chosen if name in resume},
            profile=profile,
            max_failures=cluster.max_failures,
            answers=answers,
            # With several lanes a stream could take the place of workers that are yet to come.
            spare=spare_cores(session.nodes, demand) if len(shares) == 1 else 0,
        )
        if session.is_local and demand.is_one:
            # Here, where lanes are started in their order: the first one's worker may be up already.
            worker = start_worker(session.prepared, demand)
            fit = partial(train_alone, session, lane_spec, demand, worker)
        else:
            trainer = _trainer(lane_spec, demand, cluster, storage)
            fit = partial(train, trainer, lane_spec, session.is_over)
        return _Lane(session, lane_spec, fit, on_event)

    lanes = [start(share) for share in shares]

    outcomes = _outcomes(lanes, start, storage)
    return _until_ray_may_go(outcomes, lanes, len(specs)) if session.is_local else outcomes


def _trainer(
    lane_spec: LaneSpec, demand: Demand, cluster: ClusterConfig, storage: Path
) -> TorchTrainer:
    if not demand.is_fixed:
        # For some seconds Ray still counts a node that is lost, and waits so long for its place.
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(PLACE_SECONDS))
    return TorchTrainer(
        work,
        train_loop_config={"lane_spec": lane_spec},
        torch_config=LaneConfig(mailbox=lane_spec.mailbox, lane=lane_spec.lane),
        scaling_config=ScalingConfig(
            num_workers=demand.workers if demand.is_fixed else (demand.least, demand.workers),
            use_gpu=demand.use_gpu,
            resources_per_worker={"CPU": demand.cpus},
            # To take a new machine in costs what was trained since the last checkpoint.
            elastic_resize_monitor_interval_s=max(LEAST_RESIZE_SECONDS, cluster.checkpoint_seconds),
        ),
        run_config=RunConfig(
            name=lane_spec.lane,
            storage_path=str(storage),
            # What is no death of a worker does not use them up; the workers themselves count those that are.
            failure_config=FailureConfig(
                max_failures=cluster.max_failures + MOST_EXCUSED * len(lane_spec.specs)
            ),
        ),
    )


def _outcomes(
    lanes: "list[_Lane]", start: "Callable[[list[str]], _Lane]", storage: Path
) -> Iterator[FitOutcome]:
    """What comes of lanes, until each has ended; their files go after that."""
    while lanes:
        for lane in list(lanes):
            ended = lane.training.wait(POLL_SECONDS / len(lanes))
            yield from lane.outcomes()
            if ended:
                lanes.remove(lane)
                yield from lane.end()
                shutil.rmtree(storage / lane.lane_spec.lane, ignore_errors=True)
                if lane.waiting:
                    lanes.append(start(lane.waiting))
    shutil.rmtree(storage, ignore_errors=True)


def _until_ray_may_go(
    outcomes: Iterator[FitOutcome], lanes: "list[_Lane]", count: int
) -> Iterator[FitOutcome]:
    """The same; when the last of so many is given, nothing is inside Ray any more."""
    for number, outcome in enumerate(outcomes, start=1):
        if number == count:
            for lane in lanes:
                lane.training.wait()
        yield outcome


class _Lane:
    """Models that are trained one after the other, watched by a thread of its own."""

    def __init__(
        self,
        session: Session,
        lane_spec: LaneSpec,
        fit: Callable[[], None],
        on_event: Callable[[str, ProgressEvent], None],
    ) -> None:
        self.lane_spec = lane_spec
        self.waiting = list(lane_spec.specs)  # the names that have not ended yet
        self._mailbox: Mailbox = lane_spec.mailbox
        self._on_event = on_event
        self._starts: dict[str, list[Started]] = {name: [] for name in lane_spec.specs}
        self._epochs_seen: dict[str, int] = dict.fromkeys(lane_spec.specs, 0)
        self._outcome: Any = None
        self.training = session.beside(partial(self._fit, fit), lane_spec.lane)

    def _fit(self, fit: Callable[[], None]) -> None:
        try:
            fit()
        except BaseException as error:
            self._outcome = error

    def outcomes(self) -> Iterator[FitOutcome]:
        """Pass on what has come from the workers; yield what has ended."""
        if not self.waiting:
            return
        for name, event in self._mailbox.read(self.lane_spec.lane):
            # After a restart what was told before comes again, and came out the same.
            if name not in self.waiting:
                continue
            match event:
                case Finished() | Failed():
                    self.waiting.remove(name)
                    yield name, self._result(name, event)
                    continue
                case EpochReport(epoch=epoch) if epoch <= self._epochs_seen[name]:
                    continue
                case EpochReport(epoch=epoch):
                    self._epochs_seen[name] = epoch
                case Started():
                    self._starts[name].append(event)
            self._on_event(name, event)

    def end(self) -> Iterator[FitOutcome]:
        """After the last event: the model that the lane broke off at has failed."""
        died = isinstance(
            self._outcome, (ray.train.TrainingFailedError, RayActorError, RayTaskError)
        )
        if self._outcome is not None and not died:
            raise self._outcome
        if not self.waiting:
            return  # a worker died after the last model was delivered: nothing is lost
        if died and has_died(self._outcome):
            why = (
                f"its processes died more often than cluster.max_failures = {self.lane_spec.max_failures} allows; "
                f"the log file says more ({how_it_ended(self._outcome)})"
            )
        elif isinstance(self._outcome, ray.train.ControllerError):
            why = (
                f"workers could not be started; where nodes cannot connect, imgrec doctor says so; the "
                f"log file says more ({how_it_ended(self._outcome)})"
            )
        else:
            why = self._mailbox.why_given_up(self.lane_spec.lane, self.lane_spec.max_failures)
            why += f" ({how_it_ended(self._outcome)})" if died else ""
        yield self.waiting.pop(0), TrainingError(why)

    def _result(self, name: str, event: Finished | Failed) -> Fitted | TrainingError:
        if isinstance(event, Failed):
            if isinstance(event.error, TrainingError):
                return event.error
            raise event.error
        return load_fitted(Path(event.folder), restarts=len(self._starts[name]) - 1)
