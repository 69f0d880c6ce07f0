"""One work on many parts, by all nodes of a cluster, through Ray Data."""

import itertools
import logging
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import ray
import ray.data

from imgrec.distributed.nodes import NodeInfo
from imgrec.errors import ClusterError, ImgrecError, reason_of

AT_ONCE = 256
"""Parts that lie in Ray's memory at a time."""
MOST_DEATHS = 3
"""Of a worker, and tries of a part: one that always takes its worker with it would be tried for ever."""
WORKER_BYTES = 1_500_000_000
"""Of memory that a worker, its decoding process and a network of some size take; Ray counts them for each node."""
Part = TypeVar("Part")
Result = TypeVar("Result")


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
        ClusterError: workers were lost too often.
    """
    with_gpu = [node for node in nodes if node.gpus]
    if with_gpu:
        workers = sum(node.gpus for node in with_gpu)
        holding = {"num_gpus": 1, "num_cpus": max(1, min(n.cpus // n.gpus for n in with_gpu))}
    else:
        workers, holding = sum(node.cpus for node in nodes), {"num_cpus": 1}
    _be_quiet()
    try:
        for start in range(0, len(parts), AT_ONCE):
            some = itertools.islice(parts.items(), start, start + AT_ONCE)
            rows = [{"number": number, "part": pickle.dumps(part)} for number, part in some]
            answered = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
                _Worker,
                fn_constructor_args=(build,),
                compute=ray.data.ActorPoolStrategy(
                    min_size=1, max_size=max(1, min(workers, len(rows)))
                ),
                memory=WORKER_BYTES,
                max_restarts=MOST_DEATHS,
                max_task_retries=MOST_DEATHS,
                **holding,
            )
            for row in answered.iter_rows():
                result = pickle.loads(row["result"])  # noqa: S301 - what our own worker has sent through Ray
                if isinstance(result, ImgrecError):
                    raise result
                yield int(row["number"]), result
    except ray.exceptions.RayError as error:
        if isinstance(error, ray.exceptions.RayTaskError):
            raise  # our own bug, with its traceback
        msg = f"a worker died more than {MOST_DEATHS} times ({reason_of(error)}); where memory ran out, give nodes more"
        raise ClusterError(msg) from error


class _Worker:
    """Of Ray Data: it keeps what it has made for its next part."""

    def __init__(self, build: Callable[[], Callable[[Any], Any]]) -> None:
        self._build = build
        self._work: Callable[[Any], Any] | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """An error for people travels as a result, or Ray would make one of its own of it."""
        try:
            self._work = self._work or self._build()
            result = self._work(pickle.loads(row["part"]))  # noqa: S301 - what the driver has sent through Ray
        except ImgrecError as error:
            result = error
        return {"number": row["number"], "result": pickle.dumps(result)}


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
