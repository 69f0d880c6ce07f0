"""One work on many parts, by all nodes of a cluster, through Ray Data."""

import itertools
import logging
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from uuid import uuid4

import ray
import ray.data

from imgrec.distributed.nodes import NodeInfo
from imgrec.errors import ClusterError, ImgrecError, reason_of

AT_ONCE = 1024
"""Parts that lie in Ray's memory at a time."""
MOST_TRIES = 3
"""Of a part whose worker dies."""
WORKER_BYTES = 1_500_000_000
"""Of memory that a worker, its decoding process and a network of some size take; Ray counts them for each node."""
Part = TypeVar("Part")
Result = TypeVar("Result")
_BUILT: dict[str, Callable[[Any], Any]] = {}
"""In a worker: what it has made for its next part, by the name of the work."""


def on_all_nodes(
    nodes: Sequence[NodeInfo],
    build: Callable[[], Callable[[Part], Result]],
    parts: Mapping[int, Part],
) -> Iterator[tuple[int, Result]]:
    """What a function makes of each part, as they come to an end; those of a node that is lost are done again by others.

    Where nodes have GPUs each worker has one, with its share of the cores; else each has one core.

    Args:
        nodes: That are there.
        build: Makes the function, once in each worker. It and the parts travel to the nodes.
        parts: By number.

    Raises:
        ImgrecError: the function's own.
        ClusterError: workers died too often at one part.
    """
    holding: dict[str, float] = {"num_cpus": 1}
    if with_gpu := [node for node in nodes if node.gpus]:
        holding = {"num_cpus": max(1, min(n.cpus // n.gpus for n in with_gpu)), "num_gpus": 1}
    _be_quiet()
    name = f"parts-{uuid4().hex}"
    tries = ray.remote(_Tries).options(num_cpus=0, name=name).remote()
    try:
        for start in range(0, len(parts), AT_ONCE):
            some = itertools.islice(parts.items(), start, start + AT_ONCE)
            rows = [{"number": number, "part": pickle.dumps(part)} for number, part in some]
            done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
                _work, fn_args=(name, build), memory=WORKER_BYTES, **holding
            )
            for row in done.iter_rows():
                result = pickle.loads(row["result"])  # noqa: S301 - what our own worker has sent through Ray
                if isinstance(result, ImgrecError):
                    raise result
                yield int(row["number"]), result
    except ray.exceptions.RayError as error:
        if isinstance(error, ray.exceptions.RayTaskError):
            raise  # our own bug, with its traceback
        msg = f"Ray has given a worker up ({reason_of(error)})"
        raise ClusterError(msg) from error
    finally:
        ray.kill(tries)


def _work(
    row: dict[str, Any], name: str, build: Callable[[], Callable[[Any], Any]]
) -> dict[str, Any]:
    """In a worker. An error for people travels as a result, or Ray would make one of its own of it."""
    result: Any
    try:
        if ray.get(ray.get_actor(name).begin.remote(row["number"])) > MOST_TRIES:
            msg = f"workers died {MOST_TRIES} times at the same pictures; where memory ran out, give the nodes more"
            raise ClusterError(msg)
        if name not in _BUILT:
            _BUILT.clear()  # of an earlier work
            _BUILT[name] = build()
        result = _BUILT[name](pickle.loads(row["part"]))  # noqa: S301 - what the driver has sent through Ray
    except ImgrecError as error:
        result = error
    return {"number": row["number"], "result": pickle.dumps(result)}


class _Tries:
    """Counts how often each part was begun: Ray Data would begin one that takes its worker with it for ever."""

    def __init__(self) -> None:
        self._begun = Counter[int]()

    def begin(self, number: int) -> int:
        """Once more."""
        self._begun[number] += 1
        return self._begun[number]


def is_busy(nodes: Sequence[NodeInfo]) -> bool:
    """Whether others hold everything that a worker would need, so that it waits for them."""
    needed = "GPU" if any(node.gpus for node in nodes) else "CPU"
    return float(ray.available_resources().get(needed, 0)) < 1


def held_cores() -> int:
    """In a worker: the cores that it holds."""
    return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))


def _be_quiet() -> None:
    """Ray Data draws bars and logs its plans; progress is shown by whoever reads the results."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
