"""What `train.budget` leaves room for: measured once on the workers, and kept by whoever goes on with the run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from imgrec.config import Arch, Branch
from imgrec.config.sections import PROBE_EPOCHS
from imgrec.distributed.demand import plan_demand
from imgrec.distributed.nodes import device_kinds
from imgrec.distributed.pace import pace_of_workers
from imgrec.distributed.session import Session
from imgrec.training.pace import Budget, Chosen
from imgrec.training.precision import choose_arithmetic
from imgrec.training.spec import FitSpec
from pipelines.formats import duration
from pipelines.prepare import Prepared


def at_pace(
    prepared: Prepared, known: Mapping[Arch, Mapping[str, Any]], session: Callable[[], Session]
) -> Prepared:
    """With epochs, and networks, that every `train.budget` leaves room for.

    Args:
        prepared: The data, and settings that may leave epochs to a time.
        known: What it has come to before, by architecture.
        session: Ray, where something is to be measured.

    Raises:
        TrainingError: the workers could not be measured.
    """
    prepared = at_known_pace(prepared, known)
    paces, notes = dict(prepared.paces), list[str]()
    for branch in prepared.config.branches:
        arch, budget = branch.arch, branch.train.budget
        if not budget:
            continue
        networks = _networks(branch, prepared.specs[arch])
        specs = [prepared.spec_of(one) for one in networks]
        chosen = _measured(prepared, branch, specs, session())
        paces[arch] = _settings(branch, chosen, specs)
        takes = f"about {duration(chosen.seconds)} of {duration(budget)}"
        if chosen.seconds > budget:
            takes = f"about {duration(chosen.seconds)}, for no less can be trained"
        notes.append(f"{arch}: {_told(paces[arch])}: {takes}, as the workers were measured")
    return prepared.at_pace(paces, notes)


def at_known_pace(prepared: Prepared, known: Mapping[Arch, Mapping[str, Any]]) -> Prepared:
    """With what every `train.budget` has come to before, where that is known."""
    paces = {
        branch.arch: dict(known[branch.arch])
        for branch in prepared.config.branches
        if branch.train.budget and branch.arch in known
    }
    notes = [f"{arch}: {_told(pace)}, as this run was begun" for arch, pace in paces.items()]
    return prepared.at_pace(paces, notes)


def _networks(branch: Branch, spec: FitSpec) -> list[Branch]:
    """The same with each network that may be chosen, the smallest first."""
    if spec.weights and branch.train.finetune == "auto":  # the time decides, not the operations
        branch = branch.with_settings({"train.finetune": "full"})
    return [branch, *branch.larger()]


def _measured(
    prepared: Prepared, branch: Branch, specs: Sequence[FitSpec], session: Session
) -> Chosen:
    config = prepared.config
    demand = plan_demand(session.nodes, config.cluster)
    kinds = device_kinds(use_gpu=demand.use_gpu)
    arithmetic = choose_arithmetic(branch.train.precision, branch.model, kinds)
    candidates = [replace(spec, arithmetic=arithmetic) for spec in specs]
    budget = Budget(branch.train.budget, branch.train.epochs)
    return pace_of_workers(
        session,
        demand,
        candidates,
        budget,
        storage=Path(config.storage),
        keep=not config.search.wanted,
    )


def _settings(branch: Branch, chosen: Chosen, specs: Sequence[FitSpec]) -> dict[str, Any]:
    """What was chosen, as somebody would have written it."""
    if specs[0].weights:
        if chosen.epochs > PROBE_EPOCHS:
            return {"train.finetune": "full", "train.epochs": chosen.epochs}
        if branch.train.finetune == "full":
            return {"train.epochs": PROBE_EPOCHS + 1}
        return {"train.finetune": "probe"}
    larger = branch.model.larger[chosen.place - 1] if chosen.place else {}
    network = {f"model.{name}": value for name, value in larger.items()}
    return {"train.epochs": chosen.epochs} | network


def _told(pace: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key.partition('.')[2]} = {list(value) if isinstance(value, tuple) else value}"
        for key, value in pace.items()
    )
