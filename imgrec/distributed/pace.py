"""How fast the workers of a cluster train, measured before they do: by the steps that they are going to take."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.exceptions import RayActorError, RayTaskError
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device

from imgrec.data.loader import Shard
from imgrec.distributed.demand import Demand, spare_cores
from imgrec.distributed.lone_worker import start_worker
from imgrec.distributed.session import Session
from imgrec.distributed.trainer import how_it_ended
from imgrec.distributed.worker import measure_pace
from imgrec.errors import ImgrecError, TrainingError
from imgrec.training.pace import Budget, Chosen
from imgrec.training.spec import FitSpec


def pace_of_workers(
    session: Session,
    demand: Demand,
    candidates: Sequence[FitSpec],
    budget: Budget,
    *,
    storage: Path,
    keep: bool,
) -> Chosen:
    """What a time leaves room for on the workers that are going to train (`choose_pace`).

    Where nodes come and go, as many workers are measured as there are at least.

    Args:
        session: A Ray that is up.
        demand: What the workers hold.
        candidates: The same fit with different networks.
        budget: The time.
        storage: Folder that every node sees.
        keep: Let the worker that was measured train what comes next, where it is one alone; else it goes, for it
            holds cores that trials wait for.

    Raises:
        TrainingError: the workers could not be measured.
    """
    try:
        if session.is_local and demand.is_one:
            return _of_one(session, demand, candidates, budget, keep=keep)
        return _of_group(session, demand, candidates, budget, storage)
    except (RayActorError, RayTaskError, ray.train.TrainingFailedError) as error:
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, ImgrecError):
                raise cause from error
        if not any(isinstance(cause, RayActorError) for cause in causes):
            raise  # a bug of ours
        msg = (
            f"train.budget: how fast the workers are could not be measured ({how_it_ended(causes[0])}); set "
            f"train.epochs instead"
        )
        raise TrainingError(msg) from error


def _of_one(
    session: Session,
    demand: Demand,
    candidates: Sequence[FitSpec],
    budget: Budget,
    *,
    keep: bool,
) -> Chosen:
    worker = start_worker(session.prepared, demand)
    call = worker.choose_pace.remote(
        candidates, budget, demand.cpus, _spare(session, demand), use_gpu=demand.use_gpu
    )
    kept = False
    try:
        chosen: Chosen = ray.get(call)
        kept = keep and not demand.use_gpu  # others ask the GPU something before training begins
    finally:
        # Else it would hold cores that others wait for, as long as anybody knows it.
        if kept:
            session.prepared.append(worker)
        else:
            ray.kill(worker)
    return chosen


def _of_group(
    session: Session,
    demand: Demand,
    candidates: Sequence[FitSpec],
    budget: Budget,
    storage: Path,
) -> Chosen:
    with tempfile.TemporaryDirectory(prefix=".pace-", dir=storage) as folder:
        trainer = TorchTrainer(
            _of_each,
            train_loop_config={
                "candidates": candidates,
                "budget": budget,
                "threads": demand.cpus,
                "spare": _spare(session, demand),
                "use_gpu": demand.use_gpu,
            },
            scaling_config=ScalingConfig(
                num_workers=demand.least,
                use_gpu=demand.use_gpu,
                resources_per_worker={"CPU": demand.cpus},
            ),
            run_config=RunConfig(name="pace", storage_path=folder),
        )
        came: list[Any] = []

        def fit() -> None:
            try:
                came.append(trainer.fit().return_value)
            except BaseException as error:
                came.append(error)

        session.beside(fit, "pace").wait()
    (chosen,) = came
    if isinstance(chosen, BaseException):
        raise chosen
    assert isinstance(chosen, Chosen)
    return chosen


def _of_each(config: dict[str, Any]) -> Chosen:
    """On every worker of a group."""
    context = ray.train.get_context()
    device = get_device() if config["use_gpu"] else torch.device("cpu")
    shard = Shard(context.get_world_rank(), context.get_world_size())
    asked = {name: value for name, value in config.items() if name != "use_gpu"}
    return measure_pace(**asked, device=device, shard=shard)


def _spare(session: Session, demand: Demand) -> int:
    """Cores that decode for each worker, as in a lane that is the only one."""
    return spare_cores(session.nodes, demand) if demand.room == 1 else 0


def _causes(error: BaseException) -> Iterator[BaseException]:
    """What processes have ended with, of the errors that Ray puts around it; of a group that of each worker."""
    if isinstance(error, ray.train.WorkerGroupError):
        for failure in error.worker_failures.values():
            yield from _causes(failure)
    elif isinstance(error, ray.train.ControllerError):
        yield from _causes(error.controller_failure)
    else:
        yield error.cause if isinstance(error, RayTaskError) and error.cause else error
