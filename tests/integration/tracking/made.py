"""Tags as a version has them."""

from imgrec.tracking.versions import SHOWN_SCORES


def tags(macro_f1: float, fingerprint: str = "a", splits: str = "s") -> dict[str, str]:
    return {
        "imgrec.arch": "ann",
        "data.fingerprint": fingerprint,
        "data.splits": splits,
        "code.version": "0",
        "val/macro_f1": str(macro_f1),
        **{f"test/{score}": "0.5" for score in SHOWN_SCORES},
    }
