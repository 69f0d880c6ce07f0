"""A lane of one worker on this machine: one process, in Ray Train's local mode.

Ray Train starts a controller and four helpers for a lane, each a process, one after the other, and they keep waking
while it trains. What they are for, groups of workers and nodes that come and go, this lane does not have.
"""

import contextlib
import importlib
import logging
from collections.abc import Sequence
from functools import partial

import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

from imgrec.config import ClusterConfig
from imgrec.data.loader import Shard
from imgrec.distributed.demand import Demand, plan_demand
from imgrec.distributed.session import Session
from imgrec.distributed.stream import pictures_for
from imgrec.distributed.trainer import how_it_ended
from imgrec.distributed.worker import MOST_EXCUSED, LaneSpec, work
from imgrec.errors import ClusterError
from imgrec.training.pace import Budget, Chosen, choose_pace
from imgrec.training.spec import FitSpec


class LoneWorker:
    """A process of Ray's that trains what it is given; unpacking the class imports all that it takes."""

    def __init__(self) -> None:
        # torch would import its compiler with the first optimizer, a second later than now.
        importlib.import_module("torch._dynamo")

    def choose_pace(
        self,
        candidates: Sequence[FitSpec],
        budget: Budget,
        threads: int,
        spare: int,
        *,
        use_gpu: bool,
    ) -> Chosen:
        """What a time leaves room for (`choose_pace`)."""
        torch.set_num_threads(threads)
        device = torch.device("cuda" if use_gpu else "cpu")
        return choose_pace(candidates, budget, device, Shard(), partial(pictures_for, spare=spare))

    def train(self, lane_spec: LaneSpec) -> None:
        """Train the models of a lane, one after the other."""
        TorchTrainer(
            work,
            train_loop_config={"lane_spec": lane_spec},
            scaling_config=ScalingConfig(num_workers=0, use_gpu=lane_spec.use_gpu),
        ).fit()


def is_alone(session: Session, demand: Demand) -> bool:
    """Whether a lane has one worker, on this machine, for as long as it trains."""
    return session.is_local and demand.is_fixed and demand.workers == 1


def prepare_worker(session: Session, cluster: ClusterConfig) -> None:
    """Let the first worker come up already, if it is going to be alone.

    Not one with a GPU: what is asked of the GPU meanwhile would wait for it. Where the machine can never give what
    is asked for, that is said when it is asked for.
    """
    with contextlib.suppress(ClusterError):
        demand = plan_demand(session.nodes, cluster)
        if is_alone(session, demand) and not demand.use_gpu:
            session.prepared.append(_start(demand))


def start_worker(session: Session, demand: Demand) -> ActorHandle:
    """The worker that was prepared, or a new one; returns before it is up."""
    try:
        return session.prepared.pop()
    except IndexError:
        return _start(demand)


def _start(demand: Demand) -> ActorHandle:
    worker = ray.remote(LoneWorker).options(num_cpus=demand.cpus, num_gpus=int(demand.use_gpu))
    return worker.remote()


def train_alone(session: Session, lane_spec: LaneSpec, demand: Demand) -> None:
    """Train the models of a lane, and go on from their last checkpoints where the worker died.

    The worker itself counts how often one has died while it trained, and gives the lane up.

    Args:
        session: Of this machine's own Ray.
        lane_spec: What to train.
        demand: What the worker holds.

    Raises:
        RayActorError: workers died while they were started, more often than they may.
        RayTaskError: they ended with errors, more often than is excused.
    """
    never_began = 0
    most = lane_spec.max_failures + MOST_EXCUSED * len(lane_spec.specs)
    for left in range(most, -1, -1):
        begun = lane_spec.mailbox.starts(lane_spec.lane)
        worker = start_worker(session, demand)
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
