"""What the nodes of a cluster are like, asked by a task on each of them."""

import platform
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from imgrec.cache import cache_folder
from imgrec.errors import ClusterError, StorageError, reason_of
from imgrec.machine import SHARED_MEMORY, processor_kind
from imgrec.version import code_version

T = TypeVar("T")
PACKAGES = ("ray", "torch", "numpy", "pillow", "simplejpeg")
"""Whose versions must not differ: they decide what is computed, or how processes speak."""
ANSWER_SECONDS = 120
CONNECT_SECONDS = 3
GONE_SECONDS, POLL_SECONDS = 10.0, 0.2
SHARE_OF_A_GPU = 0.01


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node of the cluster.

    Attributes:
        id: Ray's own.
        address: Its IP address.
        cpus: What Ray counts.
        gpus: What Ray counts.
    """

    id: str
    address: str
    cpus: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Survey:
    """What a node says of itself.

    Attributes:
        versions: Of Python, of imgrec's code and of PACKAGES.
        gpus: GPUs that its driver shows, whatever Ray counts.
        shared_memory: Free bytes of /dev/shm, None where there is no such thing.
        disk: Free bytes where Ray keeps what does not fit into memory, or where copies of pictures
            lie, whichever has less.
        cache: Why copies of pictures cannot be kept there; empty if they can.
        skew: Seconds by which its clock is ahead of the driver's.
        storage_error: Why it does not see the storage; empty if it does.
    """

    node: NodeInfo
    versions: dict[str, str]
    gpus: int
    shared_memory: int | None
    disk: int
    cache: str
    skew: float
    storage_error: str


def list_nodes() -> list[NodeInfo]:
    """The nodes that are alive, by address."""
    nodes = [
        NodeInfo(
            id=node["NodeID"],
            address=node["NodeManagerAddress"],
            cpus=int(node["Resources"].get("CPU", 0)),
            gpus=int(node["Resources"].get("GPU", 0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(nodes, key=lambda node: (node.address, node.id))


def survey(storage: Path) -> list[Survey]:
    """Ask every node.

    Args:
        storage: A folder that all are to see; made if need be.

    Raises:
        ClusterError: a node does not answer, or the storage cannot be written to from here.
    """
    with _probe_folder(storage) as probe_folder:
        asked = time.time()
        answers = _on_each(list_nodes(), _describe, str(probe_folder))
        return [
            Survey(
                node=node,
                skew=_skew(asked, answer.pop("clock"), time.time()),
                storage_error=answer.pop("storage_error") or _unseen(probe_folder, node),
                **answer,
            )
            for node, answer in answers
        ]


def refuse_unshared(storage: Path) -> None:
    """Raise ClusterError where a node does not see what another writes into the storage."""
    with _probe_folder(storage) as probe_folder:
        for node, storage_error in _on_each(list_nodes(), _write_and_look, str(probe_folder)):
            if reason := storage_error or _unseen(probe_folder, node):
                msg = (
                    f"storage = {str(storage)!r}: the node {node.address} does not see it "
                    f"({reason}); set a folder that every node sees under the same path"
                )
                raise ClusterError(msg)


def device_kinds(*, use_gpu: bool) -> list[str]:
    """The kinds of processors or GPUs of the nodes that will train, as `choose_arithmetic` takes them.

    Raises:
        ClusterError: a node does not answer.
    """
    training = [node for node in list_nodes() if (node.gpus if use_gpu else node.cpus)]
    if use_gpu:  # without a share of a GPU a process sees none
        answers = _on_each(training, _kind_of_device, "", num_gpus=SHARE_OF_A_GPU)
        return sorted({kind for _, kind in answers})
    # What this node has needs no task, which on one machine would be the start of a process.
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in training if node.id != here]
    kinds = {kind for _, kind in _on_each(others, _kind_of_device, "")}
    return sorted(kinds | ({processor_kind()} if len(others) < len(training) else set()))


def _kind_of_device(_asked: str, _node: str) -> str:
    if not ray.get_gpu_ids():
        return processor_kind()
    import torch  # noqa: PLC0415 - seconds, on nodes that have GPUs

    from imgrec.training.precision import device_kind  # noqa: PLC0415

    return device_kind(torch.device("cuda"))


def closed_between(nodes: Sequence[NodeInfo]) -> list[tuple[str, str, str]]:
    """Pairs of addresses that cannot connect, and why: workers talk to each other on any port."""
    probes = [ray.remote(_PortProbe).options(**at(node)).remote() for node in nodes]
    try:
        ports = ray.get([probe.open.remote() for probe in probes], timeout=ANSWER_SECONDS)
        targets = [(node.address, port) for node, port in zip(nodes, ports, strict=True)]
        closed_ports = ray.get(
            [probe.knock.remote(targets) for probe in probes], timeout=ANSWER_SECONDS
        )
    except ray.exceptions.RayError as error:
        msg = f"a node does not answer: {reason_of(error)}"
        raise ClusterError(msg) from error
    finally:
        for probe in probes:
            ray.kill(probe)
    return [
        (node.address, address, reason)
        for node, closed in zip(nodes, closed_ports, strict=True)
        for address, reason in closed
    ]


def _on_each(
    nodes: Sequence[NodeInfo], work: Callable[..., T], asked: str, **holding: float
) -> list[tuple[NodeInfo, T]]:
    """On each node `work(asked, node)`, which holds so many resources; a node that has gone meanwhile is left out.

    Raises:
        ClusterError: a node that is there does not answer.
    """
    task = ray.remote(work)
    answers = [task.options(**at(node), **holding).remote(asked, node.id) for node in nodes]
    by_node = []
    for node, answer in zip(nodes, answers, strict=True):
        try:
            by_node.append((node, ray.get(answer, timeout=ANSWER_SECONDS)))
        except ray.exceptions.RayError as error:
            if _has_gone(node):
                continue
            msg = f"the node {node.address} does not answer: {reason_of(error)}"
            raise ClusterError(msg) from error
    return by_node


def _has_gone(node: NodeInfo) -> bool:
    """Whether Ray counts a node out: a moment after its tasks have failed, it may still say that it is alive."""
    deadline = time.monotonic() + GONE_SECONDS
    while any(one.id == node.id for one in list_nodes()):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def at(node: NodeInfo) -> dict[str, Any]:
    """Options of a task or actor that runs there, without holding anything."""
    strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return {"scheduling_strategy": strategy, "num_cpus": 0}


@contextmanager
def _probe_folder(storage: Path) -> Iterator[Path]:
    """A folder in the storage that holds a file of the driver's."""
    folder = storage / f".probe-{uuid.uuid4().hex[:12]}"
    try:
        folder.mkdir(parents=True)
        (folder / "driver").write_text("here", encoding="utf-8")
    except OSError as error:
        msg = f"storage = {str(storage)!r}: cannot be written to ({error.strerror})"
        raise ClusterError(msg) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_and_look(probe_folder: str, node: str) -> str:
    """On a node: read what the driver wrote, write something for it. Returns what goes wrong."""
    folder = Path(probe_folder)
    try:
        (folder / "driver").read_text(encoding="utf-8")
        (folder / node).write_text("here", encoding="utf-8")
    except OSError as error:
        return str(error.strerror)
    return ""


def _unseen(probe_folder: Path, node: NodeInfo) -> str:
    return "" if (probe_folder / node.id).exists() else "what it writes is not seen here"


def _describe(probe_folder: str, node: str) -> dict[str, Any]:
    """On a node: everything about it."""
    began = time.time()
    memory = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.exists() else None
    versions = {name: metadata.version(name) for name in PACKAGES}
    return {
        "versions": {"python": platform.python_version(), "imgrec": code_version(), **versions},
        "gpus": _gpus(),
        "shared_memory": memory,
        **_disks(),
        "storage_error": _write_and_look(probe_folder, node),
        "clock": (began, time.time()),
    }


def _disks() -> dict[str, Any]:
    places = [Path("/tmp")]  # noqa: S108 - where Ray spills to
    refused = ""
    try:
        places.append(cache_folder())
    except StorageError as error:
        refused = str(error)
    return {"disk": min(shutil.disk_usage(place).free for place in places), "cache": refused}


def _gpus() -> int:
    """GPUs of this machine; a task without GPU would see none through torch."""
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


def _skew(asked: float, clock: tuple[float, float], heard: float) -> float:
    """By how much another clock must be ahead, at least; between asking and hearing is unknown."""
    began, ended = clock
    if ended > heard:
        return ended - heard
    return min(0.0, began - asked)


class _PortProbe:
    """A port on a node that others may knock at."""

    def open(self) -> int:
        """Listen on any free port."""
        self._socket = socket.create_server(("", 0), backlog=64)
        return int(self._socket.getsockname()[1])

    def knock(self, targets: Sequence[tuple[str, int]]) -> list[tuple[str, str]]:
        """Which of these do not open, and why."""
        closed = []
        for address, port in targets:
            try:
                socket.create_connection((address, port), timeout=CONNECT_SECONDS).close()
            except OSError as error:
                closed.append((address, str(error)))
        return closed
