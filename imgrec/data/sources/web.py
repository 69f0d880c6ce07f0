"""Files behind http:// and https://, from allowed hosts, of a bounded size and in a bounded time.

A table may name addresses inside the user's network, and a server may redirect to one. So every address,
the first and those that it is redirected to, must be on a host that is allowed.
"""

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from http import HTTPStatus
from typing import Any
from urllib.parse import urljoin

import requests
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import LocationValueError
from urllib3.util import parse_url

from imgrec.errors import DataError, DecodeError, reason_of

HTTP = frozenset({"http", "https"})
HTTP_PREFIXES = tuple(f"{scheme}://" for scheme in sorted(HTTP))
SCHEMES = HTTP | {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "hf"}
"""What an address may begin with. Not local files, nor whatever else a library of addresses can open."""
MOST_REDIRECTS = 5
CONNECT_SECONDS, SILENCE_SECONDS = 10, 30
HEADER_SECONDS = 60
MOST_SECONDS, LEAST_RATE = 300, 4096
"""Seconds that a picture may take; more while it arrives at this rate, in bytes a second."""
AT_ONCE = 1 << 16
DEFAULT_PORTS = {"http": 80, "https": 443}
KINDS = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "adl": "az"}
"""Other names of the same kinds of stores."""
HUGGING_FACE_KINDS = frozenset({"buckets", "datasets", "models", "spaces"})
NOT_IN_ADDRESSES = re.compile(r"[\x00-\x20\x7f\\]")
GONE = frozenset({400, 401, 403, 404, 405, 410, 451})


def own_places(url: str) -> frozenset[str]:
    """The place that an address lies in, as `data.allow_hosts` names places.

    A host with its port; of a store of objects its bucket, with the kind of store before it; of Hugging
    Face a repository. http and https on their usual ports are one place.

    Raises:
        DecodeError: it is no address, or of a kind that is not read.
    """
    scheme, host, port = _parsed(url)
    if scheme not in HTTP:
        return frozenset({host})
    usual = DEFAULT_PORTS.values()
    return frozenset(f"{host}:{one}" for one in (usual if port in usual else [port]))


def checked(url: str, allowed: frozenset[str] | None) -> str:
    """An address in the form in which it can be read, if it may be.

    Args:
        url: What a table, or a server, says.
        allowed: Places that it may lie in; a host without a port allows all of its ports. None allows all.

    Raises:
        DecodeError: why it may not be read.
    """
    scheme, host, _ = _parsed(url)
    if allowed is not None and not ({host} | own_places(url)) & allowed:
        msg = f"lies on {host}, which data.allow_hosts does not name"
        raise DecodeError(msg)
    return scheme + url[len(scheme) :]


def _parsed(url: str) -> tuple[str, str, int]:
    """Scheme, host or bucket, and port (0 for a bucket), as the libraries that fetch understand them.

    Libraries disagree about the host of an address with a backslash or a user's name in it; such
    addresses are refused.
    """
    scheme = url.partition("://")[0].lower()
    if scheme not in SCHEMES:
        msg = f"an address that begins with {scheme[:20]}:// is not read"
        raise DecodeError(msg)
    try:
        if NOT_IN_ADDRESSES.search(url):
            msg = "a space, a backslash or a control character in it"
            raise ValueError(msg)  # noqa: TRY301 - one message for all that is wrong with it
        if scheme in HTTP:
            parsed = parse_url(url)
            if parsed.auth is not None or not parsed.host:
                msg = "a user's name in it" if parsed.host else "no host in it"
                raise ValueError(msg)  # noqa: TRY301
            return scheme, parsed.host.lower(), parsed.port or DEFAULT_PORTS[scheme]
    except (ValueError, LocationValueError) as error:
        msg = f"{url[:200]!r} is no address that can be read ({reason_of(error)})"
        raise DecodeError(msg) from error
    kind, parts = KINDS.get(scheme, scheme), url.partition("://")[2].split("/")
    if kind != "hf":
        return scheme, f"{kind}://{parts[0]}", 0
    count = 3 if parts[0] in HUGGING_FACE_KINDS else 2
    return scheme, f"hf://{'/'.join(parts[:count]).partition('@')[0]}", 0


def read_http(url: str, allowed: frozenset[str], most_bytes: int) -> bytes:
    """The whole file.

    Args:
        url: Begins with http:// or https://.
        allowed: Places beside its own that it may be redirected to.
        most_bytes: A larger one is not read to its end.

    Raises:
        DecodeError: there is no such file, it is larger, or it is somewhere else than allowed.
        DataError: it comes too slowly.
        requests.RequestException, urllib3.exceptions.HTTPError: the server does not answer.
    """
    content, started = bytearray(), time.monotonic()
    with _answer(url, allowed | own_places(url)) as answer:
        while some := answer.raw.read1(AT_ONCE, decode_content=True):
            content += some
            if len(content) > most_bytes:
                msg = f"more than {most_bytes >> 20} MiB"
                raise DecodeError(msg)
            seconds = time.monotonic() - started
            if seconds > MOST_SECONDS + len(content) / LEAST_RATE:
                msg = (
                    f"{url}: not read to its end in {seconds:.0f} s; try again, or take it out of the "
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
        if answer.status_code == HTTPStatus.OK:
            return answer
        answer.close()
        if not answer.is_redirect:
            if answer.status_code in GONE or answer.status_code < HTTPStatus.BAD_REQUEST:
                msg = f"cannot be fetched: HTTP {answer.status_code}"
                raise DecodeError(msg)
            answer.raise_for_status()
        url = redirected(url, answer.headers["Location"], allowed)
    msg = f"cannot be fetched: redirected more than {MOST_REDIRECTS} times"
    raise DecodeError(msg)


def redirected(url: str, target: str, allowed: frozenset[str]) -> str:
    """The address that an answer leads to.

    Raises:
        DecodeError: it may not be read.
    """
    try:
        target = checked(urljoin(url, target), allowed)
    except (DecodeError, ValueError) as error:
        msg = f"redirected to what {error}"
        raise DecodeError(msg) from None
    if not target.startswith(("http://", "https://")):
        msg = "redirected to what is no web address"
        raise DecodeError(msg)
    return target


class _Timely:
    """A connection that is closed where the headers of an answer take longer than HEADER_SECONDS."""

    sock: Any

    def getresponse(self) -> Any:
        # A socket's own timeout starts again with every byte, so a slow server could hold it for ever.
        timer = threading.Timer(HEADER_SECONDS, self._hang_up, (self.sock,))
        timer.daemon = True
        timer.start()
        try:
            return super().getresponse()  # type: ignore[misc]
        finally:
            timer.cancel()

    @staticmethod
    def _hang_up(sock: Any) -> None:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


class _Http(_Timely, HTTPConnection):
    pass


class _Https(_Timely, HTTPSConnection):
    pass


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


@cache
def _session() -> requests.Session:
    """One session for all threads: its pool of connections is safe for them."""
    session = requests.Session()
    adapter = requests.adapters.HTTPAdapter(pool_connections=8, pool_maxsize=64)
    adapter.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def http_options(allowed: frozenset[str]) -> dict[str, Any]:
    """The same rules as options of fsspec's HTTP file system, which lists folders and copies tables."""
    import aiohttp  # noqa: PLC0415 - only for what is not on this machine

    async def check(_session: Any, _context: Any, redirect: Any) -> None:
        url = str(redirect.url)
        redirected(url, redirect.response.headers.get("Location", ""), allowed | own_places(url))

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(check)
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS
    )
    return {"client_kwargs": {"trace_configs": [trace], "timeout": timeout}}


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def reason_for_people(error: BaseException) -> str:
    """What an error of a storage says; where a redirect was refused, the reason for that."""
    refused = (one for one in causes(error) if isinstance(one, DecodeError))
    return reason_of(next(refused, error))
