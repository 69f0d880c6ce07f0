"""Where the picture of what the model will see is."""

import sys
from contextlib import closing
from pathlib import Path

from imgrec.config import Config
from pipelines.cli.pages.live import LiveTable
from pipelines.cli.pages.output import print_json
from pipelines.preview import write_preview


def show_preview(config: Config, file: Path, *, as_json: bool, quiet: bool, began: float) -> None:
    """Write the picture of the first architecture's recipe.

    Args:
        config: Names the data.
        file: Where to.
        as_json: Print one JSON object.
        quiet: Show no progress.
        began: When the command did, by `time.monotonic`.

    Raises:
        DataError: the data cannot be used, or the file cannot be written.
    """
    with closing(LiveTable(quiet=quiet, began=began)) as observer:
        spec = write_preview(config, file, observer)
    if as_json:
        seen = {"filters": [one.filter for one in spec.filters], "augment": str(spec.augmentation)}
        print_json({"file": str(file), "arch": spec.model.arch} | seen)
    else:
        sys.stdout.write(f"{file}\n")
