"""What the record in MLflow says has been done: every stage has a key, made of all that goes into it.

A stage whose key stands on a run that got past it is not run again. The keys:

- prepare: the store's own, made of the pictures' contents and of how they are decoded;
- search: settings, space, budget, data, seed and code;
- fit: the very spec (settings, data, seed, code), so it does not matter who chose the settings;
- evaluate and register follow from the fit, and are marked on its run by `imgrec.done`.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from imgrec.config import Arch, CalibrateConfig, Config, ReportConfig
from imgrec.config.architectures.architecture import REGISTERED
from imgrec.search.study import Scores, Trial, best_of
from imgrec.tracking.connection import Tracking
from imgrec.tracking.liveness import heartbeat, is_at_work, owner_tags, refuse_alive
from imgrec.tracking.query import RunRecord, find_runs, metric_history
from imgrec.tracking.runs import Run, start_run
from imgrec.tracking.tags import (
    ASKED,
    COMMAND,
    CONFIRMED,
    DONE,
    KEY,
    KIND,
    NETWORKS,
    NUMBER,
    PACES,
    SETTINGS,
    STATE,
)
from imgrec.tracking.turns import one_at_a_time
from imgrec.tracking.versions import version_of
from imgrec.training.loop import JUDGED_BY
from imgrec.training.metrics import KEPT, MONITOR
from imgrec.training.spec import FitSpec
from pipelines.networks import ON_GPU, asked
from pipelines.prepare import Prepared, SpentBudget, network_of, workers_of
from pipelines.results import TrainedModel
from pipelines.searched import Searched

Done = Literal["search", "fit", "evaluate", "register"]


def key_of(*parts: Any) -> str:
    """A short hash of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Begun:
    """What the last run with these settings was begun with.

    Attributes:
        networks: By architecture: a backbone, or the version of a registered model; and ON_GPU.
        fingerprint: Of the pictures for which alone that holds; empty where it holds for any.
        paces: What each `train.budget` had come to.
        measured_for: The fingerprint of the pictures that it was measured with.
        is_over: It has finished, and what comes now is another run.
    """

    networks: dict[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    paces: dict[Arch, SpentBudget] = field(default_factory=dict)
    measured_for: str = ""
    is_over: bool = False

    def holds_for(self, prepared: Prepared) -> bool:
        """Whether what was prepared with these networks is to be run so."""
        return self.fingerprint in {"", prepared.store.fingerprint}

    def paces_for(self, prepared: Prepared) -> dict[Arch, SpentBudget]:
        """What each `train.budget` has come to for these pictures, networks and workers.

        A run that goes on keeps it whatever its workers are now: another number of epochs is another model.
        """
        if self.measured_for != prepared.store.fingerprint:
            return {}
        return {
            arch: pace
            for arch, pace in self.paces.items()
            if arch in prepared.specs
            and pace.network == network_of(prepared.specs[arch])
            and (pace.workers == workers_of(prepared) or not self.is_over)
        }


def last_begun(tracking: Tracking, config: Config) -> Begun:
    """What the last run with these settings was begun with: all of it, if it has not finished.

    Of a finished one the registered models, as long as the pictures are the same: its own model may be champion
    now, and the same command again is not to train on from there. With new pictures it is. And what its
    `train.budget` has come to: measured again it would be another number of epochs, and so another model.
    """
    experiment = config.tracking.experiment or config.name
    for record in find_runs(tracking, {ASKED: asked(config)}, experiment=experiment)[:1]:
        networks = dict(json.loads(record.tags[NETWORKS]))
        measured = json.loads(record.tags.get(PACES, "{}"))
        begun = Begun(
            networks,
            paces={arch: SpentBudget(**told) for arch, told in measured.get("chosen", {}).items()},
            measured_for=measured.get("pictures", ""),
        )
        if record.status != "FINISHED":
            return begun
        registered = {arch: one for arch, one in networks.items() if one.startswith(REGISTERED)}
        pictures = record.tags["data.fingerprint"] if registered else ""
        return replace(begun, networks=registered, fingerprint=pictures, is_over=True)
    return Begun()


@dataclass(frozen=True)
class Ledger:
    """The record, asked about one set of settings and data.

    Attributes:
        tracking: Where the record is.
        prepared: The data, and the settings with what the data decided.
        fresh: Take nothing from the record.
    """

    tracking: Tracking
    prepared: Prepared
    fresh: bool = False

    @property
    def config(self) -> Config:
        """The settings."""
        return self.prepared.config

    @property
    def experiment(self) -> str:
        """The name of the experiment."""
        return self.config.tracking.experiment or self.config.name

    def search_key(self, arch: Arch) -> str:
        """The key of a search."""
        branch, spec = self.config.branch(arch), self.prepared.specs[arch]
        how = self.config.search.model_dump(
            include={"trials", "budget", "min_epochs", "reduction", "workers_per_trial"}
        )
        if self.config.search.confirm:
            how["confirm"] = self.config.search.confirm
        if self.config.search.budget:
            how["searches"] = len(self.config.archs)  # among which the time is divided
        return key_of(self.config.name, spec.key, branch.model_dump(mode="json")["space"], how)

    def fit_key(self, spec: FitSpec) -> str:
        """The key of a fit, and of the model that comes of it, which is calibrated as the settings say."""
        calibrate = self.config.calibrate
        also = [] if calibrate == CalibrateConfig() else [calibrate.model_dump()]
        return key_of(self.config.name, spec.key, *also)

    @property
    def workflow_key(self) -> str:
        """The key of the whole."""
        report = self.config.report
        also: list[Any] = [] if report == ReportConfig() else [report.model_dump()]
        if self.config.search.wanted:
            keys = [self.search_key(arch) for arch in self.config.archs]
            if self.config.calibrate != CalibrateConfig():
                also.append(self.config.calibrate.model_dump())
            also += [self.config.seeds] if self.config.seeds > 1 else []
            return key_of(*keys, *also)
        specs = self.prepared.specs.values()
        return key_of(*(self.fit_key(one) for spec in specs for one in self.seeds(spec)), *also)

    def seeds(self, spec: FitSpec) -> tuple[FitSpec, ...]:
        """A spec with each of the seeds that it is to be trained with."""
        return tuple(replace(spec, seed=spec.seed + turn) for turn in range(self.config.seeds))

    @contextmanager
    def workflow(self, kind: str, command: str) -> Iterator[Run]:
        """The run of the whole: one that did not end with what was asked, or a new one.

        Raises:
            TrackingError: the same run is going on in another process.
        """
        networks: dict[str, str] = {
            branch.arch: str(model.pretrained) if model.begins_with_registered else model.backbone
            for branch in self.config.branches
            for model in (branch.model,)
        }
        networks[ON_GPU] = "yes" if self.prepared.on_gpu else "no"
        tags = {
            KIND: kind,
            KEY: self.workflow_key,
            COMMAND: command,
            ASKED: self.prepared.asked,
            NETWORKS: json.dumps(networks),
            PACES: json.dumps(
                {
                    "pictures": self.prepared.store.fingerprint,
                    "chosen": {arch: asdict(one) for arch, one in self.prepared.paces.items()},
                }
            ),
            **owner_tags(),
        }
        with ExitStack() as stack:
            # Of two processes that begin in the same moment one begins, and the other sees its run.
            with one_at_a_time(self.tracking, self.experiment, key_of(kind, tags[KEY])):
                earlier = self.last_workflow(kind)
                if earlier:
                    refuse_alive(earlier)
                    if earlier.status == "FINISHED":
                        earlier = None
                run = stack.enter_context(
                    start_run(
                        self.tracking, self.experiment, self.config.name, tags, resume=earlier
                    )
                )
            stack.enter_context(heartbeat(run))
            yield run

    def last_workflow(self, kind: str) -> RunRecord | None:
        """The last run of the whole with these settings and data."""
        tags = {KIND: kind, KEY: self.workflow_key}
        return None if self.fresh else self._last(tags)

    def finished_search(self, arch: Arch) -> Searched | None:
        """What a search came to that was carried through."""
        record = self.last("search", self.search_key(arch), done="search")
        if record is None:
            return None
        trials = self.trials(record)
        if best_of(trials) is None:
            return None
        return Searched.of(
            self.config.branch(arch),
            self.prepared.specs[arch],
            trials,
            record.id,
            taken=True,
            confirmed=confirmed_by(record),
        )

    def finished_model(self, arch: Arch, specs: Sequence[FitSpec]) -> TrainedModel | None:
        """The best model of exactly these specs, which differ in their seed alone, if all of them are on record."""
        known = self.scored(specs)
        if len(known) < len(specs):
            return None
        runs = tuple(record.id for record in known.values())
        best = max(known.values(), key=rank_of)
        version = version_of(self.tracking, best.id)
        if version is None:
            return None
        return TrainedModel.of(arch, version, best.metrics, taken=True, seed_runs=runs)

    def scored(self, specs: Sequence[FitSpec]) -> dict[str, RunRecord]:
        """The runs of these specs that need not be trained, by the keys of the specs.

        Those that were registered, and of other seeds those that are not better than the best of them: who was not
        registered has no weights on record.
        """
        ended: dict[str, RunRecord] = {}
        registered: list[RunRecord] = []
        for spec in specs:
            key = self.fit_key(spec)
            made = self.last("model", key, done="register")
            if made and version_of(self.tracking, made.id):
                ended[spec.key] = made
                registered.append(made)
            elif (other := self.last("model", key, done="evaluate")) and other.status == "FINISHED":
                ended[spec.key] = other
        least = max(map(rank_of, registered), default=None)
        return {
            key: record
            for key, record in ended.items()
            if record in registered or (least is not None and rank_of(record) <= least)
        }

    def last(self, kind: str, key: str, done: Done | None = None) -> RunRecord | None:
        """The last run of this kind and key that no other process is at work on.

        Any, or one that got as far as `done`.
        """
        if self.fresh:
            return None
        record = self._last({KIND: kind, KEY: key} | ({DONE: done} if done else {}))
        return None if record and is_at_work(self.tracking, record) else record

    def trials(self, search: RunRecord) -> list[Trial]:
        """The trials of a search that was carried through."""
        return [trial for trial, _ in self.trial_runs(search)]

    def trial_runs(self, search: RunRecord) -> list[tuple[Trial, RunRecord]]:
        """The trials of a search, each with its run; interrupted ones have no STATE on theirs."""
        records = find_runs(
            self.tracking, {KIND: "trial"}, experiment=self.experiment, parent=search.id
        )
        return [(_trial(self.tracking, record), record) for record in records]

    def _last(self, tags: dict[str, str]) -> RunRecord | None:
        records = find_runs(self.tracking, tags, experiment=self.experiment)
        return records[0] if records else None


def confirmed_by(search: RunRecord) -> Scores:
    """The scores of a search's best trials with other seeds; empty where nothing was confirmed."""
    told = json.loads(search.tags.get(CONFIRMED, "{}"))
    return {int(number): tuple(scores) for number, scores in told.items()}


def rank_of(record: RunRecord) -> tuple[float, float]:
    """How good a model is on the pictures that choose, of what its run has on record: the larger, the better."""
    return record.metrics[f"{KEPT}/macro_f1"], -record.metrics[f"{KEPT}/loss"]


def trials_of(tracking: Tracking, search: RunRecord) -> list[Trial]:
    """The trials of any search on record."""
    records = find_runs(tracking, {KIND: "trial"}, parent=search.id)
    return [_trial(tracking, record) for record in records]


def _trial(tracking: Tracking, record: RunRecord) -> Trial:
    return Trial(
        number=int(record.tags[NUMBER]),
        settings=_settings(record.tags[SETTINGS]),
        scores=metric_history(tracking, record.id, MONITOR),
        shares=metric_history(tracking, record.id, JUDGED_BY),
        used=record.metrics.get("search_seconds", 0.0),
        state=record.tags.get(STATE, "stopped"),  # type: ignore[arg-type]
        seconds=record.metrics.get("seconds", 0.0),
        reason=record.tags.get("failure", ""),
    )


def _settings(text: str) -> dict[str, Any]:
    """Lists of settings are tuples, as they are in the config."""
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in json.loads(text).items()
    }
