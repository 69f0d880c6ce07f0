"""How workers are laid out on a cluster is arithmetic, done before anything starts."""

import pytest

from imgrec.config import ClusterConfig
from imgrec.distributed.fit import Demand, plan_demand
from imgrec.distributed.session import Node
from imgrec.errors import ClusterError


@pytest.mark.parametrize(
    ("nodes", "settings", "demand"),
    [
        ([(2, 0)], {}, Demand(1, 2, use_gpu=False, room=1)),
        ([(2, 0)], {"workers": 2}, Demand(2, 1, use_gpu=False, room=1)),
        ([(2, 0)], {"cpus_per_worker": 1}, Demand(1, 1, use_gpu=False, room=2)),
        # No worker may ask for more cores than one node has, whatever the cluster has in all.
        ([(8, 0), (8, 0)], {}, Demand(1, 8, use_gpu=False, room=2)),
        ([(2, 0), (8, 0), (8, 0), (8, 0)], {"workers": 4}, Demand(4, 4, use_gpu=False, room=1)),
        # GPUs share the cores of their node, so that all of them can work.
        ([(16, 4)], {}, Demand(1, 4, use_gpu=True, room=4)),
        ([(16, 4)], {"workers": 2}, Demand(2, 4, use_gpu=True, room=2)),
        ([(16, 4)], {"use_gpu": False}, Demand(1, 16, use_gpu=False, room=1)),
        ([(16, 1)], {"workers": 2}, Demand(2, 8, use_gpu=False, room=1)),
    ],
)
def test_workers_fit_on_nodes(
    nodes: list[tuple[int, int]], settings: dict[str, object], demand: Demand
) -> None:
    """And models train side by side where there is room."""
    assert plan_demand([Node(*node) for node in nodes], ClusterConfig(**settings)) == demand


@pytest.mark.parametrize(
    "settings", [{"workers": 3}, {"cpus_per_worker": 3}, {"use_gpu": True}, {"workers": 5}]
)
def test_what_can_never_be_is_refused(settings: dict[str, object]) -> None:
    """Ray itself would wait for ever."""
    with pytest.raises(ClusterError, match=r"cluster\.workers = \d"):
        plan_demand([Node(2, 0)], ClusterConfig(**settings))
