"""What is in pictures, according to a registered model."""

import glob
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from imgrec.classifier import Classifier, Prediction
from imgrec.config import Config
from imgrec.data.content import Content, InMemoryFile, Missing
from imgrec.data.sources.node import looks_like_picture
from imgrec.data.sources.sample import MOST_BYTES, File
from imgrec.errors import ClassifierError, DataError, UnreadError
from pipelines.cli.pages.output import make_console, open_record, print_json

RUNNERS_UP = 3
EVEN = "even"


def show_predictions(
    config: Config, model: str, files: list[str], *, priors: str, as_json: bool
) -> None:
    """Print a prediction for each file; those that cannot be read are listed with their reasons.

    Args:
        config: Names the MLflow.
        model: Registered, or a folder.
        files: Paths of pictures or of folders, patterns, or `-` for a picture on standard input.
        priors: How frequent classes are among them: `cat=0.9,dog=0.1`, `even`, or empty for as in the data.
        as_json: Print one JSON object.

    Raises:
        DataError: no picture is named.
        ClassifierError: the priors are none of this model.
        TrackingError: there is no such model.
        UnreadError: some could not be read; the others have been answered.
    """
    named = [one for name in files for one in _pictures(name)]
    if all(isinstance(content, Missing) for _, content in named):
        msg = f"{' '.join(files)}: no picture there"
        raise DataError(msg)
    classifier = Classifier.load(_folder(config, model))
    if priors:
        classifier = classifier.with_priors(_shares(priors, classifier.card.class_names))
    answered: list[tuple[str, Prediction]] = []
    unread: list[tuple[str, str]] = []
    answers = classifier.predict_each([content for _, content in named])
    for (name, _), answer in zip(named, answers, strict=True):
        if isinstance(answer, Prediction):
            answered.append((name, answer))
        else:
            unread.append((name, str(answer)))
    if as_json:
        rows = [_as_json(name, one) for name, one in answered]
        left_out = [{"file": name, "reason": reason} for name, reason in unread]
        print_json({"model": model, "predictions": rows, "unread": left_out})
    else:
        _print(answered, unread)
    if unread:
        name, reason = unread[0]
        msg = f"{name}: {reason}"
        if len(named) > 1:
            msg = f"{len(unread)} of {len(named)} pictures cannot be read (such as {msg})"
        raise UnreadError(msg)


def _shares(priors: str, class_names: Sequence[str]) -> dict[str, float]:
    """What `--priors` says."""
    if priors == EVEN:
        return dict.fromkeys(class_names, 1.0)
    shares = {}
    for part in priors.split(","):
        name, equals, share = part.rpartition("=")
        try:
            shares[name.strip()] = float(share)
        except ValueError:
            equals = ""
        if not equals:
            msg = f"--priors {priors}: write cat=0.9,dog=0.1, or {EVEN}"
            raise ClassifierError(msg)
    return shares


def _pictures(name: str) -> list[tuple[str, Content]]:
    """The pictures that a name stands for, and where their bytes are."""
    path = Path(name)
    if name == "-":
        content = sys.stdin.buffer.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            return [(name, Missing(f"more than {MOST_BYTES >> 20} MiB"))]
        return [(name, InMemoryFile(content))]
    if path.is_dir():
        below = (file for file in sorted(path.rglob("*")) if looks_like_picture(file.name))
        files = [str(file) for file in below if file.is_file()]
    elif not path.exists() and any(mark in name for mark in "*?["):
        files = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - of any depth, as a shell's
    else:
        files = [name]
    return [(file, File(file)) for file in files] or [(name, Missing("no picture there"))]


def _print(answered: list[tuple[str, Prediction]], unread: list[tuple[str, str]]) -> None:
    console = make_console()
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("file", "label", "probability", "then"):
        table.add_column(column)
    for name, prediction in answered:
        ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
        others = [(label, share) for label, share in ranked if label != prediction.label]
        rest = ", ".join(f"{label} {share:.1%}" for label, share in others[:RUNNERS_UP])
        table.add_row(
            Text(name),
            Text(f"not sure: {prediction.label}", style="yellow")
            if prediction.abstained
            else Text(prediction.label),
            f"{prediction.probability:.1%}",
            Text(rest, style="dim"),
        )
    if answered:
        console.print(table)
    for name, reason in unread:
        console.print(Text(f"{name}: {reason}", style="yellow"), soft_wrap=True)


def _folder(config: Config, model: str) -> Path:
    if Path(model).is_dir():
        return Path(model)
    # Only now: a classifier in a folder needs no MLflow, which takes a second to import.
    from imgrec.tracking.versions import fetch_classifier  # noqa: PLC0415

    tracking = open_record(config)
    return fetch_classifier(tracking, model)


def _as_json(file: str, prediction: Prediction) -> dict[str, object]:
    return {
        "file": file,
        "label": prediction.label,
        "probability": prediction.probability,
        "probabilities": prediction.probabilities,
        "abstained": prediction.abstained,
        "possible": list(prediction.possible),
    }
