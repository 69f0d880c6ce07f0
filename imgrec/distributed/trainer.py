"""Trainers of Ray Train that outlive deaths at which Ray itself gives up.

Ray Train replaces workers that die while they train. It gives up, and keeps their place in the cluster for the
rest of the job, where one dies in the call that starts the training, and where its controller dies (Ray 2.60).
"""

import logging
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
import ray.train
from ray.exceptions import RayActorError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util import remove_placement_group
from ray.util.placement_group import get_current_placement_group

from imgrec.errors import reason_of

if TYPE_CHECKING:
    from imgrec.distributed.worker import LaneSpec

# What stands before it are names and numbers of Ray's own.
HOW = re.compile(r"Worker exit type: .*", re.DOTALL)


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]  # Ray does not say what it is
    """Ray's own, whose workers first import what they need, and say where they are.

    Where a worker dies here, Ray still frees its place.
    """

    def on_start(self, worker_group: Any, backend_config: "LaneConfig") -> None:
        """Ray calls it in the controller, once for each group of workers."""
        worker_group.execute(_arrive, backend_config.place)
        super().on_start(worker_group, backend_config)


@dataclass
class LaneConfig(TorchConfig):  # type: ignore[misc]  # Ray's decorator hides what it is
    """How the workers of a lane start.

    Attributes:
        place: Their lane's name and the mailbox, pickled: the controller need not import what they are.
    """

    place: bytes = b""

    @property
    def backend_cls(self) -> type[_Backend]:
        """What Ray asks for."""
        return _Backend


def _arrive(place: bytes) -> None:
    """In a worker: import what the lane will need, and say where it runs."""
    from imgrec.distributed import worker  # noqa: F401, PLC0415 - it takes seconds, and is wanted here alone

    mailbox, lane = pickle.loads(place)  # noqa: S301 - from our own driver
    mailbox.note_place(lane, get_current_placement_group())


def lane_config(lane_spec: "LaneSpec") -> LaneConfig:
    """How the workers of a lane start."""
    return LaneConfig(place=pickle.dumps((lane_spec.mailbox, lane_spec.lane)))


def train(
    trainer: TorchTrainer, lane_spec: "LaneSpec", is_over: Callable[[], bool] = lambda: False
) -> None:
    """Train, and start again where Ray Train gives up because a process died.

    Args:
        trainer: To be run; started by a `lane_config`.
        lane_spec: What its workers are given; a death is made good max_failures times.
        is_over: Whether Ray goes down: then nothing is started again.

    Raises:
        ray.train.TrainingFailedError: the training failed.
        RayActorError: the controller died too often.
    """
    for left in range(lane_spec.max_failures, -1, -1):
        try:
            trainer.fit()
        except (ray.train.ControllerError, RayActorError) as error:
            if is_over() or not has_died(error):
                raise
            if place := lane_spec.mailbox.place(lane_spec.lane):
                remove_placement_group(place)
            if not left:
                raise
            logging.getLogger(__name__).warning(
                "%s: started again: %s", lane_spec.lane, how_it_ended(error)
            )
        else:
            return


def has_died(error: BaseException) -> bool:
    """Whether a trainer ended because a process of it died, and not by what its workers found."""
    if isinstance(error, ray.train.ControllerError):
        error = error.controller_failure
    return isinstance(error, RayActorError)


def how_it_ended(error: BaseException) -> str:
    """What ended a trainer, in one line; of a process that died, how."""
    found = HOW.search(str(error))
    return reason_of(RuntimeError(found.group())) if found else reason_of(error)
