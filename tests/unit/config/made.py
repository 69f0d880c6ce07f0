"""Branches of written settings."""

from imgrec.config import ARCHS, Branch, load_config


def branch(arch: str, *settings: str) -> Branch:
    return load_config(None, settings).branches[ARCHS.index(arch)]  # type: ignore[arg-type]
