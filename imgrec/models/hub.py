"""The Hugging Face hub, a mirror of it, and the cache on this machine that every program shares."""

import os
from functools import cache
from pathlib import Path

from imgrec.errors import ConfigError, reason_of
from imgrec.probe import ask

HUB_FILE, HUB_CONFIG = "model.safetensors", "config.json"
HUB_SECONDS = 10


def repository_of(name: str) -> str:
    """`timm/resnet18.a1_in1k` of `resnet18.a1_in1k`; what names its organization as it is."""
    return name if "/" in name else f"timm/{name}"


def may_ask() -> bool:
    """Whether the user lets programs ask the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() not in {"1", "ON", "YES", "TRUE"}


def address() -> str:
    """The hub's, or that of a mirror."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


@cache
def why_silent() -> str:
    """Why nothing can be had from the hub, as this process found it first; empty where it answers.

    What answers for it without letting anybody through, such as a company's proxy, does not count.
    """
    answer = ask(address(), HUB_SECONDS / 2)
    if not answer.status:
        return f"the hub ({address()}) does not answer"
    refused = answer.status in {401, 403, 407} or answer.status >= 500
    return f"the hub ({address()}) answers HTTP {answer.status}" if refused else ""


def in_cache(repository: str, file: str) -> Path | None:
    """A file of the hub's that an earlier run, or another program, has fetched."""
    # A third of a second to import, and only where weights are looked for.
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415

    path = try_to_load_from_cache(repository, file)
    return Path(path) if isinstance(path, str) else None


def download(repository: str, file: str, where: str, cure: str) -> Path:
    """A file of the hub's, into its cache.

    Raises:
        ConfigError: the hub may not be asked, does not answer, or has no such file; it begins with where and ends
            with the cure.
    """
    silent = why_silent() if may_ask() else "HF_HUB_OFFLINE is set"
    if silent:
        # The hub's own library would try again and again.
        msg = f"{where}: the weights {repository} are not on this machine, and {silent}; {cure}"
        raise ConfigError(msg)
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - see in_cache

    try:
        return Path(hf_hub_download(repository, file, etag_timeout=HUB_SECONDS))
    except Exception as error:  # of the library, of its client of HTTP, of the system
        msg = f"{where}: the weights {repository} cannot be fetched ({reason_of(error)}); {cure}"
        raise ConfigError(msg) from error
