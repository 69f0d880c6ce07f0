"""Everything that one architecture is trained with, and what a search may change in it."""

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from pydantic import Field

from imgrec.config.architectures import (
    MODEL_CONFIGS,
    Arch,
    ModelConfig,
)
from imgrec.config.architectures.architecture import (
    AUTO,
    COMPACT,
    REGISTERED,
    is_path,
    network_of,
)
from imgrec.config.check import PARTS, checked, unknown
from imgrec.config.section import Section
from imgrec.config.sections import PRETRAINED_ONLY, PreprocessConfig, TrainConfig
from imgrec.config.space import Dimension, builtin_space
from imgrec.errors import ConfigError

# Where an architecture is given another optimizer than its own.
OPTIMIZER_DEFAULTS: dict[str, dict[str, Any]] = {
    "adamw": {"learning_rate": 1e-3},
    "sgd": {"learning_rate": 0.05, "weight_decay": 5e-4},
    "muon": {"learning_rate": 0.01, "weight_decay": 0.02},
}

GROWING = {"start_size": 0.5}

BACKBONE = "model.backbone"

# Of a space, combinations that are tried out for settings without effect.
MOST_COMBINATIONS = 256


class Branch(Section):
    """Everything that one architecture is trained with."""

    model: ModelConfig
    train: TrainConfig
    preprocess: PreprocessConfig
    space: tuple[Dimension, ...] = ()
    """What a search changes."""
    written: dict[str, dict[str, Any]] = Field(repr=False)
    """What the user wrote, by part; all else is at its default."""
    written_space: dict[str, Any] = Field(default_factory=dict, repr=False)
    """The same of what a search changes."""

    @property
    def arch(self) -> Arch:
        """The architecture's short name."""
        return self.model.arch

    def with_settings(self, settings: Mapping[str, Any]) -> "Branch":
        """The same with other values, as if the user had written them.

        Args:
            settings: `{"train.learning_rate": 0.01}`.

        Raises:
            ConfigError: a value is not allowed, or has no effect.
        """
        written = {part: dict(values) for part, values in self.written.items()}
        for key, value in settings.items():
            part, _, name = key.partition(".")
            written[part][name] = value
        changed = {"space": self.space, "written_space": self.written_space}
        return _defaulted(self.arch, written).model_copy(update=changed)

    def larger(self) -> list["Branch"]:
        """The same with larger networks, the smallest first; none where the size is the user's or the search's."""
        own = {name for one in self.model.larger for name in one}
        written = {*self.written["model"], *self.written_space.get("model", ())}
        if not self.model.is_compact or self.model.is_pretrained or own & written:
            return []
        return [
            self.with_settings({f"model.{name}": value for name, value in one.items()})
            for one in self.model.larger
        ]

    def at_pace(self, settings: Mapping[str, Any]) -> "Branch":
        """The same with what `train.budget` has come to, as if the user had written that instead: no search changes it.

        Args:
            settings: `{"train.epochs": 12, "model.widths": (64, 256, 256)}`.
        """
        written = {part: dict(values) for part, values in self.written.items()}
        written["train"].pop("budget", None)
        settled = self.model_copy(
            update={
                "written": written,
                "space": tuple(one for one in self.space if one.key not in settings),
            }
        )
        return settled.with_settings(settings)

    def with_network(self, backbone: str, pretrained: bool | str) -> "Branch":
        """The same with the network that was decided on, and its defaults.

        A training setting that was written for another kind of network counts all the same.
        """
        written = {part: dict(values) for part, values in self.written.items()}
        space = {part: dict(values) for part, values in self.written_space.items()}
        written["model"] |= {"backbone": backbone, "pretrained": pretrained}
        if backbone == COMPACT:
            del written["model"]["pretrained"]
            for name in self.without_effect:
                del written["train"][name]
            for name in PRETRAINED_ONLY:
                space.get("train", {}).pop(name, None)
        return make_branch(self.arch, written, space)

    def with_registered(
        self, model: ModelConfig, name: str, filters: Sequence[Mapping[str, Any]]
    ) -> "Branch":
        """The same with the network of a registered model, which it begins with.

        Args:
            model: What the registered model says of its network.
            name: `models:/photos-cnn/3`.
            filters: What its pictures went through: so do these, unless the settings say otherwise.

        Raises:
            ConfigError: it is of another architecture, or the settings ask for another network.
        """
        where = f"{self.arch}.model"
        if model.arch != self.arch:
            msg = f"{where}.pretrained: {name} is of the architecture {model.arch}; name it as {model.arch}.model.pretrained"
            raise ConfigError(msg)
        if self.written_space.get("model"):
            msg = f"{self.arch}.space.model has no effect: {name} says what network it is"
            raise ConfigError(msg)
        written = {part: dict(values) for part, values in self.written.items()}
        for key in written["model"]:
            asked, has = getattr(self.model, key), getattr(model, key)
            if key != "pretrained" and asked not in {has, AUTO}:
                msg = f"{where}.{key} = {asked!r}: {name} has {has!r}, and its weights are of no other; leave it out"
                raise ConfigError(msg)
        told = model.model_dump(exclude={"arch"})
        written["model"] = told | {"pretrained": name}
        if filters:
            written["preprocess"].setdefault("filters", list(filters))
        return make_branch(self.arch, written, self.written_space)

    def with_backbones(self, others: Sequence[str]) -> "Branch":
        """The same, where a search also tries other networks of timm's, unless the user says what it tries."""
        if not others or self.written_space.get("model"):
            return self
        choices = (self.model.backbone, *others)
        return self.model_copy(
            update={"space": (*self.space, Dimension(key=BACKBONE, choices=choices))}
        )

    @property
    def other_backbones(self) -> list[dict[str, Any]]:
        """Settings with each other network that a search tries."""
        return [
            {BACKBONE: name}
            for dimension in self.space
            if dimension.key == BACKBONE
            for name in dimension.choices
            if name != self.model.backbone
        ]

    @property
    def without_effect(self) -> list[str]:
        """Training settings that were written, and would have none on a compact network."""
        return [name for name in PRETRAINED_ONLY if name in self.written["train"]]

    def value(self, key: str) -> Any:
        """The value of `train.learning_rate`, say."""
        part, _, name = key.partition(".")
        return getattr(getattr(self, part), name)


def make_branch(
    arch: Arch, written: Mapping[str, dict[str, Any]], space: Mapping[str, Any]
) -> Branch:
    """A branch from what the user wrote.

    Args:
        arch: The architecture.
        written: Values by part: `{"train": {"epochs": 3}, ...}`; what the shared sections say, with
            the architecture's own on top.
        space: As written: `{"train": {"learning_rate": {"low": ...}}}`; `false` takes a setting out.

    Raises:
        ConfigError: a value is not allowed, or the space names a setting that has no effect.
    """
    branch = _defaulted(arch, written)
    own = dict(_dimensions(arch, space))
    dimensions = {
        key: Dimension(key=key, **spec)
        for key, spec in builtin_space(branch.model, branch.train.model_dump()).items()
        # What the user wrote is not to be changed behind his back.
        if key not in own and not _is_written(written, key)
    }
    dimensions |= {key: dimension for key, dimension in own.items() if dimension}
    every = tuple(dimensions.values())
    for dimension in filter(None, own.values()):
        # What the user wrote, and what it depends on; built-in choices have no rules with each other.
        beside = [d for d in every if d.key in own or d.key in dimension.when]
        _refuse_without_effect(branch, dimension, beside)
    useful = tuple(d for d in every if d.key in own or _has_effect(branch, d, every))
    return branch.model_copy(update={"space": useful, "written_space": dict(space)})


def is_active(dimension: Dimension, branch: Branch, settings: Mapping[str, Any]) -> bool:
    """Whether the dimension has a part in the branch with these settings."""
    return all(
        (settings[key] if key in settings else branch.value(key)) in allowed
        for key, allowed in dimension.when.items()
    )


def _defaulted(arch: Arch, written: Mapping[str, dict[str, Any]]) -> Branch:
    """The architecture's defaults, with what was written on top."""
    train = written.get("train", {})
    model = {"arch": arch} | written.get("model", {})
    named = model.get("pretrained")
    of_hub = isinstance(named, str) and not named.startswith(REGISTERED) and not is_path(named)
    if of_hub and model.get("backbone", AUTO) == AUTO:
        model["backbone"] = network_of(str(named))  # weights of the hub say whose they are
    chosen = cast("ModelConfig", checked(MODEL_CONFIGS[arch], f"{arch}.model", model))
    defaults = chosen.train_defaults()
    optimizer = train.get("optimizer", defaults["optimizer"])
    if isinstance(optimizer, str) and optimizer != defaults["optimizer"]:
        # A learning rate is good for one optimizer only, so another brings its own.
        defaults = OPTIMIZER_DEFAULTS.get(optimizer, {})
    useless = [name for name in PRETRAINED_ONLY if name in train]
    if useless and not (chosen.is_open or chosen.is_pretrained):
        msg = f"train.{useless[0]} has no effect on the {arch}: it begins with random weights; set it for others, such as cnn.train.{useless[0]}"
        raise ConfigError(msg)
    if chosen.fixed_size and train.get("start_size", 1.0) != 1.0:
        msg = f"train.start_size has no effect on the {arch}: {chosen.fixed_size}; set it for others, such as cnn.train.start_size"
        raise ConfigError(msg)
    return Branch(
        model=chosen,
        train=checked(
            TrainConfig, f"{arch}.train", (GROWING if chosen.grows else {}) | defaults | train
        ),
        preprocess=checked(PreprocessConfig, f"{arch}.preprocess", written.get("preprocess", {})),
        written={part: dict(written.get(part, {})) for part in PARTS},
    )


def _is_written(written: Mapping[str, dict[str, Any]], key: str) -> bool:
    part, _, name = key.partition(".")
    values = written.get(part, {})
    return name in values or (part == "preprocess" and values.get("augment") == "none")


def _dimensions(arch: Arch, space: Mapping[str, Any]) -> Iterator[tuple[str, Dimension | None]]:
    for part, keys in space.items():
        if part not in PARTS or not isinstance(keys, Mapping):
            msg = f"{arch}.space.{part}: name a setting, such as {arch}.space.train.learning_rate"
            raise ConfigError(msg)
        for name, spec in keys.items():
            key = f"{part}.{name}"
            if name not in PARTS[part][arch].model_fields or name == "arch":
                raise ConfigError(unknown(f"{arch}.{key}", f"{arch}.space: "))
            if key in {"train.epochs", "train.budget"}:
                msg = (
                    f"{arch}.space.{key}: trials are compared at the same epochs; set {arch}.{key}"
                )
                raise ConfigError(msg)
            yield key, None if spec is False else _dimension(arch, key, spec)


def _dimension(arch: Arch, key: str, spec: object) -> Dimension:
    where = f"{arch}.space.{key}"
    if isinstance(spec, list | tuple):
        spec = {"choices": spec}
    if not isinstance(spec, Mapping):
        msg = f"{where} = {spec!r}: give {{low = ..., high = ...}}, a list, or false"
        raise ConfigError(msg)
    dimension = checked(Dimension, where, {**spec, "key": key})
    for other in dimension.when:
        part, _, name = other.partition(".")
        if part not in PARTS or name not in PARTS[part][arch].model_fields:
            raise ConfigError(unknown(f"{arch}.{other}", f"{where}.when: "))
    return dimension


def _refuse_without_effect(
    branch: Branch, dimension: Dimension, beside: Sequence[Dimension]
) -> None:
    """Try every end of the dimension, with every combination of the choices beside it."""
    key, active = dimension.key, False
    for settings in _combinations(dimension, beside):
        if not is_active(dimension, branch, settings):
            continue
        active = True
        for value in dimension.ends:
            try:
                branch.with_settings(settings | {key: value})
            except ConfigError as error:
                given = ", ".join(f"{other} = {chosen!r}" for other, chosen in settings.items())
                msg = f"{branch.arch}.space.{key}: {error}" + (f" (with {given})" if given else "")
                raise ConfigError(msg) from error
    if not active:
        when = " and ".join(f"{other} = {list(v)}" for other, v in dimension.when.items())
        msg = f"{branch.arch}.space.{key} has no effect: {when} never holds"
        raise ConfigError(msg)


def _has_effect(branch: Branch, dimension: Dimension, space: Sequence[Dimension]) -> bool:
    try:
        _refuse_without_effect(branch, dimension, [d for d in space if d.key in dimension.when])
    except ConfigError:
        return False
    return True


def _combinations(dimension: Dimension, beside: Sequence[Dimension]) -> Iterator[dict[str, Any]]:
    """Choices of other dimensions, in every combination; of very many some, always the same ones.

    First none, which leaves the defaults.
    """
    yield {}
    others = [d for d in beside if d.choices and d.key != dimension.key and not d.when]
    count = math.prod(len(d.choices) for d in others)
    numbers: Iterable[int] = range(count if others else 0)
    if count > MOST_COMBINATIONS:
        numbers = random.Random(0).sample(range(count), MOST_COMBINATIONS)  # noqa: S311 - no secret
    for number in numbers:
        settings = {}
        for d in others:
            number, place = divmod(number, len(d.choices))  # noqa: PLW2901 - digit by digit
            settings[d.key] = d.choices[place]
        yield settings
