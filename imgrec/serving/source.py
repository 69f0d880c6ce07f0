"""Where the models come from that are served."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from imgrec.classifier import CARD, WEIGHTS
from imgrec.errors import ClassifierError
from imgrec.models.weights import hash_of


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

    def wanted(self) -> dict[str, str]:
        """The version of each name that is to be served now.

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
            if not (folder / CARD).is_file():
                msg = f"{folder}: no classifier there ({CARD} is missing)"
                raise ClassifierError(msg)
        self._folders = dict(folders)

    def wanted(self) -> dict[str, str]:
        """The version of each is the beginning of its weights' hash."""
        return {name: hash_of(folder / WEIGHTS)[:12] for name, folder in self._folders.items()}

    @contextmanager
    def fetch(self, name: str, version: str) -> Iterator[Fetched]:  # noqa: ARG002 - there is but one
        """The folder itself."""
        yield Fetched(self._folders[name])
