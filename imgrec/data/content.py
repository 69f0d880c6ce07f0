"""Where the bytes of a picture are: a small object that travels to the process that decodes."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from imgrec.errors import DecodeError


class Content(Protocol):
    """Where the bytes of a picture are; small, and read in the process that decodes."""

    def read(self) -> bytes | npt.NDArray[np.uint8]:
        """The bytes of a file, or pixels (H, W) or (H, W, 3).

        Raises:
            DecodeError: they cannot be had.
        """


@dataclass(frozen=True, slots=True)
class InMemoryFile:
    """The bytes of a file that are in memory already."""

    content: bytes = field(repr=False)

    def read(self) -> bytes:
        """The bytes."""
        return self.content


@dataclass(frozen=True, slots=True)
class InMemoryPixels:
    """Pixels that are in memory already."""

    array: npt.NDArray[np.uint8]

    def read(self) -> npt.NDArray[np.uint8]:
        """The pixels."""
        return self.array


@dataclass(frozen=True, slots=True)
class Missing:
    """A picture that cannot be read; `reason` says why."""

    reason: str

    def read(self) -> bytes:
        """Raises DecodeError with the reason."""
        raise DecodeError(self.reason)
