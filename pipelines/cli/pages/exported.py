"""A model in another form: what was written, and how alike it answers."""

import sys
from collections.abc import Callable
from pathlib import Path

from imgrec.classifier import Classifier
from imgrec.errors import ConfigError
from imgrec.named import is_folder_of
from imgrec.serving.export import FORMATS, Format, export
from pipelines.cli.pages.output import print_json

SUFFIXES: dict[Format, str] = {"folder": "-exported", "torch": ".pt2", "onnx": ".onnx"}
"""Not the model's own name: a folder of that name would be taken for the model from then on."""


def export_model(
    find: Callable[[], Path], model: str, form: str, out: Path | None, *, as_json: bool
) -> None:
    """Write a model, which `find` says the place of, in another form.

    Raises:
        ConfigError: there is no such form, or something is there already.
        TrackingError: there is no such model.
        ClassifierError: it cannot be exported, or answers otherwise there.
    """
    chosen = next((one for one in FORMATS if one == form), None)
    if chosen is None:
        msg = f"--format {form}: must be one of {', '.join(FORMATS)}"
        raise ConfigError(msg)
    folder = find()
    if out is None:
        name = model.removeprefix("models:/").rstrip("/")
        name = Path(name).name if is_folder_of(model) else name.replace("/", "-").replace("@", "-")
        out = Path(f"{name}{SUFFIXES[chosen]}")
    parity = export(Classifier.load(folder), folder, chosen, out)
    if as_json:
        told = {"pictures": parity.pictures, "largest_difference": parity.largest}
        print_json({"out": str(out), "format": chosen, **told})
    else:
        sys.stdout.write(
            f"{out}: answers {parity.pictures} golden pictures as {model} does, within {parity.largest:.1e}\n"
        )
