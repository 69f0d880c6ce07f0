"""Where a registered model comes from: data, settings, code, search, scores, decisions, and how to make it again."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imgrec.config import ARCHS, Arch, load_config
from imgrec.errors import TrackingError
from imgrec.evaluation.golden import Parity
from imgrec.search.study import best_confirmed, best_of
from imgrec.tracking.connection import Tracking
from imgrec.tracking.promotion import Recorded, decisions
from imgrec.tracking.query import RunRecord, fetch_file, find_run
from imgrec.tracking.tags import (
    ABOUT,
    ARCH,
    ARITHMETIC,
    BEGINS_WITH,
    COMMAND,
    CORES,
    DEVICES,
    NETWORKS,
    PARITY,
    REASON,
    SEARCHED,
)
from imgrec.tracking.versions import RegisteredVersion, find_registered
from pipelines.record.entries import DATA, SETTINGS
from pipelines.record.ledger import confirmed_by, trials_of

NOT_OF_THE_MODEL = ("storage", "tracking", "archs", "name")


@dataclass(frozen=True, slots=True)
class Chosen:
    """The search that chose the settings.

    Attributes:
        run_id: Of the search.
        trials: How many were tried.
        trial: The number of the one that was taken.
        settings: What it changed.
    """

    run_id: str
    trials: int
    trial: int
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lineage:
    """All that is on record of a version.

    Attributes:
        name: Of the registered model.
        version: Its number.
        champion_version: Who is champion; 0 where nobody is.
        why: Why it is champion, or not.
        arch: The architecture.
        run_id: The run that made it.
        about: What it tells apart, scores with intervals, data, for people.
        data: On record: fingerprint, counts, what was left out.
        source: Of the data.
        begins_with: Weights.
        network: That was decided on.
        settings: That differ from the defaults: what it has, and what the default is.
        seed: Of training.
        arithmetic: fp32, bf16 or fp16.
        devices: That trained it.
        cores: Of each worker; 0 where an earlier imgrec trained it.
        search: None where the settings were not searched for.
        epoch: That was kept.
        code: Version of the code; `+` and a hash of the package's source.
        parity: How alike it answers wherever it is loaded; None where an earlier imgrec registered it.
        decisions: About the version, newest first.
        command: What was typed.
        config: All settings as they were.
    """

    name: str
    version: int
    champion_version: int
    why: str
    arch: Arch
    run_id: str
    about: dict[str, str]
    data: dict[str, Any]
    source: str
    begins_with: str
    network: str
    settings: dict[str, tuple[Any, Any]]
    seed: int
    arithmetic: str
    devices: str
    cores: int
    search: Chosen | None
    epoch: int
    code: str
    parity: Parity | None
    decisions: list[Recorded]
    command: str
    config: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        told = asdict(self)
        del told["config"]
        told["settings"] = {
            key: {"value": value, "default": default}
            for key, (value, default) in self.settings.items()
        }
        return told


def find_lineage(tracking: Tracking, model: str) -> Lineage:
    """Everything that the record has of a version.

    Args:
        tracking: Where it is registered.
        model: `digits-cnn` (its champion), `digits-cnn@alias` or `digits-cnn/3`.

    Raises:
        TrackingError: there is no such version, or the run that made it is gone.
    """
    version = find_registered(tracking, model)
    run, workflow = _runs(tracking, version)
    config = _file(tracking, workflow, SETTINGS)
    arch, tags = _arch_of(version), workflow.tags
    told = version.tags.get(PARITY)
    return Lineage(
        name=version.name,
        version=version.version,
        champion_version=version.champion_version,
        why=version.tags.get(REASON, "nothing was decided about it yet"),
        arch=arch,
        run_id=version.run_id,
        about={
            key.removeprefix(ABOUT): text
            for key, text in version.tags.items()
            if key.startswith(ABOUT)
        },
        data=_file(tracking, workflow, DATA),
        source=config["data"]["source"],
        begins_with=version.tags.get(BEGINS_WITH, ""),
        network=json.loads(tags.get(NETWORKS, "{}")).get(arch, ""),
        settings=_differences(config, arch),
        seed=int(version.tags.get("seed", config["seed"])),
        arithmetic=version.tags.get("precision", tags.get(ARITHMETIC + arch, "")),
        devices=tags.get(DEVICES, ""),
        cores=int(version.tags.get(CORES, 0)),
        search=_chosen(tracking, run),
        epoch=int(run.metrics.get("best_epoch", 0)),
        code=version.tags.get("code.version", ""),
        parity=Parity(**json.loads(told)) if told else None,
        decisions=[
            one for one in decisions(tracking, version.name) if one.version == str(version.version)
        ],
        command=tags.get(COMMAND, ""),
        config=config,
    )


def _arch_of(version: RegisteredVersion) -> Arch:
    return next(one for one in ARCHS if one == version.tags[ARCH])


def _runs(tracking: Tracking, version: RegisteredVersion) -> tuple[RunRecord, RunRecord]:
    """The run of the model, and that of the workflow above it."""
    run = find_run(tracking, version.run_id)
    workflow = find_run(tracking, run.parent) if run and run.parent else None
    if run is None or workflow is None:
        msg = f"{version.name}/{version.version}: the run that made it is gone"
        raise TrackingError(msg)
    return run, workflow


def _file(tracking: Tracking, run: RunRecord, name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="imgrec-") as folder:
        file = fetch_file(tracking, run.id, name, Path(folder))
        if file is None:
            msg = f"run {run.id}: its {name} is missing"
            raise TrackingError(msg)
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return content


def _chosen(tracking: Tracking, model: RunRecord) -> Chosen | None:
    """The search that a model's settings come from, of this run or an earlier one."""
    if not (known := model.tags.get(SEARCHED)):
        return None
    search = find_run(tracking, known)
    if search is None:
        msg = f"run {model.id}: the search that has chosen its settings (run {known}) is gone"
        raise TrackingError(msg)
    trials = trials_of(tracking, search)
    number = best_confirmed(confirmed_by(search))
    best = next((one for one in trials if one.number == number), best_of(trials))
    return Chosen(search.id, len(trials), best.number, best.settings) if best else None


def _differences(config: Mapping[str, Any], arch: str) -> dict[str, tuple[Any, Any]]:
    """What the settings of an architecture have that the defaults have not."""
    usual = load_config(None, [f"archs=['{arch}']"])
    defaults = usual.model_dump(mode="json", exclude={"branches"})
    (branch,) = usual.branches
    defaults[arch] = branch.model_dump(mode="json", include={"model", "train", "preprocess"})
    known = {
        key: value
        for key, value in config.items()
        if key in defaults and key not in NOT_OF_THE_MODEL
    }
    return dict(_unlike(known, defaults, ""))


def _unlike(
    has: Mapping[str, Any], usual: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for key, value in has.items():
        default = usual.get(key)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            yield from _unlike(value, default, f"{prefix}{key}.")
        elif value != default and not (isinstance(value, Mapping) or key == "space"):
            yield f"{prefix}{key}", (value, default)
