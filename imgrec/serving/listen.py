"""A server on a socket of this machine, until a signal ends it."""

import asyncio
import math
import socket
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from imgrec.config import ServeConfig
from imgrec.errors import ConfigError, reason_of

HEAD_SECONDS = 10.0
"""In which the head of a request must have come."""
MOST_HEAD = 64 << 10
"""Bytes of a head."""
LINGER_SECONDS = 1.0
KEEP_SECONDS = 15
"""That a connection is kept without a request."""
BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        ConfigError: that cannot be.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        msg = f"serve.host = {host}, serve.port = {port}: {reason_of(error)}; choose another with --port"
        raise ConfigError(msg) from error


def make_server(app: ASGIApp, settings: ServeConfig) -> uvicorn.Server:
    """A server whose `run(sockets=[...])` answers until Ctrl-C or SIGTERM; what is being answered then is answered still."""
    config = uvicorn.Config(
        app,
        http=_Impatient,
        loop="uvloop",
        ws="none",
        lifespan="off",
        access_log=False,
        server_header=False,
        log_config=None,
        limit_concurrency=settings.most_connections,
        timeout_keep_alive=KEEP_SECONDS,
        timeout_graceful_shutdown=math.ceil(settings.answer_seconds),
    )
    return uvicorn.Server(config)


class _Impatient(HttpToolsProtocol):
    """One that ends a connection whose head does not come, or never ends: uvicorn would wait, and keep all of it."""

    _timer: asyncio.TimerHandle | None = None
    _head, _has_head = 0, False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._timer is not None:  # still the head
            self._head += len(data)
            if self._head > MOST_HEAD:
                self._end()

    def on_message_begin(self) -> None:
        self._has_head = False
        if self._timer is None:  # a later request of the same connection
            self._wait()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._came()
        self._has_head = True
        super().on_headers_complete()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._has_head:  # behind a body, which nobody reads
            self._end()
        else:
            super().on_header(name, value)

    def on_response_complete(self) -> None:
        answered = self.cycle
        super().on_response_complete()
        if answered is not None and answered.more_body:
            # What still comes of the body is for nobody. The client has a moment to read the answer.
            self.loop.call_later(LINGER_SECONDS, self._end)

    def _wait(self) -> None:
        self._head = 0
        self._timer = self.loop.call_later(HEAD_SECONDS, self._end)

    def _came(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        self._came()
        if not self.transport.is_closing():
            self.transport.close()
