"""Models trained on the workers of a Ray cluster, through Ray Train.

A lane is one TorchTrainer whose workers train one model after the other. To start one takes
10 s on two cores (docs/results.md), more than to train a small model, so it is paid once a lane and
not once a model. There are as many lanes as the cluster has room for.
"""

import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from imgrec.config import ClusterConfig
from imgrec.distributed.events import Failed, Finished, Mailbox, Progress, Started
from imgrec.distributed.session import Node, Session
from imgrec.distributed.worker import Errand, work
from imgrec.errors import ClusterError, TrainingError
from imgrec.training.checkpoint import load_state
from imgrec.training.learner import Best, FitJob, best_of
from imgrec.training.loop import EpochReport

POLL_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Fitted:
    """What the training of one model came to.

    Attributes:
        best: The best epoch, with its weights.
        history: The metrics of every epoch.
        seconds: From its first step's preparation to its last checkpoint.
        restarts: How often workers died and were replaced.
        images_per_second: Median over epochs, of training alone.
        device: `cpu` or `cuda`.
        precision: `bf16` or `fp32`.
    """

    best: Best
    history: list[dict[str, float]]
    seconds: float
    restarts: int
    images_per_second: float
    device: str
    precision: str


Outcome = tuple[str, Fitted | TrainingError]


def fit_on_workers(
    session: Session,
    jobs: Mapping[str, FitJob],
    cluster: ClusterConfig,
    *,
    storage: Path,
    on_event: Callable[[str, Progress], None],
) -> Iterator[Outcome]:
    """Train models, each on cluster.workers workers, as many at a time as the cluster has room for.

    A model whose workers die is taken up again from its last checkpoint. One that fails does not
    stop the others.

    Args:
        session: A Ray that is up.
        jobs: What to train, by name.
        cluster: How many workers, and with what.
        storage: Folder for checkpoints, seen by every node and this call's own: Ray continues what
            it finds there, whatever its settings.
        on_event: Told in this process how each model goes; every epoch once.

    Yields:
        The name and the result of each model as it ends: TrainingError if its loss diverged or
        its workers died more often than max_failures.

    Raises:
        ClusterError: the cluster can never give what is asked for; nothing was started.
        ConfigError: an architecture cannot be built as asked.
    """
    demand = plan_demand(session.nodes, cluster)
    _refuse_small_batches(jobs.values(), cluster.workers)
    names = list(jobs)

    def start(chosen: list[str]) -> _Lane:
        lane = f"lane-{chosen[0]}"
        errand = Errand(
            lane=lane,
            jobs={name: jobs[name] for name in chosen},
            threads=demand.cpus,
            checkpoint_seconds=cluster.checkpoint_seconds,
            results=storage / lane / "results",
            mailbox=session.mailbox,
        )
        return _Lane(errand, _trainer(errand, demand, cluster, storage), on_event)

    lanes = [start(names[first :: demand.room]) for first in range(min(demand.room, len(names)))]
    while lanes:
        for lane in list(lanes):
            lane.thread.join(POLL_SECONDS / len(lanes))
            ended = not lane.thread.is_alive()
            yield from lane.outcomes()
            if ended:
                lanes.remove(lane)
                yield from lane.end()
                shutil.rmtree(storage / lane.errand.lane, ignore_errors=True)
                if lane.waiting:
                    lanes.append(start(lane.waiting))


@dataclass(frozen=True, slots=True)
class Demand:
    """What each worker holds, and how many lanes of workers the cluster has room for."""

    workers: int
    cpus: int
    use_gpu: bool
    room: int


def plan_demand(nodes: Sequence[Node], cluster: ClusterConfig) -> Demand:
    """Resources for every worker, by arithmetic before anything starts.

    A worker runs on one node, so what counts is how many fit into each. With cpus_per_worker = 0 a
    worker gets its share of the cores of a GPU node, or, without GPUs, as many cores as still leave
    every worker a place.

    Raises:
        ClusterError: the cluster can never give what is asked for; Ray would wait for ever.
    """
    workers = cluster.workers
    gpus = sum(node.gpus for node in nodes)
    use_gpu = gpus >= workers if cluster.use_gpu == "auto" else cluster.use_gpu
    if use_gpu and gpus < workers:
        msg = f"cluster.workers = {workers}: needs as many GPUs, and Ray has {gpus}"
        raise ClusterError(msg)

    def places(cpus: int) -> int:
        return sum(
            min(node.cpus // cpus, node.gpus) if use_gpu else node.cpus // cpus for node in nodes
        )

    if cluster.cpus_per_worker:
        cpus = cluster.cpus_per_worker
    elif use_gpu:
        cpus = max(1, min(node.cpus // node.gpus for node in nodes if node.gpus))
    else:
        most = max((node.cpus for node in nodes), default=1)
        cpus = next((cpus for cpus in range(most, 1, -1) if places(cpus) >= workers), 1)
    if places(cpus) < workers:
        have = ", ".join(str(node.cpus) for node in nodes)
        msg = (
            f"cluster.workers = {workers}: needs {workers} times {cpus} cores, each on one node, "
            f"and the nodes of Ray have {have}"
        )
        raise ClusterError(msg)
    return Demand(workers, cpus, use_gpu, places(cpus) // workers)


def _refuse_small_batches(jobs: Iterable[FitJob], workers: int) -> None:
    batch_size = min(job.train.batch_size for job in jobs)
    if batch_size < 2 * workers:
        msg = (
            f"cluster.workers = {workers}: a batch of {batch_size} leaves some with less than "
            f"2 pictures; raise train.batch_size"
        )
        raise ClusterError(msg)


def _trainer(errand: Errand, demand: Demand, cluster: ClusterConfig, storage: Path) -> TorchTrainer:
    return TorchTrainer(
        work,
        train_loop_config={"errand": errand},
        scaling_config=ScalingConfig(
            num_workers=demand.workers,
            use_gpu=demand.use_gpu,
            resources_per_worker={"CPU": demand.cpus},
        ),
        run_config=RunConfig(
            name=errand.lane,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=cluster.max_failures),
            # One checkpoint is enough: each holds the best weights beside the last.
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )


class _Lane:
    """A trainer in a thread of its own, so that the caller can watch, and answer Ctrl-C at once."""

    def __init__(
        self, errand: Errand, trainer: TorchTrainer, on_event: Callable[[str, Progress], None]
    ) -> None:
        self.errand = errand
        self._max_failures = trainer.run_config.failure_config.max_failures
        self.waiting = list(errand.jobs)  # the names that have not ended yet
        self._mailbox: Mailbox = errand.mailbox
        self._on_event = on_event
        self._starts: dict[str, list[Started]] = {name: [] for name in errand.jobs}
        self._epochs_seen: dict[str, int] = dict.fromkeys(errand.jobs, 0)
        self._outcome: Any = None
        self.thread = threading.Thread(
            target=self._fit, args=(trainer,), daemon=True, name=errand.lane
        )
        self.thread.start()

    def _fit(self, trainer: TorchTrainer) -> None:
        try:
            trainer.fit()
        except BaseException as error:
            self._outcome = error

    def outcomes(self) -> Iterator[Outcome]:
        """Pass on what has come from the workers; yield what has ended."""
        for name, event in self._mailbox.read(self.errand.lane):
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

    def end(self) -> Iterator[Outcome]:
        """After the last event: the model that the lane broke off at has failed."""
        if isinstance(self._outcome, ray.train.TrainingFailedError):
            if not self.waiting:
                return  # a worker died after the last model was delivered: nothing is lost
            name = self.waiting.pop(0)
            reason = " ".join(str(self._outcome).split())[:300]
            message = (
                f"workers died more often than cluster.max_failures = {self._max_failures} "
                f"allows; the log file says more ({reason})"
            )
            yield name, TrainingError(message)
        elif self._outcome is not None:
            raise self._outcome

    def _result(self, name: str, event: Finished | Failed) -> Fitted | TrainingError:
        if isinstance(event, Failed):
            if isinstance(event.error, TrainingError):
                return event.error
            raise event.error
        state = load_state(Path(event.folder))
        best = best_of(state)
        assert best is not None
        speeds = sorted(epoch["images_per_second"] for epoch in state["history"])
        starts = self._starts[name]
        return Fitted(
            best=best,
            history=state["history"],
            seconds=event.seconds,
            restarts=len(starts) - 1,
            images_per_second=speeds[len(speeds) // 2],
            device=starts[-1].device,
            precision=starts[-1].precision,
        )
