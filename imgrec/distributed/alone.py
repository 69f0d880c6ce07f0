"""A lane of one worker on this machine: one process, in Ray Train's local mode.

Ray Train starts a controller and four helpers for a lane, each a process, one after the other, and they keep waking
while it trains. What they are for, groups of workers and nodes that come and go, this lane does not have.
"""

import logging

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from imgrec.distributed.demand import Demand
from imgrec.distributed.lone_worker import start_worker
from imgrec.distributed.session import Session
from imgrec.distributed.trainer import how_it_ended
from imgrec.distributed.worker import MOST_EXCUSED, LaneSpec


def train_alone(session: Session, lane_spec: LaneSpec, demand: Demand, worker: ActorHandle) -> None:
    """Train the models of a lane, and go on from their last checkpoints where the worker died.

    The worker itself counts how often one has died while it trained, and gives the lane up.

    Args:
        session: Of this machine's own Ray.
        lane_spec: What to train.
        demand: What a worker holds.
        worker: The first, which is up or comes up.

    Raises:
        RayActorError: workers died while they were started, more often than they may.
        RayTaskError: they ended with errors, more often than is excused.
    """
    never_began = 0
    most = lane_spec.max_failures + MOST_EXCUSED * len(lane_spec.specs)
    for left in range(most, -1, -1):
        begun = lane_spec.mailbox.starts(lane_spec.lane)
        try:
            ray.get(worker.train.remote(lane_spec))
        except (RayActorError, RayTaskError) as error:
            if session.is_over() or not left:
                raise
            logging.getLogger(__name__).warning("%s: %s", lane_spec.lane, how_it_ended(error))
            if lane_spec.mailbox.is_abandoned(lane_spec.lane):
                return
            if isinstance(error, RayActorError):
                lane_spec.mailbox.note_error(lane_spec.lane, RuntimeError(how_it_ended(error)))
            if lane_spec.mailbox.starts(lane_spec.lane) == begun:
                never_began += 1
                if never_began > lane_spec.max_failures:
                    raise
        else:
            return
        finally:
            # Its memory is whole again for the next one, or for the driver, which is going to score.
            if not session.is_over():
                ray.kill(worker)
        worker = start_worker([], demand)
