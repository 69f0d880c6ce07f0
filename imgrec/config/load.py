"""TOML and `--set` to a checked `Config`."""

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from imgrec.config.architectures import ARCHS, MODEL_CONFIGS, Arch, ModelConfig
from imgrec.config.section import Section
from imgrec.config.sections import (
    OPTIMIZER_DEFAULTS,
    TRAIN_DEFAULTS,
    Branch,
    ClusterConfig,
    Config,
    DataConfig,
    General,
    PreprocessConfig,
    TrackingConfig,
    TrainConfig,
)
from imgrec.errors import ConfigError

S = TypeVar("S", bound=Section)
SHARED: dict[str, type[Section]] = {
    "data": DataConfig,
    "preprocess": PreprocessConfig,
    "train": TrainConfig,
    "cluster": ClusterConfig,
    "tracking": TrackingConfig,
}
PARTS: dict[str, dict[Arch, type[Section]]] = {
    "model": MODEL_CONFIGS,
    "train": dict.fromkeys(ARCHS, TrainConfig),
    "preprocess": dict.fromkeys(ARCHS, PreprocessConfig),
}
SECTIONS: dict[str, type[Section]] = SHARED | {
    f"{arch}.{part}": PARTS[part][arch] for arch in ARCHS for part in PARTS
}
KEYS = [*General.model_fields] + [
    f"{name}.{key}" for name, section in SECTIONS.items() for key in section.model_fields
]


def load_config(path: Path | None = None, settings: Sequence[str] = ()) -> Config:
    """A TOML file (or nothing but defaults), with settings `a.b=value` on top, checked.

    Raises:
        ConfigError: the file cannot be read, or a key is unknown, of the wrong type or out of
            range; the message names the key and the cure.
    """
    document = _read(path) if path else {}
    for setting in settings:
        _apply(document, setting)
    tables = _tables(document)
    for name, section in SHARED.items():
        _checked(section, name, tables.get(name, {}))
    # All four, trained or not: a misspelt key is wrong all the same.
    branches = {arch: _branch(arch, tables) for arch in ARCHS}
    data = _checked(DataConfig, "data", tables.get("data", {}))
    general = _checked(General, "", {"name": _name_of(data.source)} | tables[""])
    return Config(
        **dict(general),
        data=data,
        cluster=ClusterConfig(**tables.get("cluster", {})),
        tracking=TrackingConfig(**tables.get("tracking", {})),
        branches=tuple(branches[arch] for arch in general.archs),
    )


def _name_of(source: str) -> str:
    """The source's own name, without what the name of a model must not hold."""
    name = re.sub(r"[^\w.-]+", "-", Path(source).expanduser().absolute().name).strip("-._")
    return name[:100] or "pictures"


def _branch(arch: Arch, tables: Mapping[str, dict[str, Any]]) -> Branch:
    """One architecture's settings: its defaults, then the shared section, then its own."""
    written = tables.get("train", {}) | tables.get(f"{arch}.train", {})
    defaults = TRAIN_DEFAULTS[arch]
    optimizer = written.get("optimizer", defaults["optimizer"])
    if isinstance(optimizer, str) and optimizer != defaults["optimizer"]:
        # A learning rate is good for one optimizer only, so another brings its own.
        defaults = OPTIMIZER_DEFAULTS.get(optimizer, {})
    preprocess = tables.get("preprocess", {}) | tables.get(f"{arch}.preprocess", {})
    model = {"arch": arch} | tables.get(f"{arch}.model", {})
    return Branch(
        model=cast("ModelConfig", _checked(MODEL_CONFIGS[arch], f"{arch}.model", model)),
        train=_checked(TrainConfig, f"{arch}.train", defaults | written),
        preprocess=_checked(PreprocessConfig, f"{arch}.preprocess", preprocess),
    )


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
                if f"{key}.{part}" not in SECTIONS:
                    raise ConfigError(_unknown(f"{key}.{part}"))
                if not isinstance(inner, Mapping):
                    msg = f"{key}.{part} = {inner!r}: this is a section; set a key inside it"
                    raise ConfigError(msg)
                tables[f"{key}.{part}"] = dict(inner)
        else:
            inner_key = next(iter(value), "")
            raise ConfigError(_unknown(f"{key}.{inner_key}".rstrip(".")))
    for key, value in tables[""].items():
        if key in SHARED or key in ARCHS:
            msg = f"{key} = {value!r}: this is a section; set a key inside it"
            raise ConfigError(msg)
    return tables


def _checked(section: type[S], name: str, values: Mapping[str, Any]) -> S:
    try:
        return section(**values)
    except ValidationError as error:
        errors = error.errors()
    first = errors[0]
    key = str(first["loc"][0]) if first["loc"] else ""
    where = ".".join(filter(None, [name, key]))
    if first["type"] == "extra_forbidden":
        raise ConfigError(_unknown(where))
    # A key that may be of two types has an error for each: the rule is either.
    rules = [_rule(other["msg"]) for other in errors if other["loc"][:1] == first["loc"][:1]]
    # A rule over several keys has no one value to show.
    shown = f" = {_toml(values[key])}" if key in values else ""
    msg = f"{where}{shown}: {' or '.join(dict.fromkeys(rules))}"
    raise ConfigError(msg)


def _rule(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Input should be", "must be", 1)


def _toml(value: object) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)


def _unknown(key: str) -> str:
    section, _, name = key.rpartition(".")
    siblings = [known for known in KEYS if known.rpartition(".")[0] == section]
    # A key in the right place comes first; then the same name elsewhere; then anything alike.
    near = difflib.get_close_matches(key, siblings, n=1, cutoff=0.6)
    near = near or [known for known in KEYS if known.rpartition(".")[2] == name][:1]
    near = near or difflib.get_close_matches(key, KEYS, n=1, cutoff=0.6)
    sections = ", ".join([*SHARED, *ARCHS])
    hint = f"; did you mean {near[0]}?" if near else f"; the sections are {sections}"
    return f"{key}: no such setting{hint}"
