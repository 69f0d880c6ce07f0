"""Settings searched on a Ray cluster, through Ray Tune: several architectures in one Tuner.

One Tuner for all: the processes that trials run in are then started once, several Tuners in one process
disturb each other, and time can be divided fairly only by one that knows of all architectures.
"""

import queue
from collections.abc import Callable, Mapping
from pathlib import Path

from imgrec.config import ClusterConfig, SearchConfig
from imgrec.distributed.demand import TrialDemand
from imgrec.distributed.events import (
    SearchEvent,
)
from imgrec.distributed.session import Session
from imgrec.distributed.share import SearchSpec, Share, ShareClock, Shares
from imgrec.distributed.tune import build_tuner

POLL_SECONDS = 0.1


def search_on_workers(
    session: Session,
    searches: Mapping[str, SearchSpec],
    config: SearchConfig,
    cluster: ClusterConfig,
    demand: TrialDemand,
    *,
    among: int,
    storage: Path,
    on_event: Callable[[str, SearchEvent], None],
) -> None:
    """Run the trials of several searches, until each has had its share; the studies then know them.

    A trial whose process dies goes on from its last checkpoint. Each search gets the same number of
    trials, or the same time: whichever it has used least of comes next.

    Args:
        session: A Ray that is up.
        searches: By name.
        config: How long, and with what.
        cluster: How often a trial's process may die; whether to use GPUs.
        demand: What `plan_trials` counts for these nodes.
        among: How many searches share the budget of time: these, and those that had theirs before.
        storage: Folder for what Tune writes, this call's own.
        on_event: Told in this thread how each trial goes.

    Raises:
        StorageError: there is no room for a checkpoint; a later call goes on.
    """
    told: queue.SimpleQueue[tuple[str, SearchEvent]] = queue.SimpleQueue()
    shares = Shares()
    clock = ShareClock(shares)
    for name, one in searches.items():
        shares[name] = Share(name, one, config, clock, among, cluster.max_failures, told.put)
    tuner = build_tuner(shares, config, demand, cluster, session, storage)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            tuner.fit()
        except BaseException as error:
            failed.append(error)

    tuning = session.beside(run, "tuner")
    while not (tuning.is_over() and told.empty()):
        try:
            on_event(*told.get(timeout=POLL_SECONDS))
        except queue.Empty:
            continue
    if failed:
        ends = (share.end_of_all for share in shares.values())
        raise next((end for end in ends if end), failed[0])
