"""What an architecture is trained with where a search has chosen some of its settings."""

from collections.abc import Mapping
from typing import Any

from imgrec.config import Arch
from imgrec.training.spec import FitSpec
from pipelines.prepare import Prepared


def spec_with(prepared: Prepared, arch: Arch, settings: Mapping[str, Any]) -> FitSpec:
    """What an architecture is trained with, with some settings replaced."""
    return prepared.spec_of(prepared.config.branch(arch).with_settings(settings))
