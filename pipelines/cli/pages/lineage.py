"""Where a model comes from."""

from typing import Any

from rich.table import Table
from rich.text import Text

from imgrec.config import Config
from imgrec.errors import ClassifierError
from imgrec.evaluation.golden import MOST_DIFFERENT
from imgrec.tracking.doors import ask_all_doors
from imgrec.tracking.versions import find_version
from pipelines.cli.pages.output import make_console, open_record, print_json
from pipelines.formats import shown
from pipelines.lineage import Lineage, find_lineage


def show_lineage(config: Config, model: str, *, check: bool, as_json: bool) -> None:
    """Print all that is on record of a version.

    Raises:
        TrackingError: there is no such version.
        ClassifierError: it was asked, and answers otherwise than when it was registered.
    """
    tracking = open_record(config)
    lineage = find_lineage(tracking, model)
    doors = ask_all_doors(tracking, find_version(tracking, model)) if check else {}
    if as_json:
        told = {
            door: {"largest": one.largest, "pictures": one.pictures} for door, one in doors.items()
        }
        print_json(lineage.as_json() | ({"doors": told} if check else {}))
    else:
        console = make_console()
        console.print(_table(lineage))
        for door, one in doors.items():
            console.print(
                f"{door}: {one.pictures} golden pictures, largest difference {one.largest:.1e}"
            )
    if other := {door: one for door, one in doors.items() if not one.holds}:
        door, one = next(iter(other.items()))
        msg = (
            f"{lineage.name}/{lineage.version}: {door} it answers otherwise than when it was registered, by "
            f"{one.largest:.2g} ({one.where}); at most {MOST_DIFFERENT:g} is allowed"
        )
        raise ClassifierError(msg)


def _table(lineage: Lineage) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _rows(lineage):
        table.add_row(name, Text(text))
    return table


def _rows(lineage: Lineage) -> list[tuple[str, str]]:
    about, data, search = lineage.about, lineage.data, lineage.search
    leads = lineage.champion_version == lineage.version
    state = (
        "champion" if leads else f"not champion (version {lineage.champion_version or 'none'} is)"
    )
    rows = [
        ("model", f"{lineage.name} version {lineage.version}: {state}"),
        ("why", lineage.why),
        ("tells apart", about.get("classes", "")),
        ("test accuracy", about.get("accuracy", "")),
        ("macro-F1", about.get("macro_f1", "")),
        ("log loss", about.get("log_loss", "")),
        ("data", f"{lineage.source}, fingerprint {data['fingerprint']}"),
        ("pictures", _counts(data)),
        ("begins with", lineage.begins_with),
        ("network", f"{lineage.arch}: {lineage.network}"),
        ("settings", _settings(lineage.settings)),
        ("seed", str(lineage.seed)),
        ("kept epoch", str(lineage.epoch)),
        ("arithmetic", f"{lineage.arithmetic}, trained on {lineage.devices}"),
        ("cores", f"{lineage.cores} for each worker" if lineage.cores else ""),
        ("code", lineage.code),
        ("parity", _parity(lineage)),
        ("run", lineage.run_id),
        ("command", lineage.command),
    ]
    if search:
        chosen = ", ".join(f"{key} = {shown(one)}" for key, one in search.settings.items())
        text = f"trial {search.trial} of {search.trials}: {chosen or 'the defaults'} (run {search.run_id[:12]})"
        rows.insert(11, ("search", text))
    rows += [
        ("decision", f"{one.outcome}: {one.reason} ({one.asked_by})") for one in lineage.decisions
    ]
    return [(name, text) for name, text in rows if text]


def _counts(data: dict[str, Any]) -> str:
    counts = f"{data['train']:,} train, {data['val']:,} val"
    if "calibrating" in data:
        counts += f" ({data['choosing']:,} chose, {data['calibrating']:,} calibrated)"
    return f"{counts}, {data['test']:,} test; {data['quarantined']:,} left out"


def _settings(settings: dict[str, tuple[Any, Any]]) -> str:
    told = (
        f"{key} = {shown(value)} ({shown(default)})" for key, (value, default) in settings.items()
    )
    return ", ".join(told) or "the defaults"


def _parity(lineage: Lineage) -> str:
    one = lineage.parity
    if one is None:
        return "an earlier imgrec registered it without"
    return f"largest difference {one.largest:.1e} over {one.pictures} golden pictures, in memory, saved and as MLflow loads it"
