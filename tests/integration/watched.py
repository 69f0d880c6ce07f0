"""A search that is watched: what was told of it, for tests to look at."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from imgrec.config import load_config
from imgrec.distributed.demand import plan_trials
from imgrec.distributed.events import SearchEvent, TrialEnded, TrialEpoch
from imgrec.distributed.search import search_on_workers
from imgrec.distributed.session import Session
from imgrec.distributed.share import SearchSpec
from imgrec.search.study import Study, Trial
from pipelines.prepare import Prepared, prepare
from pipelines.search import spec_with
from tests.conftest import no_progress

SMALL = ["ann.model.hidden=[16]", "cnn.model.widths=[8, 16]", "train.epochs=9"]


class Watched:
    """Runs searches, collects what is told, and may do something about it."""

    def __init__(
        self, storage: Path, *settings: str, react: Callable[[SearchEvent], None] = lambda _: None
    ) -> None:
        self.storage = storage
        self.config = load_config(None, [f"storage='{storage}'", *SMALL, *settings])
        self.prepared: Prepared = prepare(self.config, no_progress)
        self.epochs: dict[tuple[str, int], list[int]] = {}
        self.ended: dict[str, list[Trial]] = {}
        self.searches: dict[str, SearchSpec] = {}
        self._react = react

    def run(self, session: Session, **known: list[Trial]) -> None:
        for branch in self.config.branches:
            spec = self.prepared.specs[branch.arch]
            self.searches[branch.arch] = SearchSpec(
                Study.open(branch, spec, seed=0, **known),
                partial(spec_with, self.prepared, branch.arch),
                self.storage / "work" / branch.arch,
            )
        search_on_workers(
            session,
            self.searches,
            self.config.search,
            self.config.cluster,
            plan_trials(session.nodes, self.config.search, self.config.cluster),
            among=len(self.searches),
            storage=self.storage / "tune",
            on_event=self,
        )

    def __call__(self, name: str, event: SearchEvent) -> None:
        match event:
            case TrialEpoch(number=number, epoch=epoch):
                self.epochs.setdefault((name, number), []).append(epoch)
            case TrialEnded(trial=trial):
                self.ended.setdefault(name, []).append(trial)
        self._react(event)
