"""What a trial costs beside its training: wall time of a search less the time inside epochs."""

from functools import partial
from pathlib import Path
from time import monotonic

import pytest

from imgrec.config import load_config
from imgrec.distributed.demand import plan_trials
from imgrec.distributed.events import SearchEvent, TrialEpoch
from imgrec.distributed.search import search_on_workers
from imgrec.distributed.session import ray_session
from imgrec.distributed.share import SearchSpec
from imgrec.search.study import Study
from pipelines.prepare import prepare
from pipelines.request import DIGITS
from pipelines.search import spec_with
from tests.conftest import no_progress

TRIALS = 8


@pytest.mark.bench
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_trial_costs_less_than_two_seconds_beside_its_training(tmp_path: Path) -> None:
    """The digits, eight trials of each architecture, everything that search does included."""
    config = load_config(DIGITS, [f"storage='{tmp_path}'", f"search.trials={TRIALS}"])
    prepared = prepare(config, no_progress)
    searches = {
        branch.arch: SearchSpec(
            Study.open(branch, prepared.specs[branch.arch], seed=0),
            partial(spec_with, prepared, branch.arch),
            tmp_path / "work" / branch.arch,
        )
        for branch in config.branches
    }
    training = 0.0

    def on_event(_: str, event: SearchEvent) -> None:
        nonlocal training
        if isinstance(event, TrialEpoch):
            training += event.metrics["epoch_seconds"]

    with ray_session(config.cluster, tmp_path / "ray.log") as session:
        demand = plan_trials(session.nodes, config.search, config.cluster)
        started = monotonic()
        search_on_workers(
            session,
            searches,
            config.search,
            config.cluster,
            demand,
            among=len(searches),
            storage=tmp_path / "tune",
            on_event=on_event,
        )
        wall = monotonic() - started
    trials = [trial for search in searches.values() for trial in search.study.trials.values()]
    overhead = (wall - training / demand.room) / len(trials)
    epochs = sum(len(trial.scores) for trial in trials)
    unstopped = sum(TRIALS * search.make_spec({}).train.epochs for search in searches.values())
    print(
        f"\n{len(trials)} trials, {demand.room} at a time: {wall:.1f} s, of which {training / demand.room:.1f} s "
        f"in epochs; {overhead:.2f} s a trial beside them; {epochs / unstopped:.0%} of the epochs "
        f"that no early stopping would train"
    )

    assert len(trials) == 4 * TRIALS
    assert overhead <= 2.0
