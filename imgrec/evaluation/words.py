"""Sentences for people, in their language."""

from collections.abc import Callable
from typing import Literal, get_args

from imgrec.evaluation.words_zh import CHINESE

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
Say = Callable[..., str]
"""A sentence in English, with the values of its {places}, to the same in another language."""


def english(text: str, **values: str) -> str:
    """The sentence as it is."""
    return text.format(**values)


def chinese(text: str, **values: str) -> str:
    """In Chinese; a name that is no sentence of ours stays as it is."""
    return CHINESE.get(text, text).format(**values)


def speaker(language: Language) -> Say:
    """Who says sentences in this language."""
    return {"en": english, "zh": chinese}[language]
