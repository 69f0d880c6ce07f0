"""How frequent classes are where pictures come from, as people write it."""

import json
from collections.abc import Sequence

from imgrec.errors import ClassifierError

EVEN = "even"


def read_shares(text: str, class_names: Sequence[str]) -> dict[str, float]:
    """Shares by class, in any unit.

    Args:
        text: `cat=0.9,dog=0.1`, the same as a JSON object, or `even`.
        class_names: That `even` is for.

    Raises:
        ClassifierError: it is written otherwise.
    """
    if text == EVEN:
        return dict.fromkeys(class_names, 1.0)
    try:
        pairs = [*json.loads(text).items()] if text.startswith("{") else _pairs(text)
        return {name: float(share) for name, share in pairs}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        msg = f"priors {text[:80]}: write cat=0.9,dog=0.1, a JSON object of the same, or {EVEN}"
        raise ClassifierError(msg) from error


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs = []
    for part in text.split(","):
        name, equals, share = part.rpartition("=")
        if not equals:
            raise ValueError(part)
        pairs.append((name.strip(), share))
    return pairs
