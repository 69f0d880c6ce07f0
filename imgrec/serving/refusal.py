"""A request that is not answered, with its status and a sentence for whoever sent it."""


class Refusal(Exception):  # noqa: N818 - it is an answer, not a fault
    """Status and reason; nothing of this machine is in it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status, self.reason = status, reason
