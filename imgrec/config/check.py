"""Which sections there are, and values checked against them with errors for people."""

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from imgrec.config.architectures import ARCHS, MODEL_CONFIGS, Arch
from imgrec.config.data import DataConfig
from imgrec.config.filters import FILTERS
from imgrec.config.section import Section
from imgrec.config.sections import (
    CalibrateConfig,
    ClusterConfig,
    General,
    PreprocessConfig,
    PretrainedConfig,
    PromoteConfig,
    ReportConfig,
    SearchConfig,
    ServeConfig,
    TrackingConfig,
    TrainConfig,
)
from imgrec.errors import ConfigError

S = TypeVar("S", bound=Section)
SHARED: dict[str, type[Section]] = {
    "data": DataConfig,
    "preprocess": PreprocessConfig,
    "pretrained": PretrainedConfig,
    "train": TrainConfig,
    "search": SearchConfig,
    "calibrate": CalibrateConfig,
    "promote": PromoteConfig,
    "report": ReportConfig,
    "serve": ServeConfig,
    "cluster": ClusterConfig,
    "tracking": TrackingConfig,
}
PARTS: Mapping[str, Mapping[Arch, type[Section]]] = {
    "model": MODEL_CONFIGS,
    "train": dict.fromkeys(ARCHS, TrainConfig),
    "preprocess": dict.fromkeys(ARCHS, PreprocessConfig),
}
SECTIONS: dict[str, type[Section]] = SHARED | {
    f"{arch}.{part}": PARTS[part][arch] for arch in ARCHS for part in PARTS
}
KEYS = [*General.model_fields] + [
    f"{name}.{key}"
    for name, section in SECTIONS.items()
    for key in section.model_fields
    if key != "arch"  # which names the section
]
# What pydantic calls types, as TOML's users do.
NOUNS = {
    "tuple": "a list",
    "bool": "true or false",
    "int": "a whole number",
    "int_from_float": "a whole number",
    "float": "a number",
    "string": "text",
}


def checked(section: type[S], name: str, values: Mapping[str, Any]) -> S:
    """A section with these values.

    Raises:
        ConfigError: a key is unknown, or its value of the wrong type or out of range.
    """
    try:
        return section(**values)
    except ValidationError as error:
        errors = error.errors()
    first = errors[0]
    key = str(first["loc"][0]) if first["loc"] else ""
    where = ".".join(filter(None, [name, key]))
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        raise ConfigError(unknown(where))
    # A key that may be of two types has an error for each: the rule is either.
    same = [other for other in errors if other["loc"][:1] == first["loc"][:1]]
    # A list whose items are wrong is too short as well, for they do not count.
    same = [other for other in same if other["type"] != "too_short"] or same
    if _is_inside(first):
        where, shown = (
            f"{where}: {first['loc'][-2]}",
            f".{first['loc'][-1]} = {_toml(first['input'])}",
        )
        same = [first]
    else:
        # A rule over several keys has no one value to show.
        shown = f" = {_toml(values[key])}" if key in values else ""
    rules = dict.fromkeys(_rule(other) for other in same)
    msg = f"{where}{shown}: {' or '.join(rules)}"
    raise ConfigError(msg)


def _is_inside(error: ErrorDetails) -> bool:
    """Whether it is of a key of a table in a list: a setting of a filter."""
    place = error["loc"]
    return len(place) > 3 and isinstance(place[1], int)


def unknown(key: str, prefix: str = "") -> str:
    """The message for a key that does not exist, with the nearest one that does."""
    section, _, name = key.rpartition(".")
    siblings = [known for known in KEYS if known.rpartition(".")[0] == section]
    # A key in the right place comes first; then the same name elsewhere; then anything alike.
    near = difflib.get_close_matches(key, siblings, n=1, cutoff=0.6)
    near = near or [known for known in KEYS if known.rpartition(".")[2] == name][:1]
    near = near or difflib.get_close_matches(key, KEYS, n=1, cutoff=0.6)
    sections = ", ".join([*SHARED, *ARCHS])
    hint = f"; did you mean {near[0]}?" if near else f"; the sections are {sections}"
    return f"{prefix}{key}: no such setting{hint}"


def _rule(error: ErrorDetails) -> str:
    """The rule that a value broke, in the words of TOML rather than of Python."""
    kind = error["type"]
    if kind == "extra_forbidden":
        known = [key for key in FILTERS[str(error["loc"][-2])].model_fields if key != "filter"]
        return f"no such setting; it has {' and '.join(known) or 'none'}"
    if kind == "too_short":
        return f"must have at least {error['ctx']['min_length']} item"
    if noun := NOUNS.get(kind.removesuffix("_parsing").removesuffix("_type")):
        return f"must be {noun}"
    return error["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)


def _toml(value: object) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
