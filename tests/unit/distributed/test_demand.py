"""How workers are laid out on a cluster is arithmetic, done before anything starts."""

from typing import Any

import pytest

from imgrec.config import ClusterConfig, SearchConfig
from imgrec.distributed.demand import (
    Demand,
    TrialDemand,
    idle_gpus,
    plan_demand,
    plan_trials,
    spare_cores,
)
from imgrec.distributed.nodes import NodeInfo
from imgrec.errors import ClusterError


@pytest.mark.parametrize(
    ("nodes", "settings", "demand"),
    [
        ([(2, 0)], {}, Demand(1, 2, use_gpu=False, room=1, least=1)),
        ([(2, 0)], {"workers": 2}, Demand(2, 1, use_gpu=False, room=1, least=2)),
        ([(2, 0)], {"cpus_per_worker": 1}, Demand(1, 1, use_gpu=False, room=2, least=1)),
        # No worker may ask for more cores than one node has, whatever the cluster has in all.
        ([(8, 0), (8, 0)], {}, Demand(1, 8, use_gpu=False, room=2, least=1)),
        (
            [(2, 0), (8, 0), (8, 0), (8, 0)],
            {"workers": 4},
            Demand(4, 4, use_gpu=False, room=1, least=4),
        ),
        # GPUs share the cores of their node, so that all of them can work.
        ([(16, 4)], {}, Demand(1, 4, use_gpu=True, room=4, least=1)),
        ([(16, 4)], {"workers": 2}, Demand(2, 4, use_gpu=True, room=2, least=2)),
        ([(16, 4)], {"use_gpu": False}, Demand(1, 16, use_gpu=False, room=1, least=1)),
        ([(16, 1)], {"workers": 2}, Demand(2, 8, use_gpu=False, room=1, least=2)),
        # As many as may come are thought of, and as many as must be are asked for.
        ([(2, 0)], {"workers": (1, 4)}, Demand(4, 1, use_gpu=False, room=1, least=1)),
        ([(8, 2)], {"workers": (2, 8)}, Demand(8, 4, use_gpu=True, room=1, least=2)),
    ],
)
def test_workers_fit_on_nodes(
    nodes: list[tuple[int, int]], settings: dict[str, object], demand: Demand
) -> None:
    """And models train side by side where there is room."""
    assert (
        plan_demand([NodeInfo("", "", *node) for node in nodes], ClusterConfig(**settings))
        == demand
    )


@pytest.mark.parametrize(
    "settings", [{"workers": 3}, {"cpus_per_worker": 3}, {"use_gpu": True}, {"workers": (5, 8)}]
)
def test_what_can_never_be_is_refused(settings: dict[str, object]) -> None:
    """Ray itself would wait for ever."""
    with pytest.raises(ClusterError, match=r"cluster\.workers = \d"):
        plan_demand([NodeInfo("", "", 2, 0)], ClusterConfig(**settings))


@pytest.mark.parametrize(
    ("nodes", "settings", "demand"),
    [
        ([(2, 0)], {}, TrialDemand(1, 1, 0.0, 2)),
        ([(16, 0)], {}, TrialDemand(1, 4, 0.0, 4)),
        ([(2, 0)], {"cpus_per_trial": 2}, TrialDemand(1, 2, 0.0, 1)),
        ([(2, 0)], {"workers_per_trial": 2}, TrialDemand(2, 1, 0.0, 1)),
        ([(8, 0)], {"workers_per_trial": 2, "cpus_per_trial": 1}, TrialDemand(2, 1, 0.0, 4)),
        ([(16, 2)], {}, TrialDemand(1, 8, 1.0, 2)),
        ([(16, 2)], {"gpus_per_trial": 0.25}, TrialDemand(1, 2, 0.25, 8)),
        ([(16, 2)], {"gpus_per_trial": 0.4}, TrialDemand(1, 4, 0.4, 4)),  # two fit on each GPU
        ([(8, 1), (32, 0)], {}, TrialDemand(1, 8, 1.0, 1)),  # without a GPU there is no place
    ],
)
def test_trials_share_what_there_is(
    nodes: list[tuple[int, int]], settings: dict[str, Any], demand: TrialDemand
) -> None:
    """How many run at a time is known before the first starts."""
    found = plan_trials(
        [NodeInfo("", "", *node) for node in nodes], SearchConfig(**settings), ClusterConfig()
    )

    assert found == demand


@pytest.mark.parametrize(
    ("nodes", "settings", "said"),
    [
        (
            [(2, 0)],
            {"workers_per_trial": 3},
            "needs 3 times 1 cores.*2 cores and 0 GPUs.*room for 2",
        ),
        ([(2, 0), (2, 0)], {"cpus_per_trial": 4}, "needs 1 times 4 cores"),
        ([(8, 2)], {"workers_per_trial": 2, "gpus_per_trial": 0.5}, "a whole GPU each"),
    ],
)
def test_trials_that_never_fit_are_refused_with_the_numbers(
    nodes: list[tuple[int, int]], settings: dict[str, Any], said: str
) -> None:
    """Ray would wait for ever."""
    with pytest.raises(ClusterError, match=said):
        plan_trials(
            [NodeInfo("", "", *node) for node in nodes], SearchConfig(**settings), ClusterConfig()
        )


@pytest.mark.parametrize(
    ("nodes", "settings", "spare"),
    [
        ([(2, 0)], {}, 0),
        ([(2, 0)], {"cpus_per_worker": 1}, 1),
        ([(16, 4), (64, 0)], {"workers": 4}, 16),
        ([(2, 0)], {"workers": (1, 4)}, 0),
    ],
)
def test_what_no_worker_holds_is_divided_among_the_workers(
    nodes: list[tuple[int, int]], settings: dict[str, object], spare: int
) -> None:
    """A node without a GPU has cores that can decode for those with one."""
    every = [NodeInfo("", "", *node) for node in nodes]
    demand = plan_demand(every, ClusterConfig(**settings))
    assert spare_cores(every, demand) == spare


@pytest.mark.parametrize(
    ("nodes", "settings", "models", "idle"),
    [
        ([(16, 8)], {}, 1, 7),
        ([(16, 8)], {}, 4, 4),
        ([(16, 8)], {"workers": 8}, 1, 0),
        ([(16, 8)], {"workers": (2, 8)}, 1, 0),
        ([(16, 2)], {}, 4, 0),
        ([(16, 8)], {"use_gpu": False}, 1, 0),
        # Without a GPU for each of four workers all train on CPUs.
        ([(16, 2)], {"workers": 4}, 1, 2),
    ],
)
def test_gpus_that_nobody_trains_on_are_counted(
    nodes: list[tuple[int, int]], settings: dict[str, object], models: int, idle: int
) -> None:
    """One architecture on a machine of eight leaves seven idle, and whoever pays for them is to know."""
    known = tuple(NodeInfo("", "", *one) for one in nodes)
    cluster = ClusterConfig.model_validate(settings)
    demand = plan_demand(known, cluster)

    assert idle_gpus(known, cluster, demand, models) == idle
