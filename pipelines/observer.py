"""Whom a workflow tells what happens: the live table, plain lines, a test."""

from collections.abc import Mapping
from typing import Protocol

from imgrec.config import Arch, Config
from imgrec.distributed.demand import TrialDemand
from imgrec.distributed.events import ProgressEvent, SearchEvent
from imgrec.training.spec import FitSpec
from pipelines.prepare import Prepared
from pipelines.results import TrainedModel
from pipelines.searched import Searched


class Observer(Protocol):
    """Is told of every event in the thread of the workflow, in their order.

    An observer decides nothing. One that inherits from this class need only have the methods that it cares for.
    """

    def stage(self, name: str) -> None:
        """A part of the run begins: `tracking`, `data`, `ray`, `pace`, `search`, `confirm`, `train`, `compare` or `examine`."""

    def note(self, text: str) -> None:
        """Something is worth a line."""

    def progress(self, what: str, done: int, total: int) -> None:
        """How far something is: what, such as `decoding pictures`, and how many of how many."""

    def prepared(self, prepared: Prepared) -> None:
        """The data are known."""

    def settled(self, specs: Mapping[Arch, FitSpec]) -> None:
        """What each architecture is going to be trained with is known, unless a search finds better."""

    def taken(self, searches: Mapping[Arch, Searched], models: Mapping[Arch, TrainedModel]) -> None:
        """The record has these already."""

    def searching(self, config: Config, tried: Mapping[Arch, int]) -> None:
        """Searches begin, of which an interrupted run has tried so many trials."""

    def resources(self, demand: TrialDemand, checkpoint_bytes: int) -> None:
        """What the trials will hold of the cluster and, at most, of the disk."""

    def trial(self, arch: Arch, event: SearchEvent) -> None:
        """Something happened to a trial."""

    def searched(self, arch: Arch, result: Searched) -> None:
        """A search is over."""

    def will_train(self, specs: Mapping[str, FitSpec]) -> None:
        """An architecture is to be trained, with one seed or several: `cnn`, `cnn seed 1`, ..., the first by its name alone."""

    def trained_already(self, name: str) -> None:
        """The best trial, or a run that was interrupted, has trained this one to the end."""

    def worker(self, name: str, event: ProgressEvent) -> None:
        """Something came from the workers that train this one."""

    def evaluating(self, name: str) -> None:
        """This one is trained; the test split is next."""

    def registered(self, model: TrainedModel) -> None:
        """An architecture is done."""

    def failed(self, name: str, error: Exception) -> None:
        """An architecture, or one of its seeds, ended without a model."""
