"""What training and searching hold of a cluster, by arithmetic before anything starts."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from imgrec.distributed.nodes import NodeInfo
from imgrec.errors import ClusterError

if TYPE_CHECKING:
    from imgrec.config import ClusterConfig, SearchConfig
    from imgrec.training.spec import FitSpec


class Asked(Protocol):
    """What `ClusterConfig` says of workers; also for a process that imports no settings."""

    @property
    def least_workers(self) -> int:
        """Without so many nothing starts."""

    @property
    def most_workers(self) -> int:
        """More are never started."""

    @property
    def cpus_per_worker(self) -> int:
        """Cores of each; 0 for a share."""

    @property
    def use_gpu(self) -> bool | Literal["auto"]:
        """Whether each has a GPU."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What each worker holds, and how many lanes of workers the cluster has room for.

    Attributes:
        workers: Of a lane, at most.
        cpus: Cores of each.
        use_gpu: Whether each has a GPU.
        room: Lanes side by side; more where small networks share the cores (`lanes.share_cores`).
        least: Workers of a lane at least; the same as `workers` where nodes do not come and go.
    """

    workers: int
    cpus: int
    use_gpu: bool
    room: int
    least: int

    @property
    def is_fixed(self) -> bool:
        """Whether there are always as many workers."""
        return self.least == self.workers

    @property
    def is_one(self) -> bool:
        """Whether a lane has one worker, for as long as it trains."""
        return self.is_fixed and self.workers == 1


def plan_demand(nodes: Sequence[NodeInfo], cluster: Asked) -> Demand:
    """Resources for every worker, by arithmetic before anything starts.

    A worker runs on one node, so what counts is how many fit into each. With cpus_per_worker = 0 a
    worker gets its share of the cores of a GPU node, or, without GPUs, as many cores as still leave
    every worker a place.

    Raises:
        ClusterError: the cluster can never give what is asked for; Ray would wait for ever.
    """
    least, workers = cluster.least_workers, cluster.most_workers
    gpus = sum(node.gpus for node in nodes)
    use_gpu = gpus >= least if cluster.use_gpu == "auto" else cluster.use_gpu
    if use_gpu and gpus < least:
        msg = f"cluster.workers = {least}: needs as many GPUs, and Ray has {gpus}"
        raise ClusterError(msg)

    def places(cpus: int) -> int:
        return sum(
            min(node.cpus // cpus, node.gpus) if use_gpu else node.cpus // cpus for node in nodes
        )

    if cluster.cpus_per_worker:
        cpus = cluster.cpus_per_worker
    elif use_gpu:
        cpus = max(1, min(node.cpus // node.gpus for node in nodes if node.gpus))
    else:
        most = max((node.cpus for node in nodes), default=1)
        cpus = next((cpus for cpus in range(most, 1, -1) if places(cpus) >= workers), 1)
    if places(cpus) < least:
        have = ", ".join(str(node.cpus) for node in nodes)
        msg = (
            f"cluster.workers = {least}: needs {least} times {cpus} cores, each on one node, "
            f"and the nodes of Ray have {have}"
        )
        raise ClusterError(msg)
    return Demand(workers, cpus, use_gpu, max(1, places(cpus) // workers), least)


def refuse_batches_below(workers: int, specs: "Iterable[FitSpec]") -> None:
    """Raise ClusterError where a batch leaves a worker with less than two pictures."""
    batch_size = min(spec.train.batch_size for spec in specs)
    if batch_size < 2 * workers:
        msg = (
            f"cluster.workers = {workers}: a batch of {batch_size} leaves some with less than "
            f"2 pictures; raise train.batch_size"
        )
        raise ClusterError(msg)


def idle_gpus(
    nodes: Sequence[NodeInfo], cluster: "ClusterConfig", demand: Demand, models: int
) -> int:
    """GPUs that nobody will train on, though the settings have not said so.

    There are fewer models than lanes, each with its number of workers; or fewer GPUs than workers.
    """
    if cluster.use_gpu is False:
        return 0
    trained_on = min(models, demand.room) * demand.workers if demand.use_gpu else 0
    return max(0, sum(node.gpus for node in nodes) - trained_on)


def spare_cores(nodes: Sequence[NodeInfo], demand: Demand) -> int:
    """Cores that no worker of a single lane holds, for each of the workers."""
    held = demand.workers * demand.cpus
    return max(0, sum(node.cpus for node in nodes) - held) // demand.workers


@dataclass(frozen=True, slots=True)
class TrialDemand:
    """What each training process of a trial holds, and how many trials run at a time."""

    workers: int
    cpus: int
    gpus: float
    room: int


def plan_trials(
    nodes: Sequence[NodeInfo], search: "SearchConfig", cluster: "ClusterConfig"
) -> TrialDemand:
    """Resources for trials, by arithmetic before anything starts.

    Raises:
        ClusterError: the cluster can never give what is asked for; Ray would wait for ever.
    """
    workers = search.workers_per_trial
    all_gpus = sum(node.gpus for node in nodes)
    use_gpu = all_gpus > 0 if cluster.use_gpu == "auto" else cluster.use_gpu
    share = search.gpus_per_trial if use_gpu else 0.0
    if use_gpu and workers > 1 and share < 1:
        msg = (
            f"search.gpus_per_trial = {share:g}: workers that train one model together need a "
            f"whole GPU each; set it to 1, or search.workers_per_trial to 1"
        )
        raise ClusterError(msg)
    gpu_places = {node: node.gpus * math.floor(1 / share) if share else 0 for node in nodes}
    if search.cpus_per_trial:
        cpus = search.cpus_per_trial
    elif use_gpu:
        cpus = max(
            1, min((n.cpus // places for n, places in gpu_places.items() if places), default=1)
        )
    else:
        cpus = max(1, min((node.cpus // 4 for node in nodes if node.cpus), default=1))
    places = sum(
        min(node.cpus // cpus, gpu_places[node]) if use_gpu else node.cpus // cpus for node in nodes
    )
    if places < workers:
        have = ", ".join(f"{node.cpus} cores and {node.gpus} GPUs" for node in nodes)
        asked = f"{cpus} cores" + (f" and {share:g} GPU" if use_gpu else "")
        msg = (
            f"search.workers_per_trial = {workers}: a trial needs {workers} times {asked}, each on "
            f"one node, and the nodes of Ray have {have}; that is room for {places}"
        )
        raise ClusterError(msg)
    return TrialDemand(workers, cpus, share, places // workers)
