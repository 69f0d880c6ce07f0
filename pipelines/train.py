"""From settings to a registered model: fit, evaluate, register, for several architectures."""

from collections.abc import Mapping
from pathlib import Path

from imgrec.config import Arch
from imgrec.distributed.events import ProgressEvent, Started
from imgrec.distributed.fit import Fitted, fit_on_workers, load_fitted
from imgrec.errors import TrainingError
from imgrec.tracking.query import metric_history
from imgrec.tracking.tags import DONE
from imgrec.training.checkpoint import latest_state
from imgrec.training.loop import EpochReport
from imgrec.training.metrics import MONITOR
from imgrec.training.spec import FitSpec
from pipelines.arithmetic import decide_arithmetic, in_arithmetic
from pipelines.evaluate import build_classifier, evaluate, suspected_labels
from pipelines.preview import preview
from pipelines.promote import promote
from pipelines.record.curves import Curves
from pipelines.record.entries import (
    model_metrics,
    record_evaluation,
    register_classifier,
    start_model,
)
from pipelines.results import TrainedModel
from pipelines.workflow import Workflow

ModelOutcome = TrainedModel | TrainingError


def train(
    workflow: Workflow, specs: Mapping[Arch, FitSpec], *, profile: bool = False
) -> dict[Arch, ModelOutcome]:
    """Train, score and register, each architecture as it ends; one that fails stops no other.

    A fit that a trial or an interrupted run has begun goes on from its last checkpoint; one that was
    trained to its end needs no worker.

    Args:
        workflow: The run that the models' runs stand below.
        specs: What to train.
        profile: Trace some steps of each.
    """
    models = {arch: _Model(workflow, arch, spec) for arch, spec in specs.items()}
    outcomes: dict[Arch, ModelOutcome] = {}
    begun: dict[str, Path] = {}
    work = workflow.work
    for arch, spec in specs.items():
        checkpoint = latest_state(work if workflow.ledger.fresh else work.parent, spec.key)
        fitted = load_fitted(checkpoint) if checkpoint else None
        if fitted and len(fitted.history) == spec.train.epochs:
            workflow.clock.enter("register")
            workflow.observer.trained_already(arch)
            outcomes[arch] = models[arch].finish(fitted)
        elif checkpoint:
            begun[models[arch].name] = checkpoint
    arch_of = {model.name: arch for arch, model in models.items() if arch not in outcomes}
    if not arch_of:
        return outcomes
    session = workflow.session()
    arithmetics = decide_arithmetic(workflow)
    workflow.begin("train")
    fits = fit_on_workers(
        session,
        {name: in_arithmetic(specs[arch], arithmetics) for name, arch in arch_of.items()},
        workflow.config.cluster,
        workflow.demand,
        storage=work,
        on_event=lambda name, event: models[arch_of[name]].progress(event),
        resume=begun,
        profile=profile,
    )
    for name, outcome in fits:
        arch = arch_of[name]
        if len(outcomes) == len(specs) - 1:  # nothing is left to train
            workflow.clock.enter("register")
        if isinstance(outcome, TrainingError):
            models[arch].fail(outcome)
            outcomes[arch] = outcome
        else:
            outcomes[arch] = models[arch].finish(outcome)
    return outcomes


class _Model:
    """One architecture's way from its first epoch to the registry."""

    def __init__(self, workflow: Workflow, arch: Arch, spec: FitSpec) -> None:
        ledger = workflow.ledger
        self.name = f"{ledger.config.name}-{arch}"
        self._workflow = workflow
        self._arch = arch
        self._spec = spec
        key = ledger.fit_key(spec)
        earlier = ledger.last("model", key)
        if earlier:
            self._run = workflow.run.resume_child(earlier)
            known = metric_history(ledger.tracking, earlier.id, MONITOR)
            self._done = earlier.tags.get(DONE, "")
        else:
            self._run = start_model(workflow.run, ledger.config, ledger.prepared, spec, key)
            self._run.log_figure(preview(ledger.prepared, spec), "preview.png")
            known, self._done = {}, ""
        self._curves = Curves(self._run, list(known))
        workflow.observer.will_train(arch, spec)

    def progress(self, event: ProgressEvent) -> None:
        """Something came from the workers."""
        if isinstance(event, Started):
            self._workflow.clock.enter("fit")
        if isinstance(event, EpochReport):
            self._curves.add(event.epoch, event.metrics)
        self._workflow.observer.worker(self._arch, event)

    def finish(self, fitted: Fitted) -> TrainedModel:
        """Training has ended: score and register what came of it."""
        config, prepared = self._workflow.config, self._workflow.prepared
        for epoch, values in enumerate(fitted.history, start=1):
            self._curves.add(epoch, values)  # what another process had trained
        self._curves.flush()
        self._workflow.observer.evaluating(self._arch)
        built = build_classifier(prepared, self._spec, fitted.best, fitted.precision)
        classifier = built.classifier
        evaluation = evaluate(classifier, prepared, self._spec, fitted.best, fitted.precision)
        metrics = model_metrics(fitted, self._spec, classifier, evaluation)
        for file in fitted.profile:
            self._run.log_file(file)
        if self._done not in {"evaluate", "register"}:
            self._run.set_tags({DONE: "fit"})
            suspects = suspected_labels(built, evaluation, prepared, self._spec, fitted.precision)
            record_evaluation(self._run, self.name, fitted, evaluation, suspects, metrics)
        version = register_classifier(self._run, config, prepared, fitted, classifier, evaluation)
        if not version.champion:  # unless a process that was killed had come so far
            _, version = promote(
                self._workflow.ledger.tracking,
                Path(config.storage),
                version,
                config.promote,
                self._workflow.command,
            )
        self._run.end("FINISHED", {DONE: "register", "precision": fitted.precision})
        model = TrainedModel.of(self._arch, version, metrics, taken=False)
        self._workflow.observer.registered(model)
        return model

    def fail(self, error: TrainingError) -> None:
        """There will be no model."""
        self._curves.flush()
        self._run.set_tags({"failure": error})
        self._run.end("FAILED")
        self._workflow.observer.failed(self._arch, error)
