"""What a version has beside its classifier."""

import numpy as np

from imgrec.tracking.versions import SHOWN_SCORES

NOTHING = np.empty(0, dtype="V16")
"""Learned from."""


def tags(macro_f1: float, fingerprint: str = "a", splits: str = "s") -> dict[str, str]:
    return {
        "imgrec.arch": "ann",
        "data.fingerprint": fingerprint,
        "data.splits": splits,
        "code.version": "0",
        "val/macro_f1": str(macro_f1),
        **{f"test/{score}": "0.5" for score in SHOWN_SCORES},
    }
