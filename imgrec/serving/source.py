"""Where the models come from that are served."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from imgrec.classifier import WEIGHTS
from imgrec.errors import ClassifierError, reason_of
from imgrec.models.weights import hash_of
from imgrec.named import CARD


@dataclass(frozen=True, slots=True)
class Fetched:
    """A version of a model on this machine.

    Attributes:
        folder: With its classifier, as `Classifier.save` has written it.
        facts: What people want to know of it, such as its scores, in the order in which to show it.
    """

    folder: Path
    facts: Mapping[str, str] = field(default_factory=dict)


class ModelSource(Protocol):
    """Names of models, and which version of each is to be served now."""

    def names(self) -> list[str]:
        """Of the models."""

    def wanted(self, name: str) -> str:
        """The version of a model that is to be served now.

        Raises:
            ImgrecError: that cannot be said at the moment.
        """

    def fetch(self, name: str, version: str) -> AbstractContextManager[Fetched]:
        """This version; its folder is there as long as the block lasts.

        Raises:
            ImgrecError: it cannot be had, or is not as it was registered.
        """


class FolderSource:
    """Classifiers in folders: nothing else is needed to serve them, as in a container."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        """Of these names.

        Raises:
            ClassifierError: one of them holds no classifier.
        """
        for folder in folders.values():
            for file in (CARD, WEIGHTS):
                if not (folder / file).is_file():
                    msg = f"{folder}: no classifier there ({file} is missing)"
                    raise ClassifierError(msg)
        self._folders = dict(folders)
        self._known: dict[str, tuple[object, str]] = {}

    def names(self) -> list[str]:
        """Of the folders."""
        return list(self._folders)

    def wanted(self, name: str) -> str:
        """The beginning of a hash of its files, which are read again only where they look changed.

        Raises:
            ClassifierError: one of them is away.
        """
        files = [self._folders[name] / file for file in (CARD, WEIGHTS)]
        try:
            looks = [(status.st_size, status.st_mtime_ns) for status in map(os.stat, files)]
            if name not in self._known or self._known[name][0] != looks:
                digest = hashlib.sha256("".join(map(hash_of, files)).encode()).hexdigest()
                self._known[name] = (looks, digest[:12])
        except OSError as error:
            msg = f"{self._folders[name]}: cannot be read: {reason_of(error)}"
            raise ClassifierError(msg) from error
        return self._known[name][1]

    @contextmanager
    def fetch(self, name: str, version: str) -> Iterator[Fetched]:  # noqa: ARG002 - there is but one
        """The folder itself."""
        yield Fetched(self._folders[name])
