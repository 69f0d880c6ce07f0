"""In which arithmetic a run trains: decided once, by a rule, and kept in the record."""

from collections.abc import Mapping
from dataclasses import replace
from typing import get_args

from imgrec.config import Arch
from imgrec.distributed.nodes import device_kinds
from imgrec.tracking.query import find_run
from imgrec.tracking.tags import ARITHMETIC, DEVICES
from imgrec.training.graphs import refuse_graphs
from imgrec.training.precision import Arithmetic, choose_arithmetic
from imgrec.training.spec import FitSpec
from pipelines.workflow import Workflow


def decide_arithmetic(workflow: Workflow) -> dict[Arch, Arithmetic]:
    """What each architecture is trained in, the same on all workers and in all of its trials.

    What the run was begun in stands on its record, and is taken by whoever goes on with it, also on other
    machines. Else `choose_arithmetic` decides, from the nodes that there are.
    """
    config = workflow.config
    record = find_run(workflow.ledger.tracking, workflow.run.id)
    tags = record.tags if record else {}
    known = {
        arch: arithmetic
        for arch in config.archs
        for arithmetic in get_args(Arithmetic)
        if tags.get(ARITHMETIC + arch) == arithmetic
    }
    missing = [arch for arch in config.archs if arch not in known]
    if missing:
        kinds = device_kinds(use_gpu=workflow.demand.use_gpu)
        known |= {
            branch.arch: choose_arithmetic(branch.train.precision, branch.model, kinds)
            for branch in map(config.branch, missing)
        }
        tags = {ARITHMETIC + arch: known[arch] for arch in missing}
        workflow.run.set_tags(tags | {DEVICES: ", ".join(kinds)})
    return known


def refuse_vain_graphs(
    workflow: Workflow, decided: Mapping[Arch, Arithmetic], *, use_gpu: bool, workers: int
) -> None:
    """Raise ConfigError where steps are to be captured as CUDA graphs, and cannot be.

    Args:
        workflow: Of the run.
        decided: By `decide_arithmetic`.
        use_gpu: Whether the workers of a model have GPUs.
        workers: Of a model, or of a trial.
    """
    for branch in map(workflow.config.branch, decided):
        device = "cuda" if use_gpu else "cpu"
        refuse_graphs(branch.train, device, decided[branch.arch], workers)


def in_arithmetic(spec: FitSpec, decided: Mapping[Arch, Arithmetic]) -> FitSpec:
    """The spec with what was decided for its architecture, unless its own settings say which."""
    own = spec.train.precision
    return replace(spec, arithmetic=decided[spec.model.arch] if own == "auto" else own)
