"""One work on many parts, by all nodes of a cluster, through Ray Data."""

import logging
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import ray
import ray.data

from imgrec.distributed.nodes import NodeInfo
from imgrec.errors import ClusterError, ImgrecError, reason_of

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
    rows = [{"number": number, "part": pickle.dumps(part)} for number, part in parts.items()]
    _be_quiet()
    answered = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _Worker,
        fn_constructor_args=(build,),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, min(workers, len(rows)))),
        **holding,
    )
    try:
        for row in answered.iter_rows():
            result = pickle.loads(row["result"])  # noqa: S301 - what our own worker has sent through Ray
            if isinstance(result, ImgrecError):
                raise result
            yield int(row["number"]), result
    except ray.exceptions.RayError as error:
        if isinstance(error, ray.exceptions.RayTaskError):
            raise  # our own bug, with its traceback
        msg = f"a worker was lost too often ({reason_of(error)})"
        raise ClusterError(msg) from error


class _Worker:
    """Of Ray Data: it keeps what it has made for its next part."""

    def __init__(self, build: Callable[[], Callable[[Any], Any]]) -> None:
        self._work = build()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """An error for people travels as a result, or Ray would make one of its own of it."""
        try:
            result = self._work(pickle.loads(row["part"]))  # noqa: S301 - what the driver has sent through Ray
        except ImgrecError as error:
            result = error
        return {"number": row["number"], "result": pickle.dumps(result)}


def held_cores() -> int:
    """In a worker: the cores that it holds."""
    return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))


def _be_quiet() -> None:
    """Ray Data draws bars and logs its plans; progress is shown by whoever reads the results."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
