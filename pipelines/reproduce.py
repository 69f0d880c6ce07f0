"""A registered model made again from its record, in a place of its own, and compared weight by weight."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
import torch
from safetensors.torch import load_file

from imgrec.classifier import WEIGHTS
from imgrec.config import ClusterConfig, Config, load_config
from imgrec.config.architectures.architecture import COMPACT, REGISTERED
from imgrec.config.branch import make_branch
from imgrec.distributed.address import cluster_address
from imgrec.distributed.local import start_local
from imgrec.errors import TrackingError
from imgrec.machine import available_cores
from imgrec.tracking.connection import Tracking, connect
from imgrec.tracking.place import SQLITE
from imgrec.tracking.tags import CORES
from imgrec.tracking.versions import fetch_classifier, version_of
from imgrec.version import code_version
from pipelines.formats import cores_in_words
from pipelines.lineage import Lineage
from pipelines.observer import Observer
from pipelines.run import run
from pipelines.start import Start

SECTIONS = ("data", "pretrained", "calibrate")


@dataclass(frozen=True, slots=True)
class Reproduced:
    """What came of it.

    Attributes:
        same: The weights are the same, bit for bit.
        largest: Largest difference of a weight; infinite where the networks differ.
        accuracy: On the test pictures, then and now.
        changed: What was not as it was then, for people.
    """

    same: bool
    largest: float
    accuracy: tuple[float, float]
    changed: list[str]


def reproduce(
    tracking: Tracking, lineage: Lineage, folder: Path, observer: Observer, log_file: Path
) -> Reproduced:
    """Train a version again with the settings of its record.

    Args:
        tracking: Where it is registered.
        lineage: Of the version.
        folder: An empty one, for the new record.
        observer: Told how it goes.
        log_file: For the logs of workers.

    Raises:
        TrackingError: it begins with a registered model, which the new record does not have.
    """
    if lineage.network.startswith(REGISTERED):
        msg = f"{lineage.name}/{lineage.version}: begins with {lineage.network}, so it is made again in its own record only: {lineage.command}"
        raise TrackingError(msg)
    config = again(lineage, folder)
    local = start_local(config.cluster, config.search, log_file)
    with Start(config, observer, log_file, local) as start:
        summary = run(start, command=lineage.command)
    (made,) = summary.models
    record = connect(config.tracking, folder, create=False)
    theirs = fetch_classifier(tracking, f"{lineage.name}/{lineage.version}")
    ours = fetch_classifier(record, f"{made.registered_model}/{made.version}")
    largest = _largest(load_file(theirs / WEIGHTS), load_file(ours / WEIGHTS))
    changed = []
    if summary.store.fingerprint != lineage.data["fingerprint"]:
        changed.append(f"the pictures of {lineage.source} are others")
    if lineage.code != code_version():
        changed.append(f"the code was {lineage.code} and is {code_version()}")
    version = version_of(record, made.run_id)
    cores = int(version.tags.get(CORES, 0)) if version else 0
    if lineage.cores and cores != lineage.cores:
        changed.append(f"a worker had {cores_in_words(lineage.cores)}, and has {cores} here")
    return Reproduced(
        same=largest == 0.0,
        largest=largest,
        accuracy=(float(lineage.about["accuracy"].split()[0]), made.test.accuracy),
        changed=changed,
    )


def again(lineage: Lineage, folder: Path) -> Config:
    """The settings of a version with all that was decided then, for a record of its own in a folder."""
    config, arch = lineage.config, lineage.arch
    branch = make_branch(arch, config[arch]["written"], {})
    if branch.model.is_open and lineage.network:
        branch = branch.with_network(lineage.network, pretrained=lineage.network != COMPACT)
    cluster = dict(config.get("cluster", {}))
    if lineage.cores and _has_cores(ClusterConfig(**cluster), lineage.cores):
        cluster["cpus_per_worker"] = lineage.cores
    written = {part: dict(values) for part, values in branch.written.items()}
    # How steps are started changes no more than rounding, and the GPU that it takes may not be here.
    written["train"].pop("cuda_graphs", None)
    if lineage.arithmetic:
        written["train"]["precision"] = lineage.arithmetic
    for key, value in (lineage.search.settings if lineage.search else {}).items():
        part, _, name = key.partition(".")
        written[part][name] = value
    document = {
        "name": config["name"],
        "seed": lineage.seed,
        "archs": [arch],
        "storage": str(folder),
        # Said, or MLFLOW_TRACKING_URI would name the record of others.
        "tracking": {"uri": f"{SQLITE}{folder / 'mlflow.db'}"},
        "report": {"corrupted": 0},
        **{section: config.get(section, {}) for section in SECTIONS},
        "cluster": cluster,
        arch: written,
    }
    file = folder / "again.toml"
    file.write_text(tomli_w.dumps(_without_none(document)), encoding="utf-8")
    return load_config(file)


def _has_cores(cluster: ClusterConfig, cores: int) -> bool:
    """Whether each worker can have so many on this machine; of a cluster nobody knows yet what it has."""
    return not cluster_address(cluster) and cores * cluster.least_workers <= available_cores()


def _without_none(document: Mapping[str, Any]) -> dict[str, Any]:
    """TOML has no word for nothing."""
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in document.items()
        if value is not None
    }


def _largest(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> float:
    if {name: one.shape for name, one in first.items()} != {
        name: one.shape for name, one in second.items()
    }:
        return float("inf")
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)
