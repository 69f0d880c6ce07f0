"""TOML and `--set` to a checked `Config`."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imgrec.config.architectures import ARCHS, Arch
from imgrec.config.branch import Branch, make_branch
from imgrec.config.check import SECTIONS, SHARED, checked, unknown
from imgrec.config.data import DataConfig
from imgrec.config.sections import (
    CalibrateConfig,
    ClusterConfig,
    General,
    PretrainedConfig,
    PromoteConfig,
    ReportConfig,
    SearchConfig,
    ServeConfig,
    TrackingConfig,
)
from imgrec.errors import ConfigError

FILES = (
    ".7z",
    ".tar.gz",
    ".tar.xz",
    ".tar.bz2",
    ".tgz",
    ".tar",
    ".zip",
    ".csv",
    ".tsv",
    ".txt",
    ".jsonl",
    ".ndjson",
    ".parquet",
)
"""Endings of sources that are no part of a run's name."""


class Config(General):
    """One whole run, checked and complete."""

    data: DataConfig
    pretrained: PretrainedConfig
    search: SearchConfig
    calibrate: CalibrateConfig
    promote: PromoteConfig
    report: ReportConfig
    serve: ServeConfig
    cluster: ClusterConfig
    tracking: TrackingConfig
    branches: tuple[Branch, ...]
    """One for each of archs, in the same order."""

    def branch(self, arch: Arch) -> Branch:
        """The settings of one of archs."""
        return self.branches[self.archs.index(arch)]


def load_config(path: Path | None = None, settings: Sequence[str] = ()) -> Config:
    """A TOML file (or nothing but defaults), with settings `a.b=value` on top, checked.

    Raises:
        ConfigError: the file cannot be read, or a key is unknown, of the wrong type or out of
            range; the message names the key and the cure.
    """
    tables = _tables(written_settings(path, settings))
    for name, section in SHARED.items():
        checked(section, name, tables.get(name, {}))
    # Of all architectures, trained or not: a misspelt key is wrong all the same.
    branches = {arch: _branch(arch, tables) for arch in ARCHS}
    data = checked(DataConfig, "data", tables.get("data", {}))
    general = checked(General, "", {"name": _name_of(data.source)} | tables[""])
    search = checked(SearchConfig, "search", tables.get("search", {}))
    return Config(
        **dict(general),
        data=data,
        pretrained=checked(PretrainedConfig, "pretrained", tables.get("pretrained", {})),
        search=search,
        calibrate=checked(CalibrateConfig, "calibrate", tables.get("calibrate", {})),
        report=checked(ReportConfig, "report", tables.get("report", {})),
        promote=checked(PromoteConfig, "promote", tables.get("promote", {})),
        serve=checked(ServeConfig, "serve", tables.get("serve", {})),
        cluster=ClusterConfig(**tables.get("cluster", {})),
        tracking=TrackingConfig(**tables.get("tracking", {})),
        branches=tuple(branches[arch] for arch in general.archs),
    )


def written_settings(path: Path | None, settings: Sequence[str]) -> dict[str, Any]:
    """What a file and `--set` say together, as it was written: nothing is checked or filled in.

    Raises:
        ConfigError: the file cannot be read, or a setting is not of the form `a.b=value`.
    """
    document = _read(path) if path else {}
    for setting in settings:
        _apply(document, setting)
    return document


def _name_of(source: str) -> str:
    """The source's own name, without what the name of a model must not hold."""
    path = Path(source.rpartition(":")[2]).expanduser().absolute()
    if "*" in path.name:
        path = path.parent
    ending = next((one for one in FILES if path.name.lower().endswith(one)), "")
    stem = path.name.removesuffix(path.name[-len(ending) :]) if ending else path.name
    name = re.sub(r"[^\w.-]+", "-", stem).strip("-._")
    return name[:100] or "pictures"


def _branch(arch: Arch, tables: Mapping[str, dict[str, Any]]) -> Branch:
    written = {
        part: tables.get(part, {}) | tables.get(f"{arch}.{part}", {})
        for part in ("model", "train", "preprocess")
    }
    return make_branch(arch, written, tables.get(f"{arch}.space", {}))


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        msg = f"{path}: no such file"
    except OSError as error:
        msg = f"{path}: {error.strerror}"
    except UnicodeDecodeError:
        msg = f"{path}: not a text file in UTF-8"
    except tomllib.TOMLDecodeError as error:
        msg = f"{path}: not TOML: {error}"
    raise ConfigError(msg)


def _apply(document: dict[str, Any], setting: str) -> None:
    """Put `a.b.c=value` into document; the value is TOML, or else taken as a string."""
    key, equals, text = setting.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        msg = f"--set {setting}: write key=value, such as train.epochs=20"
        raise ConfigError(msg)
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    table = document
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            msg = f"--set {setting}: {part} is a setting, not a section"
            raise ConfigError(msg)
    table[parts[-1]] = value


def _tables(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The document as flat sections: `""` (keys above all sections), `train`, `cnn.model`, ..."""
    tables: dict[str, dict[str, Any]] = {"": {}}
    for key, value in document.items():
        if key in General.model_fields or not isinstance(value, Mapping):
            tables[""][key] = value
        elif key in SHARED:
            tables[key] = dict(value)
        elif key in ARCHS:
            for part, inner in value.items():
                if f"{key}.{part}" not in SECTIONS and part != "space":
                    raise ConfigError(unknown(f"{key}.{part}"))
                if not isinstance(inner, Mapping):
                    msg = f"{key}.{part} = {inner!r}: this is a section; set a key inside it"
                    raise ConfigError(msg)
                tables[f"{key}.{part}"] = dict(inner)
        else:
            inner_key = next(iter(value), "")
            raise ConfigError(unknown(f"{key}.{inner_key}".rstrip(".")))
    for key, value in tables[""].items():
        if key in SHARED or key in ARCHS:
            msg = f"{key} = {value!r}: this is a section; set a key inside it"
            raise ConfigError(msg)
    return tables
