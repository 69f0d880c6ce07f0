"""What `train.budget` leaves room for: measured once on the workers, and kept by whoever goes on with the run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from imgrec.config import Arch, Branch
from imgrec.config.sections import PROBE_EPOCHS
from imgrec.distributed.demand import plan_demand
from imgrec.distributed.nodes import device_kinds
from imgrec.distributed.session import Session
from imgrec.errors import TrainingError
from imgrec.training.pace import Budget, Chosen
from imgrec.training.precision import choose_arithmetic
from imgrec.training.spec import FitSpec
from pipelines.formats import duration
from pipelines.prepare import Prepared, SpentBudget, network_of, workers_of


def at_pace(
    prepared: Prepared, known: Mapping[Arch, SpentBudget], session: Callable[[], Session]
) -> tuple[Prepared, dict[Arch, TrainingError]]:
    """With epochs, and networks, that every `train.budget` leaves room for.

    Args:
        prepared: The data, and settings that may leave epochs to a time.
        known: What it has come to before, by architecture.
        session: Ray, where something is to be measured.

    Returns:
        The same with that; and why some architectures could not be measured, which are as they were.
    """
    prepared = at_known_pace(prepared, known)
    paces, notes = dict[Arch, SpentBudget](), list[str]()
    failures = dict[Arch, TrainingError]()
    for branch in prepared.config.branches:
        arch, budget = branch.arch, branch.train.budget
        if not budget:
            continue
        networks = _networks(branch, prepared.specs[arch])
        specs = [prepared.spec_of(one) for one in networks]
        try:
            fits = _measured(prepared, branch, specs, session())
        except TrainingError as error:
            failures[arch] = error
            continue
        settings = _settings(branch, networks[fits.place], fits.epochs, specs)
        paces[arch] = SpentBudget(settings, network_of(prepared.specs[arch]), workers_of(prepared))
        takes = f"about {duration(fits.seconds)} of {duration(budget)}"
        if fits.seconds > budget:
            takes = f"about {duration(fits.seconds)}, for no less can be trained"
        notes.append(f"{arch}: {_told(settings)}: {takes}, as the workers were measured")
    return prepared.at_pace(paces, notes), failures


def at_known_pace(prepared: Prepared, known: Mapping[Arch, SpentBudget]) -> Prepared:
    """With what every `train.budget` has come to before, where that is known."""
    paces = {
        branch.arch: known[branch.arch]
        for branch in prepared.config.branches
        if branch.train.budget and branch.arch in known
    }
    notes = [
        f"{arch}: {_told(pace.settings)}, as it was measured before" for arch, pace in paces.items()
    ]
    return prepared.at_pace(paces, notes)


def _networks(branch: Branch, spec: FitSpec) -> list[Branch]:
    """The same with each network that may be chosen, the smallest first, and the epochs that the data ask for."""
    settings: dict[str, Any] = {"train.epochs": 0}
    if spec.weights:  # the time decides what is trained, not the operations
        settings["train.finetune"] = "full"
    branch = branch.with_settings(settings)
    return [branch, *branch.larger()]


def _measured(
    prepared: Prepared, branch: Branch, specs: Sequence[FitSpec], session: Session
) -> Chosen:
    config, train = prepared.config, branch.train
    demand = plan_demand(session.nodes, config.cluster)
    kinds = device_kinds(use_gpu=demand.use_gpu)
    arithmetic = choose_arithmetic(train.precision, branch.model, kinds)
    candidates = [replace(spec, arithmetic=arithmetic) for spec in specs]
    least = PROBE_EPOCHS + 1 if specs[0].weights and train.finetune == "full" else 1
    budget = Budget(train.budget, train.epochs, min(least, train.epochs or least))
    from imgrec.distributed.pace import pace_of_workers  # noqa: PLC0415 - it imports Ray Train

    return pace_of_workers(
        session,
        demand,
        candidates,
        budget,
        storage=Path(config.storage),
        keep=not config.search.wanted,
    )


def _settings(
    branch: Branch, network: Branch, epochs: int, specs: Sequence[FitSpec]
) -> dict[str, Any]:
    """What was chosen, as somebody would have written it."""
    if specs[0].weights and branch.train.finetune == "auto":
        if epochs <= PROBE_EPOCHS:
            return {"train.finetune": "probe"}
        return {"train.finetune": "full", "train.epochs": epochs}
    # Also where the smallest was chosen: a search is not to try a size that there is no time for.
    sizes = {name for one in branch.model.larger for name in one} if branch.larger() else set()
    own = {f"model.{name}": getattr(network.model, name) for name in sorted(sizes)}
    return {"train.epochs": epochs} | own


def _told(settings: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key.partition('.')[2]} = {list(value) if isinstance(value, tuple) else value}"
        for key, value in settings.items()
    )
