"""From settings to a registered model: fit, evaluate, register, for several architectures."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imgrec.classifier import Classifier
from imgrec.config import Arch, Config
from imgrec.distributed.demand import idle_gpus
from imgrec.distributed.events import ProgressEvent, Started
from imgrec.distributed.fit import Fitted, fit_on_workers
from imgrec.distributed.session import Session
from imgrec.errors import TrainingError
from imgrec.evaluation.scores import Evaluation
from imgrec.machine import PatientImport, give_memory_back
from imgrec.tracking.query import metric_history
from imgrec.tracking.tags import DONE, SEARCHED
from imgrec.tracking.versions import version_of
from imgrec.training.answers import read_answers
from imgrec.training.loop import EpochReport
from imgrec.training.metrics import MONITOR
from imgrec.training.spec import FitSpec
from pipelines.arithmetic import decide_arithmetic, in_arithmetic, refuse_vain_graphs
from pipelines.evaluate import build_classifier, evaluate, suspected_labels
from pipelines.formats import cores_in_words
from pipelines.preview import preview
from pipelines.promote import promote
from pipelines.record.curves import Curves
from pipelines.record.entries import (
    model_metrics,
    name_of,
    record_evaluation,
    start_model,
)
from pipelines.record.ledger import rank_of
from pipelines.record.register import register_classifier
from pipelines.results import TrainedModel
from pipelines.searched import Searched
from pipelines.workflow import Workflow

ModelOutcome = TrainedModel | TrainingError
SCORING = ("torch._dynamo", "scipy.stats", "torchvision.transforms.v2")
"""What scoring is going to import: two seconds, beside the first steps of the workers."""


def train(
    workflow: Workflow,
    specs: Mapping[Arch, Sequence[FitSpec]],
    searches: Mapping[Arch, Searched],
    *,
    done: Container[Arch] = (),
    profile: bool = False,
) -> dict[Arch, ModelOutcome]:
    """Train and score, and register each architecture's best seed as it ends; one that fails stops no other.

    A fit that a trial or an interrupted run has begun goes on from its last checkpoint; one that was
    trained to its end needs no worker.

    Args:
        workflow: The run that the models' runs stand below.
        specs: What the run trains: of each architecture one spec for each seed.
        searches: What has chosen their settings.
        done: Architectures whose models are on record.
        profile: Trace some steps of each.
    """
    groups = {
        arch: _Seeds(workflow, arch, each, searches.get(arch))
        for arch, each in specs.items()
        if arch not in done
    }
    begun: dict[str, Path] = {}
    waiting: dict[str, _Model] = {}
    for group in groups.values():
        for model in group.models:
            left = workflow.left_of(model.spec)
            if isinstance(left, Fitted):
                workflow.clock.enter("register")
                workflow.observer.trained_already(model.told)
                group.ended(model, left)
                continue
            waiting[model.name] = model
            if left:
                begun[model.name] = left
    if not waiting:
        return {arch: group.outcome for arch, group in groups.items()}
    session = workflow.session()
    arithmetics = decide_arithmetic(workflow)
    whole = workflow.demand
    refuse_vain_graphs(workflow, arithmetics, use_gpu=whole.use_gpu, workers=whole.workers)
    _say_what_is_idle(workflow, session, len(waiting))
    demand = workflow.demand_of([spec for each in specs.values() for spec in each])
    if session.is_local and demand.is_one and demand.room > 1 and not demand.use_gpu:
        workflow.observer.note(
            f"small networks: {demand.room} at a time, on {cores_in_words(demand.cpus)} each"
        )
    workflow.begin("train")
    give_memory_back()  # what looking at the pictures took, to the workers
    fits = fit_on_workers(
        session,
        {name: in_arithmetic(model.spec, arithmetics) for name, model in waiting.items()},
        workflow.config.cluster,
        demand,
        storage=workflow.work,
        on_event=lambda name, event: waiting[name].progress(event),
        resume=begun,
        profile=profile,
        answers=True,
    )
    with PatientImport(SCORING) as imports:
        for number, (name, outcome) in enumerate(fits, start=1):
            imports.wait()
            if number == len(waiting):  # nothing is left to train
                workflow.clock.enter("register")
                if session.is_local:
                    workflow.let_ray_go()
            groups[waiting[name].arch].ended(waiting[name], outcome)
    return {arch: group.outcome for arch, group in groups.items()}


def _say_what_is_idle(workflow: Workflow, session: Session, models: int) -> None:
    """Whoever pays for GPUs is to know of those that nobody trains on."""
    cluster = workflow.config.cluster
    if idle := idle_gpus(session.nodes, cluster, workflow.demand, models):
        workflow.observer.note(
            f"GPUs with nothing to do: {idle}; cluster.workers = {cluster.workers} says how many train a model together"
        )


def told_of(config: Config, spec: FitSpec) -> str:
    """What a model is called while it is trained: `cnn`; with other seeds than the first `cnn seed 1`."""
    arch = spec.model.arch
    return arch if spec.seed == config.seed else f"{arch} seed {spec.seed}"


class _Seeds:
    """An architecture trained with one seed or several, of which the best on validation is registered."""

    def __init__(
        self,
        workflow: Workflow,
        arch: Arch,
        specs: Sequence[FitSpec],
        search: Searched | None,
    ) -> None:
        self._workflow, self._arch = workflow, arch
        self._known = workflow.ledger.scored(specs)
        workflow.observer.will_train({told_of(workflow.config, spec): spec for spec in specs})
        self.models = [
            _Model(workflow, arch, spec, search) for spec in specs if spec.key not in self._known
        ]
        self._left = len(self.models)
        self._best: _Model | None = None
        self._error: TrainingError | None = None
        self._outcome: ModelOutcome | None = None
        if not self._left:
            self._finish()

    @property
    def outcome(self) -> ModelOutcome:
        """The registered model, or why there is none; after the last seed."""
        assert self._outcome
        return self._outcome

    def ended(self, model: "_Model", outcome: Fitted | TrainingError) -> None:
        """A seed was trained, or came to nothing."""
        self._left -= 1
        if isinstance(outcome, TrainingError):
            model.fail(outcome)
            self._error = outcome
        else:
            model.score(outcome)
            if self._best is None:
                self._best = model
            else:
                worse, self._best = sorted((self._best, model), key=lambda one: one.rank)
                worse.let_go()
        if not self._left:
            self._finish()
        give_memory_back()  # what scoring took, to the workers of the next models

    def _finish(self) -> None:
        """All seeds have ended: register the best, unless that is on record already."""
        if self._error:
            if self._best:
                self._best.let_go()
            self._outcome = self._error
            return
        runs = (*(one.id for one in self._known.values()), *(one.run_id for one in self.models))
        known = max(self._known.values(), key=rank_of, default=None)
        if known and (self._best is None or rank_of(known) >= self._best.rank):
            if self._best:
                self._best.let_go()
            version = version_of(self._workflow.ledger.tracking, known.id)
            assert version
            model = TrainedModel.of(self._arch, version, known.metrics, taken=True, seed_runs=runs)
        else:
            assert self._best
            model = self._best.register(runs)
        self._outcome = model
        self._workflow.observer.registered(model)


@dataclass(frozen=True, slots=True)
class _Scored:
    """A fit with its classifier and what it came to."""

    fitted: Fitted
    classifier: Classifier
    evaluation: Evaluation
    metrics: dict[str, float]


class _Model:
    """One fit's way from its first epoch to the registry."""

    def __init__(
        self, workflow: Workflow, arch: Arch, spec: FitSpec, search: Searched | None
    ) -> None:
        ledger = workflow.ledger
        self.name = name_of(ledger.config, spec)
        self.told = told_of(ledger.config, spec)
        self.arch, self.spec = arch, spec
        self._workflow = workflow
        self._scored: _Scored | None = None
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
        if search:
            self._run.set_tags({SEARCHED: search.run_id})
        self.run_id = self._run.id
        self._curves = Curves(self._run, list(known))

    @property
    def rank(self) -> tuple[float, float]:
        """How good it is on the pictures that choose: the larger, the better."""
        assert self._scored
        val = self._scored.fitted.best.val
        return val.macro_f1, -val.loss

    def progress(self, event: ProgressEvent) -> None:
        """Something came from the workers."""
        if isinstance(event, Started):
            self._workflow.clock.enter("fit")
        if isinstance(event, EpochReport):
            self._curves.add(event.epoch, event.metrics)
        self._workflow.observer.worker(self.told, event)

    def score(self, fitted: Fitted) -> None:
        """Training has ended: what came of it, on record."""
        prepared = self._workflow.prepared
        for epoch, values in enumerate(fitted.history, start=1):
            self._curves.add(epoch, values)  # what another process had trained
        self._curves.flush()
        self._workflow.observer.evaluating(self.told)
        of_val, of_test = read_answers(fitted.folder, prepared.splits) or (None, None)
        built = build_classifier(prepared, self.spec, fitted.best, fitted.precision, of_val)
        classifier = built.classifier
        evaluation = evaluate(
            classifier, prepared, self.spec, fitted.best, fitted.precision, of_test
        )
        metrics = model_metrics(fitted, self.spec, classifier, evaluation)
        for file in fitted.profile:
            self._run.log_file(file)
        if self._done not in {"evaluate", "register"}:
            self._run.set_tags({DONE: "fit"})
            suspects = suspected_labels(built, evaluation, prepared, self.spec, fitted.precision)
            record_evaluation(
                self._run, self.name, fitted, evaluation, suspects, metrics, self.spec
            )
        self._scored = _Scored(fitted, classifier, evaluation, metrics)
        wanted = self._workflow.config.calibrate.precision
        if wanted and classifier.card.abstention is None:
            self._workflow.observer.note(
                f"{self.arch}: calibrate.precision = {wanted:g} cannot be promised by "
                f"{len(prepared.splits.calibrating):,} calibrating pictures: it always answers"
            )
        if self._workflow.config.seeds > 1:
            val, test = fitted.best.val.macro_f1, evaluation.scores.accuracy
            self._workflow.observer.note(
                f"{self.arch}: seed {self.spec.seed}: val macro-F1 {val:.4f}, test accuracy {test:.4f}"
            )

    def let_go(self) -> None:
        """Another seed is better: its scores stay on record, and its weights go."""
        assert self._scored
        self._run.end("FINISHED", {"precision": self._scored.fitted.precision})
        self._scored = None

    def register(self, seed_runs: tuple[str, ...]) -> TrainedModel:
        """The best of its seeds: make it a version, and champion if it has earned that."""
        assert self._scored
        config, one = self._workflow.config, self._scored
        version = register_classifier(
            self._run, config, self._workflow.prepared, one.fitted, one.classifier, one.evaluation
        )
        if not version.champion:  # unless a process that was killed had come so far
            _, version = promote(
                self._workflow.ledger.tracking,
                Path(config.storage),
                version,
                config.promote,
                self._workflow.command,
            )
        self._run.end("FINISHED", {DONE: "register", "precision": one.fitted.precision})
        return TrainedModel.of(self.arch, version, one.metrics, taken=False, seed_runs=seed_runs)

    def fail(self, error: TrainingError) -> None:
        """There will be no model."""
        self._curves.flush()
        self._run.set_tags({"failure": error})
        self._run.end("FAILED")
        self._workflow.observer.failed(self.told, error)
