"""The box behind a `Mailbox`: a process of its own, which imports nothing.

Messages are bytes to it, because to know what they are made of it would have to import torch: 3 s
of a core at every start.
"""


class Box:
    """Messages from many workers to one driver, by lane. Runs in a process of its own."""

    def __init__(self) -> None:
        self._messages: dict[str, list[bytes]] = {}
        self._condemned: set[str] = set()

    def put(self, lane: str, message: bytes) -> None:
        """Add a message."""
        self._messages.setdefault(lane, []).append(message)

    def drain(self, lane: str) -> list[bytes]:
        """All messages since the last call, in the order in which they came."""
        return self._messages.pop(lane, [])

    def condemn(self, lane: str) -> None:
        """Remember that to try this lane again would only fail again."""
        self._condemned.add(lane)

    def is_condemned(self, lane: str) -> bool:
        """Whether `condemn` was called."""
        return lane in self._condemned
