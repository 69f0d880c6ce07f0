"""The workflow: prepare, then fit, evaluate and register every architecture, then rank them."""

import shutil
import time
from pathlib import Path

from imgrec.config import Arch, Config
from imgrec.distributed.events import Progress
from imgrec.distributed.fit import fit_on_workers
from imgrec.distributed.session import Session, ray_session
from imgrec.errors import TrainingError
from imgrec.tracking.connection import connect
from imgrec.tracking.runs import Run, start_run
from imgrec.training.loop import EpochReport
from pipelines.display import Display
from pipelines.evaluate import build_classifier, evaluate
from pipelines.prepare import Prepared, prepare
from pipelines.record import record_branch, record_evaluation, record_inputs, register_classifier
from pipelines.summary import Summary, TrainedModel


def run(config: Config, display: Display, log_file: Path) -> Summary:
    """Settings to registered models.

    Raises:
        ImgrecError: before anything is started, where settings, data or services are wrong.
    """
    started = time.perf_counter()
    display.stage("tracking")
    tracking = connect(config.tracking, Path(config.storage), create=True)
    display.stage("data")
    prepared = prepare(config, display.progress)
    display.prepared(prepared)
    experiment = config.tracking.experiment or config.name
    with start_run(tracking, experiment, config.name, {"imgrec.kind": "workflow"}) as workflow:
        record_inputs(workflow, config, prepared)
        checkpoints = Path(config.storage) / "ray" / workflow.id
        display.stage("ray")
        try:
            with ray_session(config.cluster, log_file) as session:
                display.stage("train")
                models, failures = _train_all(
                    config, prepared, session, checkpoints, workflow, display
                )
        finally:
            shutil.rmtree(checkpoints, ignore_errors=True)
        summary = Summary(
            name=config.name,
            tracking_uri=tracking.uri,
            run_id=workflow.id,
            store=prepared.store,
            splits=prepared.splits,
            models=models,
            failures=failures,
            seconds=time.perf_counter() - started,
        )
        workflow.log_metrics({"seconds": summary.seconds, "models": len(models)})
        workflow.log_table(*summary.leaderboard(), "leaderboard.json")
        if failures:
            workflow.end("FAILED")
    return summary


def _train_all(
    config: Config,
    prepared: Prepared,
    session: Session,
    checkpoints: Path,
    workflow: Run,
    display: Display,
) -> tuple[list[TrainedModel], dict[Arch, str]]:
    """Every architecture, each registered as it ends; one that fails does not stop the others."""
    arch_of = {f"{config.name}-{arch}": arch for arch in prepared.jobs}
    runs: dict[Arch, Run] = {}

    def on_event(name: str, event: Progress) -> None:
        arch = arch_of[name]
        if arch not in runs:
            runs[arch] = record_branch(workflow, config, prepared.jobs[arch])
        if isinstance(event, EpochReport):
            runs[arch].log_metrics(event.metrics, step=event.epoch)
        display.event(arch, event)

    models: list[TrainedModel] = []
    failures: dict[Arch, str] = {}
    fits = fit_on_workers(
        session,
        {name: prepared.jobs[arch] for name, arch in arch_of.items()},
        config.cluster,
        storage=checkpoints,
        on_event=on_event,
    )
    for name, outcome in fits:
        arch = arch_of[name]
        if isinstance(outcome, TrainingError):
            failures[arch] = str(outcome)
            display.failed(arch, outcome)
            if arch in runs:
                runs[arch].set_tags({"failure": outcome})
                runs[arch].end("FAILED")
            continue
        display.evaluating(arch)
        classifier = build_classifier(config, prepared, arch, outcome)
        evaluation = evaluate(classifier, prepared)
        record_evaluation(runs[arch], f"{config.name}-{arch}", outcome, evaluation)
        version = register_classifier(runs[arch], config, prepared, outcome, classifier, evaluation)
        runs[arch].end("FINISHED")
        models.append(TrainedModel.of(arch, version, outcome, classifier, evaluation))
        display.registered(models[-1])
    return sorted(models, key=lambda model: -model.test.macro_f1), failures
