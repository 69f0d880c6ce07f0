"""Files behind http:// and https://, from hosts that were meant, of a bounded size and in a bounded time.

What an address answers with is somebody else's to decide: a table may name addresses inside the user's
network, and a server may send the reader on to one. So every address, the first and those that it is
redirected to, must be on a host that was allowed.
"""

import time
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError

from imgrec.errors import DataError, DecodeError, reason_of

HTTP = frozenset({"http", "https"})
SCHEMES = HTTP | {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "hf"}
"""What an address may begin with. Not local files, nor whatever else a library of addresses can open."""
MOST_REDIRECTS = 5
CONNECT_SECONDS, SILENCE_SECONDS = 10, 30
MOST_SECONDS = 300
"""For one picture, however slowly it comes."""
AT_ONCE = 1 << 16
DEFAULT_PORTS = {"http": 80, "https": 443}
GONE = frozenset({400, 401, 403, 404, 405, 410, 451})


def host_of(url: str) -> str:
    """Host and port of an address, or the bucket: what `data.allow_hosts` names."""
    parts = urlsplit(url)
    host = (parts.hostname or parts.netloc).lower()
    port = parts.port if parts.scheme in HTTP else None
    return host if port in {None, DEFAULT_PORTS.get(parts.scheme)} else f"{host}:{port}"


def why_not(url: str, allowed: Iterable[str]) -> str:
    """Why an address may not be read where only these hosts may; empty if it may.

    A host without a port allows all of its ports.
    """
    try:
        scheme, host = urlsplit(url).scheme.lower(), host_of(url)
    except ValueError as error:
        return f"no address ({error})"
    if scheme not in SCHEMES:
        return f"an address that begins with {scheme}:// is not read"
    if {host, host.rpartition(":")[0] or host} & set(allowed):
        return ""
    return f"lies on {host}, which data.allow_hosts does not name"


def read_http(url: str, allowed: frozenset[str], most_bytes: int) -> bytes:
    """The whole file.

    Args:
        url: Begins with http:// or https://.
        allowed: Hosts, beside its own, that it may lie on or be redirected to.
        most_bytes: A larger one is not read to its end.

    Raises:
        DecodeError: there is no such file, it is larger, or it is somewhere else than allowed.
        DataError: it comes too slowly.
        requests.RequestException, urllib3.exceptions.HTTPError: the server does not answer.
    """
    content, deadline = bytearray(), time.monotonic() + MOST_SECONDS
    with _answer(url, allowed | {host_of(url)}) as answer:
        while some := answer.raw.read1(AT_ONCE, decode_content=True):
            content += some
            if len(content) > most_bytes:
                msg = f"more than {most_bytes >> 20} MiB"
                raise DecodeError(msg)
            if time.monotonic() > deadline:
                msg = (
                    f"{url}: not read to its end in {MOST_SECONDS} s; try again, or take it out of the "
                    f"data"
                )
                raise DataError(msg)
    return bytes(content)


def _answer(url: str, allowed: frozenset[str]) -> requests.Response:
    """The last of the answers that an address leads to."""
    for _ in range(MOST_REDIRECTS):
        answer = _session().get(
            url, stream=True, allow_redirects=False, timeout=(CONNECT_SECONDS, SILENCE_SECONDS)
        )
        if not answer.is_redirect:
            if answer.status_code in GONE:
                answer.close()
                msg = f"cannot be fetched: HTTP {answer.status_code}"
                raise DecodeError(msg)
            answer.raise_for_status()
            return answer
        target = urljoin(url, answer.headers["Location"])
        answer.close()
        refuse_redirect(target, allowed)
        url = target
    msg = f"cannot be fetched: redirected more than {MOST_REDIRECTS} times"
    raise DecodeError(msg)


def refuse_redirect(target: str, allowed: Iterable[str]) -> None:
    """Raise DecodeError where an answer leads to an address that may not be read."""
    if urlsplit(target).scheme not in HTTP or (reason := why_not(target, allowed)):
        msg = f"redirected to what {reason or 'is no web address'}"
        raise DecodeError(msg)


@cache
def _session() -> requests.Session:
    """Keeps connections for all threads; the pool behind it is safe for them."""
    session = requests.Session()
    adapter = requests.adapters.HTTPAdapter(pool_connections=8, pool_maxsize=64)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def http_options(allowed: frozenset[str]) -> dict[str, Any]:
    """For fsspec's own file system of the web, which lists folders and copies tables: the same rules."""
    import aiohttp  # noqa: PLC0415 - only for what is not on this machine

    async def check(_session: Any, _context: Any, found: Any) -> None:
        target = urljoin(str(found.url), found.response.headers.get("Location", ""))
        refuse_redirect(target, allowed | {host_of(str(found.url))})

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(check)
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS
    )
    return {"client_kwargs": {"trace_configs": [trace], "timeout": timeout}}


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def reason_for_people(error: BaseException) -> str:
    """What an error of a storage says; of a redirect that was refused, that."""
    refused = (one for one in causes(error) if isinstance(one, DecodeError))
    return reason_of(next(refused, error))


UNANSWERED = (requests.RequestException, HTTPError)
"""What `read_http` raises where it is worth another try."""
