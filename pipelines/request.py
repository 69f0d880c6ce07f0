"""What a user asks for: settings from options and files, checked once."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.machine import keep_caches_in

if TYPE_CHECKING:
    from imgrec.config import Config

DIGITS = Path(__file__).parent / "configs" / "digits.toml"
TUNE_TRIALS = 20


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asks for.

    Attributes:
        config: Checked.
        written: The settings as they were written, in the file and in options.
    """

    config: "Config"
    written: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SubmitTarget:
    """Where `submit` sends what follows it."""

    address: str
    install: bool
    again: bool
    detach: bool


@dataclass(frozen=True, slots=True)
class RunFlags:
    """How a run is to be done, beside its settings."""

    fresh: bool = False
    as_json: bool = False
    quiet: bool = False
    profile: bool = False


def refuse_missing_data(config: "Config") -> None:
    """Before torch, Ray and MLflow are imported, which takes seconds.

    Raises:
        DataError: the source is not there.
    """
    from imgrec.data.sources import refuse_missing  # noqa: PLC0415

    refuse_missing(config.data.source)


def load_settings(
    path: Path | None,
    data: str | None = None,
    archs: list[str] | None = None,
    settings: list[str] | None = None,
) -> "Config":
    """The settings of `make_request` alone."""
    return make_request(path, data, archs, settings=settings).config


def make_request(
    path: Path | None,
    data: str | None = None,
    archs: list[str] | None = None,
    *,
    name: str | None = None,
    settings: list[str] | None = None,
    trials: int | None = None,
    budget: str | None = None,
    seeds: int | None = None,
) -> Request:
    """Settings from a file and from options, checked; without file and data those of the digits.

    Args:
        path: A TOML file.
        data: What `--data` said.
        archs: Architectures.
        name: First part of the names of models.
        settings: What `--set` said, strongest of all.
        trials: Of a search.
        budget: Of a search, such as `10m`.
        seeds: How many to train each architecture with.

    Raises:
        ConfigError: a setting is wrong.
    """
    from imgrec.config import load_config, written_settings  # noqa: PLC0415

    file, source = path, None if data is None else absolute(data)
    if file is None and data in {None, "digits"}:
        file = DIGITS
    options = {"name": name, "archs": archs, "seeds": seeds}
    options |= {"search.trials": trials, "search.budget": budget}
    changes = [f"{key}={json.dumps(said)}" for key, said in options.items() if said is not None]
    changes += settings or []
    if source is not None:
        changes.insert(0, f"data.source={json.dumps(source)}")
    config = load_config(file, changes)
    keep_caches_in(Path(config.storage))
    return Request(config, written_settings(file, changes))


def absolute(source: str) -> str:
    """A path from the root of the disk; what is no path as it is."""
    is_path = source != "digits" and ":" not in source
    return str(Path(source).expanduser().absolute()) if is_path else source
