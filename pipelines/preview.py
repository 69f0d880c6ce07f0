"""The picture of what the model will see."""

from pathlib import Path

from matplotlib.figure import Figure

from imgrec.config import Config
from imgrec.errors import DataError
from imgrec.evaluation.preview import preview_picture
from imgrec.tracking.connection import connect
from imgrec.tracking.runs import start_run
from imgrec.tracking.tags import KIND
from imgrec.training.spec import FitSpec
from pipelines.observer import Observer
from pipelines.prepare import Prepared, prepare


def write_preview(config: Config, file: Path, observer: Observer) -> FitSpec:
    """Write the picture of the first architecture's recipe, and keep it in MLflow.

    Returns:
        What that architecture would be trained with.

    Raises:
        DataError: the data cannot be used, or the file cannot be written.
    """
    observer.stage("data")
    prepared = prepare(config, observer.progress)
    for line in prepared.findings.understood():
        observer.note(line)
    spec = prepared.specs[config.archs[0]]
    figure = preview(prepared, spec)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, format="png", dpi=130)
    except OSError as error:
        msg = f"{file}: {error.strerror}"
        raise DataError(msg) from error
    observer.stage("tracking")
    tracking = connect(config.tracking, Path(config.storage), create=True)
    experiment = config.tracking.experiment or config.name
    with start_run(tracking, experiment, f"{config.name} preview", {KIND: "preview"}) as run:
        run.log_figure(figure, "preview.png")
    return spec


def preview(prepared: Prepared, spec: FitSpec) -> Figure:
    """What a model of this spec sees in training."""
    recipe = spec.make_recipe()
    filters = ", ".join(one.filter for one in spec.filters) or "no filter"
    title = f"{spec.model.arch}: {filters}; {spec.augmentation}"
    return preview_picture(prepared.store, prepared.splits.train, recipe, title, spec.seed)
