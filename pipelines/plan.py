"""What a run would do: its stages, which are on record, and what the others would take.

Starts neither Ray nor training, and leaves nothing behind.
"""

import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from imgrec.config import Arch, Branch, ClusterConfig, Config
from imgrec.config.architectures.architecture import COMPACT
from imgrec.data.shape import are_photos, guess
from imgrec.data.sources import open_source
from imgrec.data.sources.listing import list_samples
from imgrec.data.store import find_store
from imgrec.distributed.address import cluster_address
from imgrec.errors import ConfigError
from imgrec.search.study import best_of, default_settings
from imgrec.tracking.connection import connect, has_record
from imgrec.tracking.liveness import owner_host
from imgrec.tracking.query import RunRecord, find_runs
from imgrec.tracking.tags import ARCH, BEGINS_WITH, DONE, KIND, STATE
from imgrec.training.spec import FitSpec
from pipelines.confirm import CANDIDATES
from pipelines.costs.estimate import (
    SEARCHED_SHARE,
    Overheads,
    checkpoint_bytes,
    decoding_seconds,
    fit_seconds,
    images_per_second,
    largest_checkpoint,
    parameters,
)
from pipelines.formats import duration
from pipelines.networks import photo_side
from pipelines.observer import Observer
from pipelines.pace import at_known_pace
from pipelines.prepare import Prepared, prepare
from pipelines.record.entries import begins_with
from pipelines.record.ledger import Begun, Ledger, last_begun
from pipelines.registered import begin_with_registered
from pipelines.search_specs import spec_with

# The package, its tables and pictures, beside the weights of a registered model.
BYTES_BESIDE_WEIGHTS = 1_000_000
LATER = "known when the pictures are decoded"
MEASURED = "train.budget: how many epochs, the workers are measured to tell"


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a run.

    Attributes:
        name: `prepare`, `start`, `search`, `fit` or `evaluate, register`.
        arch: Whose; empty for those of the whole run.
        state: `done`, `goes on` or `to do`.
        seconds: A guess of what is left.
        disk: A guess of the bytes that it adds.
        note: Where the record has it, or what the guess stands on.
    """

    name: str
    arch: str = ""
    state: str = "to do"
    seconds: float = 0.0
    disk: int = 0
    note: str = ""


def plan(config: Config, observer: Observer, *, fresh: bool) -> list[Stage]:
    """The stages in their order, with what the record has of them.

    Raises:
        ImgrecError: the settings or the data are wrong.
    """
    storage = Path(config.storage)
    ledger, begun, tracking = None, Begun(), None
    if has_record(config.tracking, storage):
        tracking = connect(config.tracking, storage, create=False)
        begun = Begun() if fresh else last_begun(tracking, config)
    side = photo_side(*begin_with_registered(config, tracking, begun.networks))
    if find_store(config.data, storage, photo_side=side) is None:
        return _before_data(config, side, observer)
    decode = partial(prepare, config, observer.progress, tracking=tracking, planning=True)
    prepared = decode(decided=begun.networks)
    if not begun.holds_for(prepared):
        prepared = decode()
    prepared = at_known_pace(prepared, begun.paces_for(prepared))
    written, config = config, prepared.config
    for note in (*prepared.findings.understood(), *prepared.notes):
        observer.note(note)
    if tracking:
        ledger = Ledger(tracking, prepared, fresh=fresh)
    if config.search.wanted:
        for branch in config.branches:
            default_settings(branch, prepared.specs[branch.arch])
    stages = [Stage("prepare", state="done", note=f"{len(prepared.store.labels):,} pictures")]
    overheads = _overheads(ledger, config.cluster)
    for arch in config.archs:
        for stage in _branch(config, ledger, prepared.specs[arch], arch, overheads):
            to_fit = stage.name == "fit" and stage.state != "done"
            other = _other_start(written.branch(arch), prepared) if to_fit else ""
            stages.append(replace(stage, note="; ".join(filter(None, (stage.note, other)))))
    return _with_starts(config, stages, overheads)


def _overheads(ledger: Ledger | None, cluster: ClusterConfig) -> Overheads:
    """Of the last run on this machine, or a guess."""
    runs = find_runs(ledger.tracking, {KIND: "workflow"}, status="FINISHED") if ledger else []
    for record in runs:
        if owner_host(record) == socket.gethostname() and (known := Overheads.of(record.metrics)):
            return known
    alone = not cluster_address(cluster) and cluster.most_workers == 1
    return Overheads.guessed(alone=alone)


def _branch(
    config: Config, ledger: Ledger | None, spec: FitSpec, arch: Arch, overheads: Overheads
) -> Iterator[Stage]:
    speed, source = _speed(ledger, spec)
    note = f"{speed:,.0f} images/s, {source}"
    if spec.train.budget:  # at what comes to it
        speed, note = fit_seconds(spec, 1.0) / spec.train.budget, MEASURED
    if config.search.wanted:
        searched = ledger.finished_search(arch) if ledger else None
        if searched is None:
            yield _search(config, ledger, spec, arch, speed, note)
            # The best trial is often trained to its end; then there is nothing left to fit.
            yield _fit(spec, speed, "at most: goes on from the best trial")
            yield _register(spec, overheads)
            return
        yield Stage(
            "search", arch, "done", note=f"{searched.trials} trials, run {searched.run_id[:12]}"
        )
        assert ledger
        spec = spec_with(ledger.prepared, arch, searched.best.settings)
    seeds = ledger.seeds(spec) if ledger else (spec,) * config.seeds
    model = ledger.finished_model(arch, seeds) if ledger else None
    if model:
        yield Stage("fit", arch, "done", note=f"run {model.run_id[:12]}")
        registered = f"{model.registered_model} version {model.version}"
        yield Stage("evaluate, register", arch, "done", note=registered)
        return
    begun = ledger.last("model", ledger.fit_key(spec)) if ledger else None
    if begun and begun.tags.get(DONE) in {"fit", "evaluate"}:
        yield Stage("fit", arch, "done", note=f"run {begun.id[:12]}")
        yield _register(spec, overheads)
        return
    fit, left = _fit(spec, speed, note, begun), len(seeds)
    if ledger:
        left -= len(ledger.scored(seeds))
    if config.seeds > 1:
        about = f"{fit.note}; {left} of {config.seeds} seeds"
        fit = replace(fit, seconds=left * fit.seconds, note=about)
    yield fit
    yield _register(spec, overheads)


def _other_start(branch: Branch, prepared: Prepared) -> str:
    """Of an architecture whose network the photos decided: how long a fit would take with the other kind."""
    store = prepared.store
    if not branch.model.is_open or not are_photos(store.looks(), store.image_shape[2]):
        return ""
    pretrained = prepared.config.branch(branch.arch).model.is_pretrained
    name = branch.model.default_backbone
    other = branch.with_network(COMPACT if pretrained else name, pretrained=not pretrained)
    try:
        spec = prepared.spec_of(other)
    except ConfigError:  # it takes no pictures of this size
        return ""
    how = "compact, from random weights" if pretrained else f"with the weights {name}"
    return f"{how}: {duration(fit_seconds(spec, images_per_second(spec)))}"


def _search(
    config: Config, ledger: Ledger | None, spec: FitSpec, arch: Arch, speed: float, note: str
) -> Stage:
    search, branch = config.search, config.branch(arch)
    begun = ledger.last("search", ledger.search_key(arch)) if ledger else None
    tried = ledger.trial_runs(begun) if ledger and begun else []
    ended = [trial for trial, record in tried if STATE in record.tags]
    left = max(0, search.trials - len(ended)) if search.trials else None
    each = fit_seconds(spec, speed) * SEARCHED_SHARE
    seconds = search.budget / len(config.archs) if left is None else left * each
    if search.budget and left is not None:
        seconds = min(seconds, search.budget / len(config.archs))
    # The best trials and the defaults, once more with each other seed.
    seconds += search.confirm * (CANDIDATES + 1) * fit_seconds(spec, speed)
    parts = [f"{search.trials} trials"] if search.trials else []
    if begun:
        best = best_of(ended)
        score = f", best {best.score:.4f}" if best else ""
        parts.append(f"{len(ended)} ended{score}, run {begun.id[:12]}")
    # A running trial's checkpoint and the next, and that of the best one.
    disk = 3 * largest_checkpoint(branch, spec)
    return Stage(
        "search", arch, "goes on" if begun else "to do", seconds, disk, "; ".join([*parts, note])
    )


def _fit(spec: FitSpec, speed: float, note: str, begun: RunRecord | None = None) -> Stage:
    seconds = fit_seconds(spec, speed)
    if begun:
        note = f"{note}; run {begun.id[:12]}"
    state = "goes on" if begun else "to do"
    return Stage("fit", spec.model.arch, state, seconds, 2 * checkpoint_bytes(spec), note)


def _register(spec: FitSpec, overheads: Overheads) -> Stage:
    weights = 4 * parameters(spec)
    return Stage(
        "evaluate, register",
        spec.model.arch,
        seconds=overheads.register,
        disk=weights + BYTES_BESIDE_WEIGHTS,
    )


def _with_starts(config: Config, stages: list[Stage], overheads: Overheads) -> list[Stage]:
    """Ray's start, and that of the workers, as stages of their own: they are long for small data."""
    trains = any(stage.name in {"search", "fit"} and stage.state != "done" for stage in stages)
    if not trains:
        return stages
    ray = config.cluster.address or "a local Ray"
    note = f"{ray} and workers, {overheads.source}"
    seconds = overheads.ray + overheads.workers
    return [stages[0], Stage("start", seconds=seconds, note=note), *stages[1:]]


def _before_data(config: Config, side: int, observer: Observer) -> list[Stage]:
    """Where the pictures are not decoded yet, the rest cannot be known in detail."""
    downloads = Path(config.storage) / "downloads"
    source = open_source(config.data, downloads)
    samples = list_samples(source, config.data)
    for line in source.reading().lines():
        observer.note(line)
    how = guess(samples, config.data, side)
    height, width, channels = how.image_shape
    count = len(samples)
    stages = [
        Stage(
            "prepare",
            seconds=decoding_seconds(samples, how, config.data.decode_workers),
            disk=count * height * width * channels,
            note=f"{count:,} pictures to decode, {height} x {width}",
        )
    ]
    names = [*(["search"] if config.search.wanted else []), "fit", "evaluate, register"]
    stages += [Stage(name, arch, note=LATER) for arch in config.archs for name in names]
    return stages


def _speed(ledger: Ledger | None, spec: FitSpec) -> tuple[float, str]:
    """Images/s of the last model of this architecture on these data, or a guess."""
    if ledger:
        fingerprint = ledger.prepared.store.fingerprint
        tags = {
            KIND: "model",
            ARCH: spec.model.arch,
            BEGINS_WITH: begins_with(spec.weights.told() if spec.weights else None),
            "data.fingerprint": fingerprint,
        }
        for record in find_runs(ledger.tracking, tags, experiment=ledger.experiment):
            if speed := record.metrics.get("median_images_per_second"):
                return speed, "as measured before"
    return images_per_second(spec), "guessed from a few batches"
