"""What every worker of a lane runs: the training loop, for one model after the other."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import get_device

from imgrec.data.loader import Shard
from imgrec.distributed.events import (
    Failed,
    Finished,
    Mailbox,
    Started,
    Step,
    WorkerEvent,
    as_report,
)
from imgrec.distributed.stream import StreamedPictures, pictures_for
from imgrec.distributed.verdict import carry_out, judge
from imgrec.errors import DivergedError
from imgrec.training.answers import write_answers
from imgrec.training.checkpoint import latest_state, save_state
from imgrec.training.learner import Learner, build_learner
from imgrec.training.loop import EpochReport, fit
from imgrec.training.microbatch import in_more_parts, out_of_memory, release_memory
from imgrec.training.pace import Budget, Chosen, choose_pace
from imgrec.training.profiling import StepProfile
from imgrec.training.spec import FitSpec

HEARTBEAT_SECONDS = 1.0
# What rank 0 decides for all at the end of an epoch.
GO_ON, LOOK_FOR_DRAINS, WRITE = 0, 1, 2
RESULT, ANSWER_SECONDS = "result", "answer_seconds"
PROFILE = "profile"
MOST_EXCUSED = 8
"""Times that the workers of a model are started again for want of memory, or for what one of them found."""


@dataclass(frozen=True, slots=True)
class LaneSpec:
    """What travels to every worker of a lane.

    Attributes:
        lane: Its name, which is also that of Ray's run.
        specs: What to train, by name, in this order.
        threads: Cores of each worker.
        checkpoint_seconds: Least time between two checkpoints.
        folder: For the checkpoints and the results of models, seen by every node.
        mailbox: To the driver.
        resume: Checkpoints of earlier runs to go on from, by name.
        use_gpu: Whether each worker has a GPU.
        milestones: Epochs after which to write a checkpoint in any case.
        report_all: Report every epoch to Ray, for whoever may stop the lane.
        profile: Leave a trace of some steps beside the result.
        spare: Cores of the cluster that no worker holds, for each worker.
        max_failures: How often workers may die.
        answers: Whether models are to be scored and registered, so that what they say of the pictures that judge them
            is wanted (`write_answers`).
    """

    lane: str
    specs: dict[str, FitSpec]
    threads: int
    checkpoint_seconds: float
    folder: Path
    mailbox: Mailbox
    resume: dict[str, Path] = field(default_factory=dict)
    use_gpu: bool = False
    milestones: frozenset[int] = frozenset()
    report_all: bool = False
    profile: bool = False
    spare: int = 0
    max_failures: int = 0
    answers: bool = False


def work(config: dict[str, Any]) -> None:
    """Ray Train's entry: the lane_spec is the one entry of config.

    Ray starts all workers again where one ends with an error. What one of them finds, all learn from the
    mailbox: none waits for another in a reduction, and nothing is tried that would only fail again.
    """
    lane_spec: LaneSpec = config["lane_spec"]
    mailbox, lane = lane_spec.mailbox, lane_spec.lane
    if mailbox.is_abandoned(lane):
        return
    context = ray.train.get_context()
    shard = Shard(context.get_world_rank(), context.get_world_size())
    torch.set_num_threads(lane_spec.threads)
    if not _may_begin(lane_spec, shard):
        return
    for name in lane_spec.specs:
        if mailbox.is_abandoned(f"{lane}/{name}"):
            continue
        _train(lane_spec, name, shard)
        release_memory()  # here, where nothing refers to the model: the next one may need all there is


def measure_pace(
    candidates: Sequence[FitSpec],
    budget: Budget,
    threads: int,
    spare: int,
    *,
    device: torch.device,
    shard: Shard,
) -> Chosen:
    """On a worker, and on all others at the same time: what a time leaves room for (`choose_pace`)."""
    torch.set_num_threads(threads)
    return choose_pace(candidates, budget, device, shard, partial(pictures_for, spare=spare))


def _train(lane_spec: LaneSpec, name: str, shard: Shard) -> None:
    """Train one of the models, or tell why there is none."""
    mailbox, lane = lane_spec.mailbox, lane_spec.lane
    worker = _Worker(lane_spec, name, shard)
    try:
        worker.run()
    except DivergedError as error:
        # The loss was reduced: all workers are here, and go on to the next together.
        worker.tell(Failed(error))
        worker.wait_until_told()
        if shard.rank == 0:
            mailbox.abandon(f"{lane}/{name}")
    except Exception as error:
        verdict = judge(error, lane, name, alone=shard.world_size == 1)
        carry_out(verdict, mailbox, lane, name)
        if not verdict.goes_on:
            raise


def _may_begin(lane_spec: LaneSpec, shard: Shard) -> bool:
    """Whether workers may start once more; the driver says what became of the models if not."""
    mailbox, lane = lane_spec.mailbox, lane_spec.lane
    mailbox.note_kills(lane)
    _wait_for_all(shard)
    if shard.rank == 0 and mailbox.begin(lane, shard.world_size) > lane_spec.max_failures:
        mailbox.abandon(lane)
    _wait_for_all(shard)
    return not mailbox.is_abandoned(lane)


def _wait_for_all(shard: Shard) -> None:
    """Wait for all workers."""
    if shard.world_size > 1:
        dist.barrier()


class _Worker:
    """One worker's view of one model; only rank 0 tells the driver and writes files."""

    def __init__(self, lane_spec: LaneSpec, name: str, shard: Shard) -> None:
        self.lane_spec = lane_spec
        self.name = name
        self.shard = shard
        self.learner: Learner | None = None
        self.folder = lane_spec.folder / name
        self.result = self.folder / RESULT
        self.device = get_device() if lane_spec.use_gpu else torch.device("cpu")
        self.last_sent: ray.ObjectRef | None = None
        self.profile: StepProfile | None = None
        self.drained: frozenset[str] = frozenset()
        self.last_checkpoint = self.last_heartbeat = self.last_look = time.monotonic()

    def tell(self, event: WorkerEvent) -> None:
        """Send an event to the driver, if this is the worker that speaks."""
        if self.shard.rank == 0:
            self.last_sent = self.lane_spec.mailbox.send(self.lane_spec.lane, self.name, event)

    def wait_until_told(self) -> None:
        """Make sure that the driver will hear of everything until now, should this worker die."""
        if self.last_sent:
            ray.get(self.last_sent)  # they arrive in the order in which they were sent

    def run(self) -> None:
        """Train the model to its last epoch, from a checkpoint or afresh; nothing, where workers before have done it."""
        checkpoint = self._last_state()
        if checkpoint == self.result:
            return
        shortages = self.lane_spec.mailbox.times_ran_out(self.lane_spec.lane, self.name)
        spec = self._in_parts(self.lane_spec.specs[self.name], shortages)
        learner = build_learner(spec, self.device, self.shard)
        if checkpoint:
            learner.restore(checkpoint)
        self.learner = learner
        pictures = pictures_for(learner.store, learner.device, spare=self.lane_spec.spare)
        self.tell(
            Started(
                epochs_done=learner.epochs_done,
                workers=self.shard.world_size,
                device=learner.device.type,
                precision=str(learner.precision),
                decoders=self.lane_spec.spare if isinstance(pictures, StreamedPictures) else 0,
                parts=spec.parts(self.shard.world_size),
                shortages=shortages,
            )
        )
        with self._profiled():
            fit(learner, on_epoch=self._on_epoch, on_step=self._on_step, pictures=pictures)
        began = time.monotonic()
        if self.lane_spec.answers:
            write_answers(learner, pictures, self.result)
        if self.shard.rank == 0:
            spent = {ANSWER_SECONDS: time.monotonic() - began}
            save_state(self.result, learner.result() | spent)
            self.tell(Finished(str(self.result)))
            self.wait_until_told()

    def _last_state(self) -> Path | None:
        """What workers before have left of the model, or an earlier run; the same on all workers."""
        state = None
        if self.shard.rank == 0:
            spec = self.lane_spec.specs[self.name]
            state = latest_state(self.folder, spec.key) or self.lane_spec.resume.get(self.name)
            if state == self.result:  # the worker may have died before it could say so
                self.tell(Finished(str(state)))
                self.wait_until_told()
        # Another node may see a new file of a shared folder only later, but it opens one whose name it is told.
        return broadcast_from_rank_zero(state)

    def _in_parts(self, spec: FitSpec, times: int) -> FitSpec:
        """The spec with a batch in as many parts as fit, after memory ran out so often; the same on all workers.

        Raises:
            TrainingError: not even the smallest parts fit; on all workers.
        """
        if not times:
            return spec
        smaller = in_more_parts(spec, self.shard.world_size, times)
        if smaller is None:
            raise out_of_memory(spec, f"memory ran out {times} times")
        return smaller

    @contextlib.contextmanager
    def _profiled(self) -> Iterator[None]:
        if not (self.lane_spec.profile and self.shard.rank == 0):
            yield
            return
        with StepProfile(self.result / PROFILE, self.device) as self.profile:
            yield

    def _on_step(self, epoch: int, step: int) -> None:
        if self.profile:
            self.profile.step()
        now = time.monotonic()
        if now - self.last_heartbeat > HEARTBEAT_SECONDS:
            self.last_heartbeat = now
            self.tell(Step(epoch, step))

    def _on_epoch(self, report: EpochReport) -> None:
        self.tell(report)
        if report.epoch in self.lane_spec.milestones or self._checkpoint_is_due():
            # What lies before a checkpoint is never told again.
            self.wait_until_told()
            if self.shard.rank == 0:
                assert self.learner is not None
                self.learner.save_in(self.folder)
            self.last_checkpoint = time.monotonic()
        if self.lane_spec.report_all:
            ray.train.report(as_report(report.epoch, report.metrics))

    def _checkpoint_is_due(self) -> bool:
        """Rank 0's clock decides for all: each has told the driver everything when rank 0 writes."""
        now = time.monotonic()
        wish = GO_ON
        if now - self.last_checkpoint >= self.lane_spec.checkpoint_seconds:
            wish = WRITE
        elif now - self.last_look > HEARTBEAT_SECONDS:
            wish, self.last_look = LOOK_FOR_DRAINS, now
        if self.shard.world_size > 1:
            decision = torch.tensor([wish], dtype=torch.int32, device=self.device)
            dist.broadcast(decision, src=0)
            wish = int(decision.item())
        return wish == WRITE or (wish == LOOK_FOR_DRAINS and self._more_nodes_go())

    def _more_nodes_go(self) -> bool:
        """Whether a node of this group is to be taken away, of which nothing was known before."""
        drains = ray.train.get_preemption_info()
        known = self.drained
        self.drained = frozenset(drains.preempted_node_ids if drains else ())
        return bool(self.drained - known)
