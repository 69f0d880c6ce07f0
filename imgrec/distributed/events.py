"""What workers tell the driver, and the mailbox that it goes through.

Ray Train has no channel from a worker to the driver: what is reported ends in the controller.
"""

import pickle
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from imgrec.distributed.mailbox_actor import MailboxActor
from imgrec.errors import reason_of
from imgrec.machine import memory_kills
from imgrec.search.study import Trial
from imgrec.training.loop import EpochReport
from imgrec.training.metrics import MONITOR
from imgrec.training.spec import FitSpec

# The keys of an epoch's report to Ray, which goes by the score. Tune flattens the names of metrics,
# which have slashes, so they lie one deeper.
EPOCH, SCORE, METRICS = "epoch", "score", "metrics"


def as_report(epoch: int, metrics: dict[str, float]) -> dict[str, Any]:
    """What Ray is told of an epoch."""
    return {EPOCH: epoch, SCORE: metrics[MONITOR], METRICS: metrics}


@dataclass(frozen=True, slots=True)
class Started:
    """Workers begin with a model, or go on with it after one of them died, or memory ran out.

    Attributes:
        epochs_done: Those of a checkpoint.
        workers: How many there are.
        device: `cpu` or `cuda`.
        precision: `fp32`, `bf16` or `fp16`.
        decoders: Cores that decode pictures for each worker.
        parts: In how many parts, one after the other, a worker computes its share of a batch.
        shortages: How often memory has run out for this model until now.
    """

    epochs_done: int
    workers: int
    device: str
    precision: str
    decoders: int = 0
    parts: int = 1
    shortages: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """How far the epoch is; sent once a second at most."""

    epoch: int
    step: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A model is trained; its best weights and history lie in `folder`."""

    folder: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A model cannot be trained: an ImgrecError, or our bug with its traceback as text."""

    error: Exception


ProgressEvent = Started | Step | EpochReport
WorkerEvent = ProgressEvent | Finished | Failed


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A `MailboxActor` beside the driver; can be sent to workers."""

    actor: ActorHandle

    @classmethod
    def start(cls) -> "Mailbox":
        """Start the actor's process on the driver's node, for others may go; returns before it is up."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return cls(ray.remote(MailboxActor).options(num_cpus=0, scheduling_strategy=here).remote())

    def send(self, lane: str, name: str, event: WorkerEvent) -> ray.ObjectRef:
        """Send an event about the model `name`; it has arrived when the answer can be got."""
        return self.actor.put.remote(lane, pickle.dumps((name, event)))

    def read(self, lane: str) -> list[tuple[str, WorkerEvent]]:
        """All events of a lane since the last call."""
        # Our own workers wrote them, a moment ago.
        return [pickle.loads(message) for message in ray.get(self.actor.drain.remote(lane))]  # noqa: S301

    def abandon(self, lane: str) -> None:
        """Keep Ray from trying a lane, or a model of it, again: it would only fail again."""
        ray.get(self.actor.abandon.remote(lane))

    def note_place(self, lane: str, place: PlacementGroup) -> None:
        """The workers of a lane are started in this part of the cluster."""
        ray.get(self.actor.note_place.remote(lane, pickle.dumps(place)))

    def place(self, lane: str) -> PlacementGroup | None:
        """Where the workers of a lane were started last, if they came so far."""
        place = ray.get(self.actor.place.remote(lane))
        return pickle.loads(place) if place else None  # noqa: S301 - our own worker wrote it

    def begin(self, lane: str, workers: int) -> int:
        """So many workers of a lane start; how often one has died until now."""
        return cast("int", ray.get(self.actor.begin.remote(lane, workers)))

    def starts(self, lane: str) -> int:
        """How often the workers of a lane have begun."""
        return cast("int", ray.get(self.actor.starts.remote(lane)))

    def note_error(self, lane: str, error: BaseException) -> None:
        """A worker ends with an error that may only follow from another worker's end."""
        ray.get(self.actor.note_error.remote(lane, reason_of(error)))

    def why_given_up(self, lane: str, most: int) -> str:
        """Why a lane was abandoned whose workers died more than `most` times, for people."""
        last = ray.get(self.actor.last_error.remote(lane))
        return (
            f"workers died more often than cluster.max_failures = {most} allows; the log file says more"
            f"{f' (the last error: {last})' if last else ''}"
        )

    def excuse(self, lane: str) -> None:
        """The workers are about to end, though none of them died."""
        ray.get(self.actor.excuse.remote(lane))

    def ran_out(self, lane: str, name: str) -> None:
        """Memory ran out while a model was trained."""
        ray.get(self.actor.ran_out.remote(lane, name))

    def note_kills(self, lane: str) -> None:
        """Say how often the system has killed a process of this node for want of memory."""
        node = ray.get_runtime_context().get_node_id()
        ray.get(self.actor.note_kills.remote(lane, node, memory_kills()))

    def times_ran_out(self, lane: str, name: str) -> int:
        """How often memory ran out while a model was trained."""
        return cast("int", ray.get(self.actor.times_ran_out.remote(lane, name)))

    def is_abandoned(self, lane: str) -> bool:
        """Whether the lane was abandoned."""
        return cast("bool", ray.get(self.actor.is_abandoned.remote(lane)))


@dataclass(frozen=True, slots=True)
class TrialStarted:
    """A trial begins, or goes on after its process died."""

    number: int
    settings: dict[str, Any]
    spec: FitSpec


@dataclass(frozen=True, slots=True)
class TrialEpoch:
    """An epoch of a trial; every one once."""

    number: int
    epoch: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class TrialEnded:
    """A trial is over; `best` says whether none of its search was better so far."""

    trial: Trial
    best: bool


SearchEvent = TrialStarted | TrialEpoch | TrialEnded
