"""The report of a run, as a file."""

import sys
import webbrowser
from pathlib import Path

from imgrec.config import Config
from imgrec.errors import ConfigError, disk_failure
from imgrec.evaluation.report import report_page
from imgrec.evaluation.words import LANGUAGES, Language
from pipelines.cli.pages.output import open_record, print_json
from pipelines.report import find_report


def write_report(
    config: Config, run: str, *, language: str, out: Path | None, show: bool, as_json: bool
) -> None:
    """Write the page, and say where; or print its numbers.

    Raises:
        ConfigError: there is no such language, or the file cannot be written.
    """
    chosen: Language | None = next((one for one in LANGUAGES if one == language), None)
    if chosen is None:
        msg = f"--language {language}: must be one of {', '.join(LANGUAGES)}"
        raise ConfigError(msg)
    report = find_report(open_record(config), run)
    if as_json:
        print_json(report.as_json())
        return
    file = (out or Path(f"{report.name}-report.html")).absolute()
    try:
        file.write_text(report_page(report, chosen), encoding="utf-8")
    except OSError as error:
        if failure := disk_failure(error):
            raise failure from error
        msg = f"--out {file}: cannot be written ({error.strerror})"
        raise ConfigError(msg) from error
    sys.stdout.write(f"{file}\n")
    if show:
        webbrowser.open(file.as_uri())
