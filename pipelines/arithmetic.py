"""In which arithmetic a run trains: decided once, by a rule, and kept in the record."""

from dataclasses import replace
from typing import get_args

from imgrec.config import Arch
from imgrec.distributed.demand import plan_demand
from imgrec.distributed.nodes import device_kinds
from imgrec.distributed.session import Session
from imgrec.tracking.query import find_run
from imgrec.tracking.runs import Run
from imgrec.tracking.tags import ARITHMETIC, DEVICES
from imgrec.training.precision import Arithmetic, choose_arithmetic
from imgrec.training.spec import FitSpec
from pipelines.record.ledger import Ledger


def decide_arithmetic(ledger: Ledger, workflow: Run, session: Session) -> dict[Arch, Arithmetic]:
    """What each architecture is trained in, the same on all workers and in all of its trials.

    What the run was begun in stands on its record, and is taken by whoever goes on with it, also on other
    machines. Else `choose_arithmetic` decides, from the nodes that there are.
    """
    config = ledger.config
    record = find_run(ledger.tracking, workflow.id)
    tags = record.tags if record else {}
    taken = {
        arch: known
        for arch in config.archs
        for known in get_args(Arithmetic)
        if tags.get(ARITHMETIC + arch) == known
    }
    missing = [arch for arch in config.archs if arch not in taken]
    if missing:
        use_gpu = plan_demand(session.nodes, config.cluster).use_gpu
        kinds = device_kinds(use_gpu=use_gpu)
        taken |= {
            arch: choose_arithmetic(config.branch(arch).train.precision, arch, kinds)
            for arch in missing
        }
        workflow.set_tags(
            {ARITHMETIC + arch: taken[arch] for arch in missing} | {DEVICES: ", ".join(kinds)}
        )
    return taken


def in_arithmetic(spec: FitSpec, taken: dict[Arch, Arithmetic]) -> FitSpec:
    """The spec with what was decided for its architecture, unless its own settings say which."""
    own = spec.train.precision
    return replace(spec, arithmetic=taken[spec.model.arch] if own == "auto" else own)
