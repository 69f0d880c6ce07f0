"""What is in pictures, according to a registered model."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from imgrec.classifier import Classifier, Prediction
from imgrec.config import Config
from imgrec.errors import DataError
from pipelines.cli import print_json

RUNNERS_UP = 3


def show_predictions(config: Config, model: str, files: list[Path], *, as_json: bool) -> None:
    """Print a prediction for each file.

    Raises:
        DataError: a file cannot be read; nothing is printed then.
        TrackingError: there is no such model.
    """
    contents = [_read(file) for file in files]
    classifier = Classifier.load(_folder(config, model))
    predictions = classifier.predict(contents, [str(file) for file in files])
    if as_json:
        rows = [_as_json(file, found) for file, found in zip(files, predictions, strict=True)]
        print_json({"model": model, "predictions": rows})
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("file", "label", "probability", "then"):
        table.add_column(column)
    for file, found in zip(files, predictions, strict=True):
        ranked = sorted(found.probabilities.items(), key=lambda item: -item[1])
        rest = ", ".join(f"{name} {share:.1%}" for name, share in ranked[1 : 1 + RUNNERS_UP])
        table.add_row(
            Text(str(file)), Text(found.label), f"{found.probability:.1%}", Text(rest, style="dim")
        )
    Console(highlight=False).print(table)


def _folder(config: Config, model: str) -> Path:
    if Path(model).is_dir():
        return Path(model)
    # Only now: a classifier in a folder needs no MLflow, which takes a second to import.
    from imgrec.tracking.connection import connect  # noqa: PLC0415
    from imgrec.tracking.registry import fetch_classifier  # noqa: PLC0415

    tracking = connect(config.tracking, Path(config.storage), create=False)
    return fetch_classifier(tracking, model)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        msg = f"{file}: {error.strerror}"
        raise DataError(msg) from error


def _as_json(file: Path, found: Prediction) -> dict[str, object]:
    return {
        "file": str(file),
        "label": found.label,
        "probability": found.probability,
        "probabilities": found.probabilities,
    }
