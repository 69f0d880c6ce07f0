"""How people write how frequent classes are."""

import pytest

from imgrec.errors import ClassifierError
from imgrec.priors import read_shares

NAMES = ("cat", "dog")


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("cat=0.9,dog=0.1", {"cat": 0.9, "dog": 0.1}),
        ("cat = 9, dog = 1", {"cat": 9.0, "dog": 1.0}),
        ('{"cat": 9, "dog": "1"}', {"cat": 9.0, "dog": 1.0}),
        ("a=b=2", {"a=b": 2.0}),
        ("even", {"cat": 1.0, "dog": 1.0}),
    ],
)
def test_shares_are_read_as_people_and_programs_write_them(
    text: str, shares: dict[str, float]
) -> None:
    """The same text on the command line, over HTTP and in MLflow."""
    assert read_shares(text, NAMES) == shares


@pytest.mark.parametrize(
    "text",
    [
        *("cat", "cat=x", "{", '{"cat": [1]}', "[1]", '{"cat": null}'),
        f'{{"cat": 1{"0" * 400}}}',
        f'{{"cat": {"[" * 100_000}',
    ],
    ids=range(8),
)
def test_what_is_no_share_is_refused_with_the_way_to_write_it(text: str) -> None:
    """In one line."""
    with pytest.raises(ClassifierError, match=r"write cat=0.9,dog=0.1, a JSON object"):
        read_shares(text, NAMES)
