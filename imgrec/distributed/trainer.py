"""Trainers of Ray Train that outlive deaths at which Ray itself gives up.

Ray Train replaces workers that die while they train. It gives up, and keeps their place in the cluster for the
rest of the job, where one dies in the call that starts the training, and where its controller dies (Ray 2.60).
"""

import importlib
import logging
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
    from imgrec.distributed.events import Mailbox
    from imgrec.distributed.worker import LaneSpec

# What stands before it are names and numbers of Ray's own.
HOW = re.compile(r"Worker exit type: .*", re.DOTALL)


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]  # Ray does not say what it is
    """Ray's own, which notes where the workers are, and lets them import what they need.

    Where a worker dies here, Ray still frees its place.
    """

    def on_start(self, worker_group: Any, backend_config: "LaneConfig") -> None:
        """Ray calls it in the controller, once for each group of workers."""
        assert backend_config.mailbox
        place = worker_group.execute_single(0, get_current_placement_group)
        backend_config.mailbox.note_place(backend_config.lane, place)
        worker_group.execute(_import)
        super().on_start(worker_group, backend_config)


@dataclass
class LaneConfig(TorchConfig):  # type: ignore[misc]  # Ray's decorator hides what it is
    """How the workers of a lane start.

    Attributes:
        mailbox: Where it is noted what their place is.
        lane: Its name.
    """

    mailbox: "Mailbox | None" = None
    lane: str = ""

    @property
    def backend_cls(self) -> type[_Backend]:
        """What Ray asks for."""
        return _Backend


def _import() -> None:
    """In a worker: what its function would import, for seconds."""
    importlib.import_module("imgrec.distributed.worker")


def train(
    trainer: TorchTrainer, lane_spec: "LaneSpec", is_over: Callable[[], bool] = lambda: False
) -> None:
    """Train, and start again where Ray Train gives up because a process died.

    Args:
        trainer: To be run, with a `LaneConfig`.
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
