"""What `--priors` says."""

import pytest

from imgrec.errors import ClassifierError
from pipelines.cli.pages.predictions import _shares

CLASSES = ("cat", "dog", "a=b")


def test_priors_are_shares_by_name() -> None:
    """Names may hold what they like; `even` is all alike."""
    assert _shares("cat=0.9, dog=0.1", CLASSES) == {"cat": 0.9, "dog": 0.1}
    assert _shares("a=b=2,cat=1", CLASSES) == {"a=b": 2.0, "cat": 1.0}
    assert _shares("even", CLASSES) == dict.fromkeys(CLASSES, 1.0)


@pytest.mark.parametrize("said", ["cat", "cat=", "cat=much", "cat=0.9,dog"])
def test_what_is_none_says_how_to_write_it(said: str) -> None:
    """One line, with an example."""
    with pytest.raises(ClassifierError, match=r"write cat=0.9,dog=0.1, or even"):
        _shares(said, CLASSES)
