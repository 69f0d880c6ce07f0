"""The process of a lane of one worker on this machine. Whoever starts it imports neither Ray Train nor what trains."""

import contextlib
import importlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import ray
from ray.actor import ActorHandle

from imgrec.distributed.demand import Asked, Demand, plan_demand
from imgrec.distributed.nodes import list_nodes
from imgrec.errors import ClusterError

if TYPE_CHECKING:
    from imgrec.distributed.worker import LaneSpec
    from imgrec.training.pace import Budget, Chosen
    from imgrec.training.spec import FitSpec

NAME, NAMESPACE = "worker", "imgrec"
IMPORTED = ("imgrec.distributed.worker", "ray.train.torch", "torch._dynamo")
"""What training takes, before it is asked for; the last is torch's compiler, which the first optimizer would import."""


class LoneWorker:
    """A process of Ray's that trains what it is given."""

    def __init__(self) -> None:
        for name in IMPORTED:
            importlib.import_module(name)

    def choose_pace(
        self,
        candidates: "Sequence[FitSpec]",
        budget: "Budget",
        threads: int,
        spare: int,
        *,
        use_gpu: bool,
    ) -> "Chosen":
        """What a time leaves room for (`choose_pace`)."""
        import torch  # noqa: PLC0415 - as above

        from imgrec.data.loader import Shard  # noqa: PLC0415
        from imgrec.distributed.worker import measure_pace  # noqa: PLC0415

        device = torch.device("cuda" if use_gpu else "cpu")
        return measure_pace(candidates, budget, threads, spare, device=device, shard=Shard())

    def train(self, lane_spec: "LaneSpec") -> None:
        """Train the models of a lane, one after the other."""
        from ray.train import ScalingConfig  # noqa: PLC0415 - as above
        from ray.train.torch import TorchTrainer  # noqa: PLC0415

        from imgrec.distributed.worker import work  # noqa: PLC0415

        TorchTrainer(
            work,
            train_loop_config={"lane_spec": lane_spec},
            scaling_config=ScalingConfig(num_workers=0, use_gpu=lane_spec.use_gpu),
        ).fit()


def prepare_worker(asked: Asked) -> ActorHandle | None:
    """Let the first worker come up already, if it is going to be alone; others find it by its name.

    It lives as long as whoever called this keeps what it returns; to free its cores earlier it is killed.

    Not one with a GPU: what is asked of the GPU meanwhile would wait for it. Where the machine can never give what
    is asked for, that is said when it is asked for.

    It holds one core where the settings leave it open on how many it trains (`lanes.share_cores`): others may train beside it.
    """
    with contextlib.suppress(ClusterError):
        demand = plan_demand(list_nodes(), asked)
        if demand.is_one and not demand.use_gpu:
            held = demand if asked.cpus_per_worker else replace(demand, cpus=1)
            return _start(held, name=NAME, namespace=NAMESPACE)
    return None


def prepared_worker() -> list[ActorHandle]:
    """The worker that `prepare_worker` lets come up in this Ray, if there is one."""
    with contextlib.suppress(ValueError):
        return [ray.get_actor(NAME, NAMESPACE)]
    return []


def start_worker(prepared: list[ActorHandle], demand: Demand) -> ActorHandle:
    """The worker that was prepared, or a new one; returns before it is up."""
    try:
        return prepared.pop()
    except IndexError:
        return _start(demand)


def _start(demand: Demand, **name: str) -> ActorHandle:
    worker = ray.remote(LoneWorker).options(
        num_cpus=demand.cpus, num_gpus=int(demand.use_gpu), **name
    )
    return worker.remote()
