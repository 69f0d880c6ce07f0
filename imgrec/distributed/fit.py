"""The training loop on the workers of a Ray cluster, through Ray Train."""

import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.actor import ActorHandle
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device

from imgrec.config import ClusterConfig
from imgrec.data.loader import Shard
from imgrec.distributed.session import Session
from imgrec.errors import ClusterError, ImgrecError, TrainingError
from imgrec.training.checkpoint import load_state
from imgrec.training.learner import Best, FitJob, best_of, build_learner
from imgrec.training.loop import EpochReport, fit

POLL_SECONDS = 0.1
HEARTBEAT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Started:
    """The workers stand ready, for the first time or again after one of them died."""

    epochs_done: int
    workers: int
    device: str
    precision: str


@dataclass(frozen=True, slots=True)
class Step:
    """How far the epoch is; sent every half second at most."""

    epoch: int
    step: int


Event = Started | Step | EpochReport


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a fit came to.

    Attributes:
        best: The best epoch, with its weights.
        history: The metrics of every epoch.
        seconds: From the call to the end, start of the workers included.
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


@dataclass(frozen=True, slots=True)
class _Errand:
    """What travels to every worker."""

    name: str
    job: FitJob
    threads: int
    checkpoint_seconds: float
    mailbox: ActorHandle


def fit_on_workers(
    session: Session,
    jobs: Mapping[str, FitJob],
    cluster: ClusterConfig,
    *,
    storage: Path,
    on_event: Callable[[str, Event], None],
) -> Iterator[tuple[str, Fitted | TrainingError]]:
    """Train models, each on cluster.workers workers, as many at a time as the cluster has room for.

    A model whose workers die is taken up again from its last checkpoint. One that fails does not
    stop the others.

    Args:
        session: A Ray that is up.
        jobs: What to train, by names unique to each job: Ray continues a fit of the same name,
            whatever its settings.
        cluster: How many workers, and with what.
        storage: Folder for checkpoints, seen by every node; what a fit wrote there is removed when
            it ends.
        on_event: Told in this process, by name, how the fits go; every epoch once.

    Yields:
        The name and the result of each fit as it ends: TrainingError if the loss diverged or
        workers died more often than max_failures.

    Raises:
        ClusterError: the cluster can never give what is asked for; nothing was started.
        ConfigError: an architecture cannot be built as asked.
    """
    scaling = _scaling(session, jobs.values(), cluster)
    room = max(1, session.cpus // (scaling.resources_per_worker["CPU"] * cluster.workers))  # type: ignore[index]
    if scaling.use_gpu:
        room = min(room, session.gpus // cluster.workers)
    waiting = dict(jobs)
    running: dict[str, _RunningFit] = {}
    while waiting or running:
        while waiting and len(running) < room:
            name = next(iter(waiting))
            trainer = _trainer(name, waiting.pop(name), session, cluster, scaling, storage)
            running[name] = _RunningFit(name, trainer, session, partial(on_event, name))
        ended = [name for name, fit in running.items() if fit.poll()]
        for name in ended:
            try:
                outcome: Fitted | TrainingError = running.pop(name).result()
            except TrainingError as error:
                outcome = error
            finally:
                shutil.rmtree(storage / name, ignore_errors=True)
            yield name, outcome
        time.sleep(0 if ended else POLL_SECONDS)


def _trainer(
    name: str,
    job: FitJob,
    session: Session,
    cluster: ClusterConfig,
    scaling: ScalingConfig,
    storage: Path,
) -> TorchTrainer:
    threads = int(scaling.resources_per_worker["CPU"])  # type: ignore[index]
    errand = _Errand(name, job, threads, cluster.checkpoint_seconds, session.mailbox)
    return TorchTrainer(
        _train,
        train_loop_config={"errand": errand},
        scaling_config=scaling,
        run_config=RunConfig(
            name=name,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=cluster.max_failures),
            # One checkpoint is enough: each holds the best weights beside the last.
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )


def _scaling(session: Session, jobs: Iterable[FitJob], cluster: ClusterConfig) -> ScalingConfig:
    """Resources for every worker, refused at once if the cluster can never give them."""
    workers = cluster.workers
    use_gpu = session.gpus >= workers if cluster.use_gpu == "auto" else cluster.use_gpu
    if use_gpu and session.gpus < workers:
        msg = f"cluster.workers = {workers}: needs as many GPUs, and Ray has {session.gpus}"
        raise ClusterError(msg)
    cpus = cluster.cpus_per_worker or max(1, session.cpus // workers)
    if cpus * workers > session.cpus:
        msg = (
            f"cluster.workers = {workers}: needs {cpus * workers} cores "
            f"({cpus} each), and Ray has {session.cpus}"
        )
        raise ClusterError(msg)
    batch_size = min(job.train.batch_size for job in jobs)
    if batch_size < 2 * workers:
        msg = (
            f"cluster.workers = {workers}: a batch of {batch_size} leaves some with less than "
            f"2 pictures; raise train.batch_size"
        )
        raise ClusterError(msg)
    return ScalingConfig(
        num_workers=workers, use_gpu=use_gpu, resources_per_worker={"CPU": cpus}
    )


class _RunningFit:
    """A trainer in a thread of its own, so that the caller can watch, and answer Ctrl-C at once."""

    def __init__(
        self,
        name: str,
        trainer: TorchTrainer,
        session: Session,
        on_event: Callable[[Event], None],
    ) -> None:
        self._name = name
        self._mailbox = session.mailbox
        self._on_event = on_event
        self._starts: list[Started] = []
        self._failure: Exception | None = None
        self._epochs_seen = 0
        self._outcome: list[Any] = []
        self._began = time.perf_counter()
        self._thread = threading.Thread(target=self._fit, args=(trainer,), daemon=True, name=name)
        self._thread.start()

    def _fit(self, trainer: TorchTrainer) -> None:
        try:
            self._outcome.append(trainer.fit())
        except BaseException as error:  # noqa: BLE001 - handed over to the thread that waits
            self._outcome.append(error)

    def poll(self) -> bool:
        """Pass on what has come from the workers; True once the fit has ended."""
        ended = not self._thread.is_alive()
        for event in ray.get(self._mailbox.drain.remote(self._name)):
            match event:
                case Exception():
                    self._failure = event
                    continue
                case Started():
                    self._starts.append(event)
                case EpochReport(epoch=epoch) if epoch <= self._epochs_seen:
                    continue  # told before its worker died; it came out the same again
                case EpochReport(epoch=epoch):
                    self._epochs_seen = epoch
            self._on_event(event)
        return ended

    def result(self) -> Fitted:
        """The result of a fit that has ended."""
        if self._failure:
            raise self._failure
        outcome = self._outcome[0]
        if isinstance(outcome, ray.train.TrainingFailedError):
            reason = " ".join(str(outcome).split())[:300]
            msg = (
                f"{self._name}: workers died {len(self._starts)} times, more often than "
                f"cluster.max_failures allows; the log file says more ({reason})"
            )
            raise TrainingError(msg) from outcome
        if isinstance(outcome, BaseException):
            raise outcome
        with outcome.checkpoint.as_directory() as folder:
            state = load_state(Path(folder))
        best = best_of(state)
        assert best is not None
        speeds = sorted(epoch["images_per_second"] for epoch in state["history"])
        return Fitted(
            best=best,
            history=state["history"],
            seconds=time.perf_counter() - self._began,
            restarts=len(self._starts) - 1,
            images_per_second=speeds[len(speeds) // 2],
            device=self._starts[-1].device,
            precision=self._starts[-1].precision,
        )


def _train(config: dict[str, Any]) -> None:
    """What every worker runs."""
    errand: _Errand = config["errand"]
    if ray.get(errand.mailbox.is_condemned.remote(errand.name)):
        return
    try:
        _Worker(errand).run()
    except ImgrecError as error:
        # The same on every worker and at every try, so that all of them can leave in peace.
        ray.get(errand.mailbox.put.remote(errand.name, error))
    except Exception as error:
        # A RuntimeError may be the echo of another worker's death, which Ray makes good. Anything
        # else is our bug, and trying again would only repeat it.
        alone = ray.train.get_context().get_world_size() == 1
        if alone or not isinstance(error, RuntimeError | OSError):
            failure = RuntimeError(f"in a worker:\n{traceback.format_exc()}")
            ray.get(errand.mailbox.put.remote(errand.name, failure))
            ray.get(errand.mailbox.condemn.remote(errand.name))
        raise


class _Worker:
    """One worker's view of the fit: only rank 0 tells the driver and writes checkpoints."""

    def __init__(self, errand: _Errand) -> None:
        context = ray.train.get_context()
        torch.set_num_threads(errand.threads)
        self.errand = errand
        self.shard = Shard(context.get_world_rank(), context.get_world_size())
        self.learner = build_learner(errand.job, get_device(), self.shard)
        self.last_checkpoint = self.last_heartbeat = time.monotonic()

    def run(self) -> None:
        if checkpoint := ray.train.get_checkpoint():
            with checkpoint.as_directory() as folder:
                self.learner.restore(Path(folder))
        self._tell(
            Started(
                epochs_done=self.learner.epochs_done,
                workers=self.shard.world_size,
                device=self.learner.device.type,
                precision=str(self.learner.precision),
            )
        )
        fit(self.learner, on_epoch=self._on_epoch, on_step=self._on_step)

    def _tell(self, event: Event) -> None:
        if self.shard.rank == 0:
            ray.get(self.errand.mailbox.put.remote(self.errand.name, event))

    def _on_step(self, epoch: int, step: int) -> None:
        now = time.monotonic()
        if self.shard.rank == 0 and now - self.last_heartbeat > HEARTBEAT_SECONDS:
            self.last_heartbeat = now
            self.errand.mailbox.put.remote(self.errand.name, Step(epoch, step))

    def _on_epoch(self, report: EpochReport) -> None:
        self._tell(report)
        if not (report.epoch == report.epochs or self._checkpoint_is_due()):
            return
        with tempfile.TemporaryDirectory(prefix="imgrec-checkpoint-") as folder:
            checkpoint = None
            if self.shard.rank == 0:
                self.learner.save(Path(folder))
                checkpoint = Checkpoint.from_directory(folder)
            ray.train.report(report.metrics, checkpoint=checkpoint)
        self.last_checkpoint = time.monotonic()

    def _checkpoint_is_due(self) -> bool:
        """Rank 0's clock decides for all, because all must call `report` equally often."""
        due = time.monotonic() - self.last_checkpoint >= self.errand.checkpoint_seconds
        if self.shard.world_size == 1:
            return due
        decision = torch.tensor([due], dtype=torch.int32, device=self.learner.device)
        dist.broadcast(decision, src=0)
        return bool(decision.item())
