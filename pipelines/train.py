"""From settings to a registered model: fit, evaluate, register, for several architectures."""

from collections.abc import Callable, Mapping
from pathlib import Path

from imgrec.config import Arch
from imgrec.distributed.events import ProgressEvent
from imgrec.distributed.fit import Fitted, fit_on_workers, load_fitted
from imgrec.distributed.session import Session
from imgrec.errors import TrainingError
from imgrec.tracking.query import metric_history
from imgrec.tracking.runs import Run
from imgrec.tracking.tags import DONE
from imgrec.training.checkpoint import latest_state
from imgrec.training.loop import EpochReport
from imgrec.training.metrics import MONITOR
from imgrec.training.spec import FitSpec
from pipelines.arithmetic import decide_arithmetic, in_arithmetic
from pipelines.cli.pages.live import Display
from pipelines.evaluate import build_classifier, evaluate
from pipelines.preview import preview
from pipelines.record.curves import Curves
from pipelines.record.entries import (
    model_metrics,
    record_evaluation,
    register_classifier,
    start_model,
)
from pipelines.record.ledger import Ledger
from pipelines.results import TrainedModel

ModelOutcome = TrainedModel | TrainingError


def train(
    ledger: Ledger,
    workflow: Run,
    session: Callable[[], Session],
    work: Path,
    display: Display,
    specs: Mapping[Arch, FitSpec],
    *,
    profile: bool = False,
) -> dict[Arch, ModelOutcome]:
    """Train, score and register, each architecture as it ends; one that fails stops no other.

    A spec that a trial or an interrupted run has begun goes on from its last checkpoint; one that was
    trained to its end needs no worker.

    Args:
        ledger: What the record has.
        workflow: The run that the models' runs stand below.
        session: Brings Ray up; called where something is left to train.
        work: Folder for checkpoints, seen by every node; those of other runs lie beside it.
        display: Told how it goes.
        specs: What to train.
        profile: Trace some steps of each.
    """
    models = {arch: _Model(ledger, workflow, display, arch, spec) for arch, spec in specs.items()}
    outcomes: dict[Arch, ModelOutcome] = {}
    begun: dict[str, Path] = {}
    for arch, spec in specs.items():
        found = latest_state(work if ledger.fresh else work.parent, spec.key)
        fitted = load_fitted(found) if found else None
        if fitted and len(fitted.history) == spec.train.epochs:
            display.trained_already(arch)
            outcomes[arch] = models[arch].finish(fitted)
        elif found:
            begun[models[arch].name] = found
    arch_of = {model.name: arch for arch, model in models.items() if arch not in outcomes}
    if not arch_of:
        return outcomes
    running = session()
    taken = decide_arithmetic(ledger, workflow, running)
    display.stage("train")
    fits = fit_on_workers(
        running,
        {name: in_arithmetic(specs[arch], taken) for name, arch in arch_of.items()},
        ledger.config.cluster,
        storage=work,
        on_event=lambda name, event: models[arch_of[name]].progress(event),
        resume=begun,
        profile=profile,
    )
    for name, outcome in fits:
        arch = arch_of[name]
        if isinstance(outcome, TrainingError):
            models[arch].fail(outcome)
            outcomes[arch] = outcome
        else:
            outcomes[arch] = models[arch].finish(outcome)
    return outcomes


class _Model:
    """One architecture's way from its first epoch to the registry, on record and on the screen."""

    def __init__(
        self, ledger: Ledger, workflow: Run, display: Display, arch: Arch, spec: FitSpec
    ) -> None:
        self.name = f"{ledger.config.name}-{arch}"
        self._ledger = ledger
        self._display = display
        self._arch = arch
        self._job = spec
        key = ledger.fit_key(spec)
        earlier = ledger.last("model", key)
        if earlier:
            self._run = workflow.resume_child(earlier)
            known = metric_history(ledger.tracking, earlier.id, MONITOR)
            self._done = earlier.tags.get(DONE, "")
        else:
            self._run = start_model(workflow, ledger.config, ledger.prepared, spec, key)
            self._run.log_figure(preview(ledger.prepared, spec), "preview.png")
            known, self._done = {}, ""
        self._curves = Curves(self._run, list(known))
        display.will_train(arch, spec)

    def progress(self, event: ProgressEvent) -> None:
        """Something came from the workers."""
        if isinstance(event, EpochReport):
            self._curves.add(event.epoch, event.metrics)
        self._display.event(self._arch, event)

    def finish(self, fitted: Fitted) -> TrainedModel:
        """Training has ended: score and register what came of it."""
        prepared = self._ledger.prepared
        for epoch, values in enumerate(fitted.history, start=1):
            self._curves.add(epoch, values)  # what another process had trained
        self._curves.flush()
        self._display.evaluating(self._arch)
        classifier = build_classifier(self._ledger.config, prepared, self._job, fitted.best)
        evaluation = evaluate(classifier, prepared, self._job)
        metrics = model_metrics(fitted, self._job, classifier, evaluation)
        for file in fitted.profile:
            self._run.log_file(file)
        if self._done not in {"evaluate", "register"}:
            self._run.set_tags({DONE: "fit"})
            record_evaluation(self._run, self.name, fitted, evaluation, metrics)
        version = register_classifier(
            self._run, self._ledger.config, prepared, fitted, classifier, evaluation
        )
        self._run.end("FINISHED", {DONE: "register", "precision": fitted.precision})
        model = TrainedModel.of(self._arch, version, metrics, taken=False)
        self._display.registered(model)
        return model

    def fail(self, error: TrainingError) -> None:
        """There will be no model."""
        self._curves.flush()
        self._run.set_tags({"failure": error})
        self._run.end("FAILED")
        self._display.failed(self._arch, error)
