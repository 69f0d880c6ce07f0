"""What stands before every door: the token, the Host header, the count of requests."""

import secrets
import time
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imgrec.serving.metrics import Metrics

OPEN = frozenset({"/", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
"""Paths that answer without a token: the page, which asks for one, and what watches the server."""
OF_THE_PAGE = "/page/"
TOKEN = "IMGREC_TOKEN"  # noqa: S105 - the name of the variable
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Guard:
    """An ASGI application in front of another."""

    def __init__(
        self, app: ASGIApp, metrics: Metrics, token: str = "", hosts: Collection[str] = ()
    ) -> None:
        """In front of this one.

        Args:
            app: That answers.
            metrics: To count in.
            token: That requests must bring; empty asks for none.
            hosts: Names by which the server may be called: a page of another site that makes a browser believe it is this
                one is refused. Empty allows all.
        """
        self._app, self._metrics, self._hosts = app, metrics, hosts
        self._token = token.strip()  # a file of a secret often ends with a newline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if refused := self._refused(scope):
                await refused(scope, receive, watched)
            else:
                await self._app(scope, receive, watched)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", "other")
            self._metrics.requests.labels(path, status).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)

    def _refused(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        if self._hosts and _without_port(headers.get("host", "")) not in self._hosts:
            return JSONResponse({"error": "the Host header names another server"}, 403)
        path = scope["path"]
        if not self._token or path in OPEN or path.startswith(OF_THE_PAGE):
            return None
        kind, _, brought = headers.get("authorization", "").partition(" ")
        # Starlette reads headers as latin-1; so the bytes are those that came.
        if kind.lower() == "bearer" and secrets.compare_digest(
            brought.strip().encode("latin-1"), self._token.encode()
        ):
            return None
        return JSONResponse(
            {"error": "a token is missing: Authorization: Bearer ..."},
            401,
            {"WWW-Authenticate": "Bearer"},
        )


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
