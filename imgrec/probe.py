"""Whether a server answers, asked before a library that would try again for minutes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import requests

MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server says to somebody without a name.

    Attributes:
        status: HTTP's; 0 where there is no answer.
        text: At most MOST_BYTES of it.
        headers: Their names in any case.
        reason: Why there is no answer, or none that is of use; empty where the status is 200.
    """

    status: int
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""

    @property
    def wants_name(self) -> bool:
        """Whether it answers those only whom it knows."""
        return self.status in {401, 403}


def ask(url: str, seconds: float) -> Answer:
    """GET, once.

    Args:
        url: Begins with http:// or https://.
        seconds: To wait for a connection, and for each part of the answer.
    """
    try:
        with requests.get(url, timeout=seconds, stream=True, auth=_nobody) as answer:
            content = answer.raw.read(MOST_BYTES, decode_content=True)
            text = content.decode("utf-8", "replace")
            reason = "" if answer.ok else f"HTTP {answer.status_code}"
            return Answer(answer.status_code, text, answer.headers, reason)
    except (requests.RequestException, OSError) as error:
        return Answer(0, reason=_innermost(error))


def _nobody(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """No name, also where ~/.netrc has one for the host."""
    return request


def _innermost(error: BaseException) -> str:
    """What the system said: libraries put it into words of their own, several times."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
