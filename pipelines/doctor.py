"""What is wrong with this machine or a cluster, before a run finds out the hard way."""

import shlex
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imgrec.config import Config
from imgrec.data.sources import refuse_missing
from imgrec.distributed.demand import plan_demand, plan_trials
from imgrec.distributed.jobs import JobServer
from imgrec.distributed.nodes import Survey, closed_between, survey
from imgrec.distributed.session import Session, ray_session
from imgrec.errors import ClusterError, ImgrecError
from imgrec.tracking.connection import Tracking, connect
from imgrec.tracking.health import Health, client_version, examine
from pipelines.formats import cores_in_words, size
from pipelines.logs import chatter_to, log_to_file
from pipelines.observer import Observer
from pipelines.request import Request, RunFlags
from pipelines.upload import last_object, packed, refuse_local, words_for

LEAST_SHARED_MEMORY = 1_000_000_000
LEAST_DISK = 5_000_000_000
MOST_SKEW = 5.0
POLL_SECONDS = 0.5
MOST_SAID = 500


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; an `error` would keep a run from its end."""

    level: Literal["ok", "warning", "error"]
    what: str
    text: str


def examine_all(request: Request, address: str, observer: Observer) -> list[Finding]:
    """Look at everything that a run needs.

    Args:
        request: The settings of the run that is to be.
        address: A job server, whose cluster is looked at from inside; empty for the cluster of the
            settings, or this machine.
        observer: Told how it goes.
    """
    if not address:
        return list(_from_here(request.config, observer))
    observer.note(f"asking the cluster behind {address}")
    return _from_inside(request, JobServer(address))


def _from_here(config: Config, observer: Observer) -> Iterator[Finding]:
    """The findings of the cluster that is joined, or of this machine."""
    yield from _tried("data", lambda: _data(config))
    observer.stage("tracking")
    yield from _tried("tracking", lambda: _tracking(config))
    observer.stage("ray")
    log_file = log_to_file(Path(config.storage))
    with chatter_to(log_file), ray_session(config.cluster, log_file) as session:
        try:
            surveys = survey(Path(config.storage))
        except ClusterError as error:
            yield Finding("error", "nodes", str(error))
            surveys = []
        yield from _nodes(surveys)
        yield from _tried("ports", lambda: _ports(surveys))
        yield from _tried("workers", lambda: _needs(session, config))


def _tried(what: str, look: Callable[[], Sequence[Finding]]) -> Sequence[Finding]:
    """What was found; an error for people becomes a finding, and the rest is looked at all the same."""
    try:
        return look()
    except ImgrecError as error:
        return [Finding("error", what, str(error))]


def _data(config: Config) -> list[Finding]:
    refuse_missing(config.data.source)
    return [Finding("ok", "data", f"{config.data.source} is there, seen from the driver")]


def _tracking(config: Config) -> list[Finding]:
    tracking = connect(config.tracking, Path(config.storage), create=True)
    if tracking.is_local:
        return [Finding("ok", "tracking", f"MLflow {client_version()} in {tracking.uri}")]
    return list(_server(tracking, examine(tracking, config.tracking.timeout_seconds)))


def _server(tracking: Tracking, health: Health) -> Iterator[Finding]:
    store = f" on a {health.store}" if health.store else ""
    yield Finding("ok", "tracking", f"MLflow {health.version} answers at {tracking.uri}{store}")
    if health.version.split(".")[:2] != client_version().split(".")[:2]:
        text = f"the server has {health.version}, and here is {client_version()}; install the same"
        yield Finding("warning", "tracking version", text)
    if health.store == "FileStore":
        text = (
            "the server keeps runs in files, which is slow and on its way out; give it a database"
        )
        yield Finding("warning", "tracking store", text)
    if health.open_to_all:
        text = "whoever reaches the server may change it; start it with --app-name basic-auth"
        yield Finding("warning", "tracking authentication", text)
    else:
        yield Finding("ok", "tracking authentication", "a name and password are needed")
    if health.artifact_problem:
        text = f"a file could not be written and read again ({health.artifact_problem})"
        yield Finding("error", "artifacts", f"{text}; see the server's --artifacts-destination")
    elif health.is_proxied:
        yield Finding("ok", "artifacts", "go through the server and come back")
    else:
        text = f"go to {health.artifacts} without the server, so that everyone needs its keys"
        yield Finding("warning", "artifacts", f"{text}; start it with --artifacts-destination")
    yield from _clock("the tracking server", health.skew)


def _nodes(surveys: Sequence[Survey]) -> Iterator[Finding]:
    if not surveys:
        return
    cpus, gpus = (sum(getattr(s.node, kind) for s in surveys) for kind in ("cpus", "gpus"))
    addresses = ", ".join(s.node.address for s in surveys)
    nodes = f"{len(surveys)} node{'s' if len(surveys) > 1 else ''}"
    yield Finding("ok", "nodes", f"{nodes} ({addresses}), {cpus} cores and {gpus} GPUs together")
    yield from _versions(surveys)
    for one in surveys:
        where = one.node.address
        if one.storage_error:
            text = (
                f"{where} does not see it ({one.storage_error}); set a folder that every node sees"
            )
            yield Finding("error", "storage", text)
        if one.gpus > one.node.gpus:
            text = f"{where} has {one.gpus}, and Ray counts {one.node.gpus}; start Ray there with --num-gpus={one.gpus}"
            yield Finding("warning", "GPUs", text)
        if one.shared_memory is not None and one.shared_memory < LEAST_SHARED_MEMORY:
            text = f"{where} has {size(one.shared_memory)} free in /dev/shm; give its container more (--shm-size, or a volume of medium Memory)"
            yield Finding("warning", "shared memory", text)
        if one.disk < LEAST_DISK:
            text = f"{where} has {size(one.disk)} free for Ray and copies of pictures; make room"
            yield Finding("warning", "disk", text)
        if one.cache:
            yield Finding("error", "disk", f"{where}: {one.cache}")
        yield from _clock(where, one.skew)
    if not any(one.storage_error for one in surveys):
        least = min(one.disk for one in surveys)
        yield Finding(
            "ok",
            "storage",
            f"every node writes to it and reads from it; {size(least)} free on the disk of each",
        )


def _versions(surveys: Sequence[Survey]) -> Iterator[Finding]:
    different = False
    for name in surveys[0].versions:
        by_version: dict[str, list[str]] = {}
        for one in surveys:
            by_version.setdefault(one.versions[name], []).append(one.node.address)
        if len(by_version) > 1:
            different = True
            where = "; ".join(f"{v} on {', '.join(nodes)}" for v, nodes in by_version.items())
            yield Finding(
                "error", "versions", f"{name} differs: {where}; install the same everywhere"
            )
    if not different:
        text = ", ".join(f"{name} {version}" for name, version in surveys[0].versions.items())
        yield Finding("ok", "versions", text)


def _clock(whose: str, skew: float) -> Iterator[Finding]:
    if abs(skew) > MOST_SKEW:
        ahead = "ahead" if skew > 0 else "behind"
        text = f"{whose} is {abs(skew):.0f} s {ahead}; a run would be taken for dead; start an NTP service there"
        yield Finding("warning", "clock", text)


def _ports(surveys: Sequence[Survey]) -> list[Finding]:
    if len(surveys) < 2:
        return []
    closed = closed_between([one.node for one in surveys])
    if closed:
        return [
            Finding(
                "error",
                "ports",
                f"{one} cannot connect to {other} ({why}); workers talk to each other on any port: open them between nodes",
            )
            for one, other, why in closed
        ]
    return [Finding("ok", "ports", "every node connects to every other")]


def _needs(session: Session, config: Config) -> list[Finding]:
    demand = plan_demand(session.nodes, config.cluster)
    kind = "a GPU each" if demand.use_gpu else "no GPU"
    text = f"{demand.workers} with {cores_in_words(demand.cpus)} and {kind}; {demand.room} model{'s' if demand.room > 1 else ''} at a time"
    findings = [Finding("ok", "workers", text)]
    if config.search.wanted:
        trials = plan_trials(session.nodes, config.search, config.cluster)
        findings.append(Finding("ok", "trials", f"{trials.room} at a time"))
    return findings


def _from_inside(request: Request, server: JobServer) -> list[Finding]:
    """Let the head of the cluster look, as the job of a run would."""
    refuse_local(request.config)
    name = f"imgrec-doctor-{uuid.uuid4().hex[:12]}"
    words = words_for("doctor", request, RunFlags(as_json=True, quiet=True))
    with packed(request) as folder:
        server.submit(name, shlex.join(words), folder, {"name": "doctor"})
    try:
        while not server.get(name).is_over:
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        server.stop(name)
        raise
    log = server.log(name)
    server.forget(name)
    result = last_object(log)
    if result is None:
        last = " ".join(log.split())[-MOST_SAID:]
        msg = f"{server.address}: imgrec cannot be started there; the last that it said: {last}"
        raise ClusterError(msg)
    here = Finding("ok", "job server", f"{server.address} runs jobs with the code of here")
    return [here, *(Finding(**one) for one in result["findings"])]
