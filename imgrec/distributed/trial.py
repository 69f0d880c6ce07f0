"""What the process of a trial runs: the training loop, or a trainer with workers of its own."""

import contextlib
import json
import platform
import time
import traceback
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.exceptions import RayActorError
from ray.train import (
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
)
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from imgrec.config import ClusterConfig
from imgrec.data.loader import Shard
from imgrec.distributed.demand import TrialDemand
from imgrec.distributed.events import Failed, Mailbox, as_report
from imgrec.distributed.trainer import LaneConfig, how_it_ended, train
from imgrec.distributed.worker import MOST_EXCUSED, LaneSpec, work
from imgrec.errors import ImgrecError, StorageError, disk_failure
from imgrec.machine import memory_kills
from imgrec.training.checkpoint import latest_state, load_state
from imgrec.training.learner import build_learner
from imgrec.training.loop import EpochReport, fit
from imgrec.training.microbatch import (
    in_more_parts,
    is_out_of_memory,
    out_of_memory,
    release_memory,
)
from imgrec.training.spec import FitSpec

FAILURE = "failure"
"""The key of what a trial reports in place of an epoch, when it cannot go on."""
BUG = "bug"
"""The key of what it reports of an error of ours, with its traceback: it ends the run."""
FULL = "full"
"""The key of what it reports when no trial can go on, for there is no room for checkpoints."""


@dataclass(frozen=True, slots=True)
class TrialSpec:
    """What one trial is to do.

    Attributes:
        name: Such as `digits-cnn-3`.
        spec: What to train.
        folder: For its checkpoints, seen by every node.
        milestones: Epochs after which it may be stopped, and so writes one.
        session: Of the driver that sent it: a trial that another driver began was not killed, but interrupted.
    """

    name: str
    spec: FitSpec
    folder: Path
    milestones: frozenset[int]
    session: str


def run_trial(config: dict[str, Any], threads: int, gpus: float, checkpoint_seconds: float) -> None:
    """Tune's entry for a trial with one training process: the plain loop.

    What another try would only repeat is reported as the trial's failure; Ray makes good what
    kills the process.
    """
    trial_spec: TrialSpec = config["trial_spec"]
    torch.set_num_threads(threads)
    device = torch.device("cuda" if gpus else "cpu")
    if 0 < gpus < 1:  # else the first one takes what the others will need
        torch.cuda.set_per_process_memory_fraction(gpus)
    spec: FitSpec | None = trial_spec.spec
    try:
        if times := _times_killed(trial_spec):
            spec = in_more_parts(trial_spec.spec, 1, times)
        while spec and not _fits_into_memory(trial_spec, spec, device, checkpoint_seconds):
            # Here, where no exception keeps alive what the last try had in memory.
            release_memory()
            spec = in_more_parts(spec, 1)
        if spec is None:
            tune.report({FAILURE: str(out_of_memory(trial_spec.spec, "memory ran out"))})
    except StorageError as error:
        tune.report({FULL: str(error)})
    except ImgrecError as error:
        tune.report({FAILURE: str(error)})
    except Exception as error:
        full = disk_failure(error)
        tune.report({FULL: str(full)} if full else {BUG: traceback.format_exc()})
    finally:
        release_memory()


def _times_killed(trial_spec: TrialSpec) -> int:
    """How often the process of this trial was killed for want of memory, noted beside its checkpoints."""
    note = trial_spec.folder / "memory.json"
    now = {"host": platform.node(), "session": trial_spec.session, "kills": memory_kills()}
    noted: dict[str, Any] = now
    with contextlib.suppress(FileNotFoundError):
        noted = json.loads(note.read_text(encoding="utf-8"))
    begun_here = noted["host"] == now["host"] and noted["session"] == trial_spec.session
    times = noted.get("times", 0) + (begun_here and noted["kills"] < now["kills"])
    trial_spec.folder.mkdir(parents=True, exist_ok=True)
    part = note.with_suffix(".part")
    part.write_text(json.dumps(now | {"times": times}), encoding="utf-8")
    part.replace(note)
    return int(times)


def _fits_into_memory(
    trial_spec: TrialSpec, spec: FitSpec, device: torch.device, checkpoint_seconds: float
) -> bool:
    """Train; False where memory ran out."""
    try:
        _train(trial_spec, spec, device, checkpoint_seconds)
    except Exception as error:
        if is_out_of_memory(error):
            return False
        raise
    return True


def _train(
    trial_spec: TrialSpec, spec: FitSpec, device: torch.device, checkpoint_seconds: float
) -> None:
    learner = build_learner(spec, device, Shard())
    if resumed := latest_state(trial_spec.folder, spec.key):
        learner.restore(resumed)
        for epoch, metrics in enumerate(learner.history, start=1):
            tune.report(as_report(epoch, metrics))
    last_checkpoint = time.monotonic()

    def on_epoch(report: EpochReport) -> None:
        nonlocal last_checkpoint
        due = time.monotonic() - last_checkpoint >= checkpoint_seconds
        if due or report.epoch == report.epochs or report.epoch in trial_spec.milestones:
            # Before the report, which does not return where the trial is stopped.
            learner.save_in(trial_spec.folder)
            last_checkpoint = time.monotonic()
        tune.report(as_report(report.epoch, report.metrics))

    fit(learner, on_epoch=on_epoch)


def run_trial_on_workers(
    config: dict[str, Any], demand: TrialDemand, cluster: ClusterConfig, mailbox: Mailbox
) -> None:
    """Tune's entry for a trial with several training processes: it starts them, and waits.

    Every epoch's report reaches Tune through the callback.
    """
    trial_spec: TrialSpec = config["trial_spec"]
    resumed = latest_state(trial_spec.folder, trial_spec.spec.key)
    if resumed and _report_again(resumed) == trial_spec.spec.train.epochs:
        return
    lane = LaneSpec(
        lane=f"{trial_spec.name}-{uuid.uuid4().hex[:8]}",
        specs={trial_spec.name: trial_spec.spec},
        threads=demand.cpus,
        checkpoint_seconds=cluster.checkpoint_seconds,
        folder=trial_spec.folder / "lane",
        mailbox=mailbox,
        use_gpu=bool(demand.gpus),
        resume={trial_spec.name: resumed} if resumed else {},
        milestones=trial_spec.milestones,
        report_all=True,
        max_failures=cluster.max_failures,
    )
    trainer = TorchTrainer(
        work,
        train_loop_config={"lane_spec": lane},
        torch_config=LaneConfig(mailbox=mailbox, lane=lane.lane),
        scaling_config=ScalingConfig(
            num_workers=demand.workers,
            use_gpu=bool(demand.gpus),
            resources_per_worker={"CPU": demand.cpus},
        ),
        run_config=RunConfig(
            name=lane.lane,
            storage_path=str(trial_spec.folder),
            failure_config=FailureConfig(max_failures=cluster.max_failures + MOST_EXCUSED),
            callbacks=[TuneReportCallback()],
        ),
    )
    failure = ""
    try:
        train(trainer, lane)
    except (TrainingFailedError, RayActorError) as error:
        failure = how_it_ended(error)
    kind = FAILURE
    for _, event in mailbox.read(lane.lane):
        if isinstance(event, Failed):
            failure = str(event.error)
            kind = FULL if isinstance(event.error, StorageError) else FAILURE
            if not isinstance(event.error, ImgrecError):
                kind = BUG
    if not failure and mailbox.is_abandoned(lane.lane):
        failure = mailbox.why_given_up(lane.lane, cluster.max_failures)
    if failure:
        tune.report({kind: failure})
    elif mailbox.starts(lane.lane) > 1:
        # A worker may have died between the checkpoint of an epoch and its report.
        last = latest_state(trial_spec.folder, trial_spec.spec.key)
        assert last
        _report_again(last)


def _report_again(state: Path) -> int:
    """Report every epoch of a state, which the driver takes once; how many there are."""
    history = load_state(state)["history"]
    for epoch, metrics in enumerate(history, start=1):
        tune.report(as_report(epoch, metrics))
    return len(history)
