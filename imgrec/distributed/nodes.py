"""What the machines of a cluster are like, asked by a task on each of them."""

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

from imgrec.data.images import cache_folder
from imgrec.errors import ClusterError, StorageError, reason_of
from imgrec.machine import processor_kind
from imgrec.version import code_version

T = TypeVar("T")
PACKAGES = ("ray", "torch", "numpy", "pillow", "simplejpeg")
"""Whose versions must not differ: they decide what is computed, or how processes speak."""
ANSWER_SECONDS = 120
CONNECT_SECONDS = 3
SHARE_OF_A_CARD = 0.01
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, not written to


@dataclass(frozen=True, slots=True)
class Machine:
    """A node of the cluster.

    Attributes:
        node: Ray's id of it.
        address: Its IP address.
        cpus: What Ray counts.
        gpus: What Ray counts.
    """

    node: str
    address: str
    cpus: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Survey:
    """What a machine says of itself.

    Attributes:
        versions: Of Python, of imgrec's code and of PACKAGES.
        cards: GPUs that its driver shows, whatever Ray counts.
        shared_memory: Free bytes of /dev/shm, None where there is no such thing.
        disk: Free bytes where Ray keeps what does not fit into memory, or where copies of pictures
            lie, whichever has less.
        cache: Why copies of pictures cannot be kept there; empty if they can.
        skew: Seconds by which its clock is ahead of the driver's.
        blind: Why it does not see the storage; empty if it does.
    """

    machine: Machine
    versions: dict[str, str]
    cards: int
    shared_memory: int | None
    disk: int
    cache: str
    skew: float
    blind: str


def machines() -> list[Machine]:
    """The nodes that are alive, by address."""
    found = [
        Machine(
            node=node["NodeID"],
            address=node["NodeManagerAddress"],
            cpus=int(node["Resources"].get("CPU", 0)),
            gpus=int(node["Resources"].get("GPU", 0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(found, key=lambda machine: (machine.address, machine.node))


def survey(storage: Path) -> list[Survey]:
    """Ask every machine.

    Args:
        storage: A folder that all are to see; made if need be.

    Raises:
        ClusterError: a machine does not answer, or the storage cannot be written to from here.
    """
    with _meeting(storage) as meeting:
        asked = time.time()
        answers = _on_each(machines(), _describe, str(meeting))
        return [
            Survey(
                machine=machine,
                skew=_skew(asked, answer.pop("clock"), time.time()),
                blind=answer.pop("blind") or _absence(meeting, machine),
                **answer,
            )
            for machine, answer in answers
        ]


def refuse_unshared(storage: Path) -> None:
    """Raise ClusterError where a node does not see what another writes into the storage."""
    with _meeting(storage) as meeting:
        for machine, blind in _on_each(machines(), _meet, str(meeting)):
            if reason := blind or _absence(meeting, machine):
                msg = (
                    f"storage = {str(storage)!r}: the node {machine.address} does not see it "
                    f"({reason}); set a folder that every node sees under the same path"
                )
                raise ClusterError(msg)


def device_kinds(*, use_gpu: bool) -> list[str]:
    """The kinds of processors or cards of the nodes that will train, as `choose_arithmetic` takes them.

    Raises:
        ClusterError: a node does not answer.
    """
    training = [node for node in machines() if (node.gpus if use_gpu else node.cpus)]
    # Without a share of a card a process sees none.
    share = {"num_gpus": SHARE_OF_A_CARD} if use_gpu else {}
    return sorted({kind for _, kind in _on_each(training, _kind_of_device, "", **share)})


def _kind_of_device(_asked: str, _node: str) -> str:
    if not ray.get_gpu_ids():
        return processor_kind()
    import torch  # noqa: PLC0415 - seconds, on nodes that have cards

    from imgrec.training.precision import device_kind  # noqa: PLC0415

    return device_kind(torch.device("cuda"))


def closed_between(nodes: Sequence[Machine]) -> list[tuple[str, str, str]]:
    """Pairs of addresses that cannot connect, and why: workers talk to each other on any port."""
    doors = [ray.remote(_Door).options(**at(machine)).remote() for machine in nodes]
    try:
        ports = ray.get([door.open.remote() for door in doors], timeout=ANSWER_SECONDS)
        targets = [(machine.address, port) for machine, port in zip(nodes, ports, strict=True)]
        found = ray.get([door.knock.remote(targets) for door in doors], timeout=ANSWER_SECONDS)
    except ray.exceptions.RayError as error:
        msg = f"a node does not answer: {reason_of(error)}"
        raise ClusterError(msg) from error
    finally:
        for door in doors:
            ray.kill(door)
    return [
        (machine.address, address, reason)
        for machine, closed in zip(nodes, found, strict=True)
        for address, reason in closed
    ]


def _on_each(
    nodes: Sequence[Machine], work: Callable[..., T], asked: str, **holding: float
) -> list[tuple[Machine, T]]:
    """On each node `work(asked, node)`, which holds so many resources."""
    task = ray.remote(work)
    answers = [
        task.options(**at(machine), **holding).remote(asked, machine.node) for machine in nodes
    ]
    found = []
    for machine, answer in zip(nodes, answers, strict=True):
        try:
            found.append((machine, ray.get(answer, timeout=ANSWER_SECONDS)))
        except ray.exceptions.RayError as error:
            msg = f"the node {machine.address} does not answer: {reason_of(error)}"
            raise ClusterError(msg) from error
    return found


def at(machine: Machine) -> dict[str, Any]:
    """Options of a task or actor that runs there, without holding anything."""
    strategy = NodeAffinitySchedulingStrategy(machine.node, soft=False)
    return {"scheduling_strategy": strategy, "num_cpus": 0}


@contextmanager
def _meeting(storage: Path) -> Iterator[Path]:
    """A folder in the storage that holds a file of the driver's."""
    folder = storage / f".meeting-{uuid.uuid4().hex[:12]}"
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


def _meet(meeting: str, node: str) -> str:
    """On a node: read what the driver wrote, write something for it. Returns what goes wrong."""
    folder = Path(meeting)
    try:
        (folder / "driver").read_text(encoding="utf-8")
        (folder / node).write_text("here", encoding="utf-8")
    except OSError as error:
        return str(error.strerror)
    return ""


def _absence(meeting: Path, machine: Machine) -> str:
    return "" if (meeting / machine.node).exists() else "what it writes is not seen here"


def _describe(meeting: str, node: str) -> dict[str, Any]:
    """On a node: everything about it."""
    began = time.time()
    memory = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.exists() else None
    versions = {name: metadata.version(name) for name in PACKAGES}
    return {
        "versions": {"python": platform.python_version(), "imgrec": code_version(), **versions},
        "cards": _cards(),
        "shared_memory": memory,
        **_disks(),
        "blind": _meet(meeting, node),
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


def _cards() -> int:
    """GPUs of this machine; a task without GPU would see none through torch."""
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


def _skew(asked: float, clock: tuple[float, float], heard: float) -> float:
    """By how much another clock must be ahead, at least; between asking and hearing is unknown."""
    began, ended = clock
    if ended > heard:
        return ended - heard
    return min(0.0, began - asked)


class _Door:
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


@dataclass(frozen=True, slots=True)
class Node:
    """What one machine of the cluster has."""

    cpus: int
    gpus: int
