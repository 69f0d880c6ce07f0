"""What is in pictures, according to a registered model."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from imgrec.classifier import WEIGHTS, Classifier, Prediction
from imgrec.config import Config
from imgrec.data.parallel import start_decoders
from imgrec.data.sources.sample import Named
from imgrec.distributed.address import cluster_address
from imgrec.errors import UnreadError
from imgrec.models.weights import hash_of
from imgrec.named import CARD
from imgrec.priors import read_shares
from pipelines.cli.pages.output import make_console, print_json
from pipelines.predict import PART, Answer, Here, list_pictures, predict_into, refuse_ending

RUNNERS_UP = 3


def show_predictions(
    config: Config,
    model: str,
    find: Callable[[], Path],
    names: list[str],
    *,
    priors: str,
    out: Path | None,
    top: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Print a prediction for each picture, or write them into a file; what cannot be read has its reason.

    Args:
        config: Names the MLflow.
        model: What somebody calls it.
        find: Says where it lies.
        names: As `list_pictures` takes them.
        priors: How frequent classes are among them: `cat=0.9,dog=0.1`, `even`, or empty for as in the data.
        out: A file for the answers; None prints them.
        top: How many of the most probable classes to write there.
        as_json: Print one JSON object; with a file only what was done.
        quiet: Show no progress.

    Raises:
        ConfigError: the file is of no kind that is written.
        DataError: no picture is named.
        ClassifierError: the priors are none of this model.
        TrackingError: there is no such model.
        UnreadError: some could not be read; the others have been answered.
    """
    if out is not None:
        refuse_ending(out)
    named = list_pictures(names, config.data, Path(config.storage) / "downloads")
    start_decoders(1)  # one comes up while `find` waits
    folder = find()
    classifier = Classifier.load(folder)
    if priors:
        classifier = classifier.with_priors(read_shares(priors, classifier.card.class_names))
    if out is not None:
        about = {
            "weights": hash_of(folder / WEIGHTS),
            "card": hash_of(folder / CARD),
            "priors": priors,
            "top": top,
        }
        with _answering(config, classifier, named, top=top, quiet=quiet) as answer:
            _write(out, answer, named, about=about, as_json=as_json, quiet=quiet)
        return
    answered: list[tuple[str, Prediction]] = []
    unread: list[tuple[str, str]] = []
    answers = classifier.predict_each([content for _, content in named])
    for (name, _), one in zip(named, answers, strict=True):
        if isinstance(one, Prediction):
            answered.append((name, one))
        else:
            unread.append((name, str(one)))
    if as_json:
        rows = [{"file": name, **one.as_json()} for name, one in answered]
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


@contextmanager
def _answering(
    config: Config, classifier: Classifier, named: Sequence[Named], *, top: int, quiet: bool
) -> Iterator[Answer]:
    """This process answers, or, of more than a part, the nodes of a cluster if one is named."""
    if not cluster_address(config.cluster) or len(named) <= PART:
        yield Here(classifier, top)
        return
    # Only now: nothing else here needs Ray, which takes a second to import.
    from pipelines.predict_on_cluster import answering  # noqa: PLC0415

    def note(text: str) -> None:
        if not quiet:
            sys.stderr.write(f"{text}\n")

    storage = Path(config.storage)
    with answering(config.cluster, storage, classifier, named, top=top, note=note) as answer:
        yield answer


def _write(
    out: Path,
    answer: Answer,
    named: Sequence[Named],
    *,
    about: Mapping[str, Any],
    as_json: bool,
    quiet: bool,
) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True) as shown:
        task = shown.add_task("recognizing", total=len(named))
        done = predict_into(
            out,
            answer,
            named,
            about=about,
            progress=lambda count: shown.update(task, completed=count),
        )
    if as_json:
        counts = {"pictures": done.pictures, "unread": done.unread, "taken": done.taken}
        print_json({"out": str(out), **counts})
    elif not quiet:
        before = f", {done.taken} of them by an earlier command" if done.taken else ""
        several = "" if done.pictures == 1 else "s"
        sys.stderr.write(f"{done.pictures} picture{several} answered in {out}{before}\n")
    if done.first_unread:
        name, reason = done.first_unread
        msg = f"{done.unread} of {done.pictures} pictures cannot be read (such as {name}: {reason}); {out} names each"
        raise UnreadError(msg)


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
