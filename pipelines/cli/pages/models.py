"""What is registered."""

from rich.table import Table

from imgrec.config import Config
from imgrec.tracking.tags import ARCH
from imgrec.tracking.versions import RegisteredVersion, list_versions
from pipelines.cli.pages.output import make_console, open_record, print_json

SCORES = ("accuracy", "macro_f1", "balanced_accuracy", "log_loss")


def show_models(config: Config, *, as_json: bool) -> None:
    """Print every version of every registered model, newest first."""
    tracking = open_record(config)
    versions, others = list_versions(tracking)
    if as_json:
        rows = [_as_json(version) for version in versions]
        print_json({"tracking_uri": tracking.uri, "models": rows, "not_ours": others})
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    columns = ("model", "version", "", "begins with", "test accuracy", "macro-F1", "data", "run")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for version in versions:
        table.add_row(
            version.name,
            str(version.version),
            "champion" if version.champion else "challenger" if version.challenger else "",
            version.begins_with,
            f"{float(version.tags['test/accuracy']):.4f}",
            f"{float(version.tags['test/macro_f1']):.4f}",
            version.tags["data.fingerprint"][:12],
            version.run_id[:12],
        )
    console = make_console()
    console.print(table if versions else "no model is registered yet: imgrec run")
    if others:
        console.print(f"[dim]{others} more have imgrec's mark, but somebody else wrote them[/]")


def _as_json(version: RegisteredVersion) -> dict[str, object]:
    tags = {**version.tags, "test/log_loss": version.tags["test/loss"]}
    return {
        "registered_model": version.name,
        "version": version.version,
        "champion": version.champion,
        "challenger": version.challenger,
        "run_id": version.run_id,
        "arch": version.tags[ARCH],
        "begins_with": version.begins_with,
        "data_fingerprint": version.tags["data.fingerprint"],
        "code_version": version.tags["code.version"],
        "test": {score: float(tags[f"test/{score}"]) for score in SCORES},
    }
