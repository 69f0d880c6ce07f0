"""What every architecture says of itself, beside its settings."""

import re
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import (
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from imgrec.config.section import Section

# What they were compared with is in docs/log.md.
BY_CONVOLUTION: dict[str, Any] = {
    "optimizer": "muon",
    "learning_rate": 0.0075,
    "weight_decay": 0.02,
    "momentum": 0.6,
    "max_grad_norm": 0.0,  # Muon's steps have their length whatever the gradient's is
    "warmup": 0.15,
    "decay": "linear",
    "label_smoothing": 0.2,
}


# A network of timm that begins with pretrained weights; and one that begins with random weights.
FROM_PRETRAINED: dict[str, Any] = {
    "optimizer": "adamw",
    "learning_rate": 5e-4,
    "layer_decay": 0.1,
}
FROM_SCRATCH: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 5e-4}

# Files that people keep weights in; of them only the first is read.
WEIGHT_FILES = frozenset({".safetensors", ".bin", ".ckpt", ".pkl", ".pt", ".pth", ".tar"})
OWN_NAME = re.compile(r"models:/[^/@]+(/[1-9]\d*|@[\w.-]+)?")
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
REGISTERED = "models:/"
"""Before the name of a registered model of ours, as MLflow writes it."""
COMPACT, AUTO = "compact", "auto"
INPUT_SIDE = 224
"""Of the pictures that the weights of every `default_backbone` and `gpu_backbone` were trained on, in pixels."""


def network_of(name: str) -> str:
    """`resnet18` of `timm/resnet18.a1_in1k`."""
    return name.rpartition("/")[2].partition(".")[0]


def is_path(pretrained: str) -> bool:
    """Whether `pretrained` names a file or folder, and not weights of the hub."""
    return pretrained[:1] in {".", "/", "~"} or Path(pretrained).suffix in WEIGHT_FILES


class Architecture(Section):
    """The settings of an architecture, and what follows from them for training.

    It is read without torch; the network itself is in imgrec/models.
    """

    compact_gains_by_bf16: ClassVar[bool] = False
    """Whether a CPU with units for bf16 trains the compact network faster with them (docs/log.md)."""
    default_backbone: ClassVar[str]
    """The network of timm, with its weights, that `auto` takes for photos: small enough for a laptop."""
    gpu_backbone: ClassVar[str]
    """The one that it takes where there is a GPU."""
    other_backbones: ClassVar[tuple[str, ...]] = ()
    """What a search tries beside the default, of those whose weights are at hand."""
    backbone: str = AUTO
    """The network. `compact`: ours, for small pictures and few of them. A name of timm's, such as `resnet18`,
    of this family. `auto`: for photos one that has learned from others, where its weights can be had; else
    compact."""
    pretrained: bool | str = True
    """What a network of timm's begins with. `true`: its published weights; `false`: random weights, as a
    compact one does. Or which weights: a name of the Hugging Face hub (`timm/resnet18.a1_in1k`); a folder or file of yours,
    which begins with `.`, `/` or `~`, or ends in `.safetensors`; or a registered model of this architecture, which says
    what network it is: `models:/NAME` (its champion), `models:/NAME/3` or `models:/NAME@ALIAS`."""

    @field_validator("pretrained")
    @classmethod
    def _absolute(cls, value: bool | str) -> bool | str:
        if isinstance(value, str) and value.startswith(REGISTERED):
            if not OWN_NAME.fullmatch(value):
                msg = "write models:/NAME, models:/NAME/3 or models:/NAME@ALIAS"
                raise ValueError(msg)
            return value
        if isinstance(value, str) and is_path(value):
            return str(Path(value).expanduser().absolute())
        if isinstance(value, str) and not HUB_NAME.fullmatch(value):
            msg = (
                "write a name of the hub (timm/resnet18.a1_in1k), a path, such as ./resnet18.safetensors, or a "
                "registered model (models:/photos-cnn)"
            )
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _no_compact_setting_without_effect(self) -> Self:
        own = self._compact_settings()
        if self.begins_with_registered:
            return self
        if self.backbone not in {COMPACT, AUTO} and own:
            msg = f"{min(own)} has no effect with backbone = {self.backbone!r}"
            raise ValueError(msg)
        if self.backbone == AUTO and isinstance(self.pretrained, str):
            msg = f"pretrained = {self.pretrained!r}: name its network as backbone"
            raise ValueError(msg)
        written = "pretrained" in self.model_fields_set and self.pretrained is not False
        if written and (self.backbone == COMPACT or (self.backbone == AUTO and own)):
            why = "backbone = 'compact'" if self.backbone == COMPACT else f"{min(own)}"
            msg = f"pretrained has no effect with {why}: name a network of timm's as backbone"
            raise ValueError(msg)
        return self

    @model_serializer(mode="wrap")
    def _only_with_effect(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is recorded is what had a part in the model; read again, it is the same."""
        values: dict[str, Any] = handler(self)
        if not self.is_compact:
            kept = {"arch", "backbone", "pretrained"}
            return {key: value for key, value in values.items() if key in kept}
        if not self.begins_with_registered and (
            self.backbone == COMPACT or self.pretrained is True
        ):
            values.pop("pretrained", None)
        return values

    def _compact_settings(self) -> set[str]:
        """Those that were written and are of the compact network alone."""
        return self.model_fields_set - {"arch", "backbone", "pretrained"}

    @property
    def is_compact(self) -> bool:
        """Whether it is our network; of an `auto` that nobody has decided yet, as if it were."""
        return self.backbone in {COMPACT, AUTO}

    @property
    def is_open(self) -> bool:
        """Whether the data are to decide which network it is."""
        return self.backbone == AUTO and self.pretrained is True and not self._compact_settings()

    @property
    def begins_with_registered(self) -> bool:
        """Whether it begins with the weights of a registered model of ours."""
        return isinstance(self.pretrained, str) and self.pretrained.startswith(REGISTERED)

    @property
    def is_pretrained(self) -> bool:
        """Whether it has learned something before."""
        published = not self.is_compact and self.pretrained is not False
        return published or self.begins_with_registered

    @property
    def gains_by_bf16(self) -> bool:
        """Whether a CPU with units for bf16 trains it faster with them; of timm's networks all are large enough."""
        return self.compact_gains_by_bf16 or not self.is_compact

    @property
    def fixed_size(self) -> str:
        """Why the size of pictures cannot change during training; empty where it can."""
        return ""

    @property
    def grows(self) -> bool:
        """Whether pictures grow during training where the user does not say."""
        return self.is_compact and not self.is_pretrained and not self.fixed_size

    def train_defaults(self) -> dict[str, Any]:
        """What it is trained with where the user does not say: values of `TrainConfig`."""
        if self.is_pretrained:
            return self.pretrained_train_defaults()
        return self.compact_train_defaults() if self.is_compact else self.scratch_train_defaults()

    def compact_train_defaults(self) -> dict[str, Any]:
        """The same of the compact network that begins with random weights."""
        return BY_CONVOLUTION

    def pretrained_train_defaults(self) -> dict[str, Any]:
        """The same of a network that begins with pretrained weights."""
        return FROM_PRETRAINED

    def scratch_train_defaults(self) -> dict[str, Any]:
        """The same of a network of timm's that begins with random weights."""
        return FROM_SCRATCH

    @property
    def larger(self) -> tuple[dict[str, Any], ...]:
        """Settings of larger compact networks, the smallest first, for whoever gives the time (`train.budget`)."""
        return ()

    @classmethod
    def space(cls) -> dict[str, dict[str, Any]]:
        """What a search changes of its own settings where the user does not say: `Dimension`s by key."""
        return {}
