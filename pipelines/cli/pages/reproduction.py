"""A model made again."""

import tempfile
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from imgrec.config import Config
from imgrec.errors import TrainingError
from pipelines.cli.pages.live import LiveTable
from pipelines.cli.pages.output import make_console, open_record, print_json
from pipelines.lineage import find_lineage
from pipelines.logs import chatter_to, log_to_file
from pipelines.reproduce import reproduce


def show_reproduction(config: Config, model: str, *, as_json: bool, quiet: bool) -> None:
    """Train a version again, and say whether it came out the same.

    Raises:
        TrainingError: it did not.
    """
    tracking = open_record(config)
    lineage = find_lineage(tracking, model)
    log_file = log_to_file(Path(config.storage))
    with (
        tempfile.TemporaryDirectory(prefix="imgrec-") as temporary,
        closing(LiveTable(quiet=quiet)) as observer,
        chatter_to(log_file),
    ):
        found = reproduce(tracking, lineage, Path(temporary), observer, log_file)
    then, now = found.accuracy
    what = f"{lineage.name}/{lineage.version}"
    if as_json:
        print_json({"model": what} | asdict(found))
    if not found.same:
        because = (
            "; ".join(found.changed)
            or "another machine, or more than one worker, computes sums in another order"
        )
        msg = (
            f"{what}: other weights, by {found.largest:.2g} at most; test accuracy {then:.3f} then and {now:.3f} now "
            f"({because})"
        )
        raise TrainingError(msg)
    if not as_json:
        make_console().print(f"{what}: the same weights, bit for bit; test accuracy {now:.3f}")
