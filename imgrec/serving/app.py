"""The HTTP interface as one ASGI application: the same alone and under Ray Serve."""

from collections.abc import Collection

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from imgrec.serving.doors import asking, watching
from imgrec.serving.guard import Guard
from imgrec.serving.page import page
from imgrec.serving.protocol import protocol
from imgrec.serving.refusal import Refusal
from imgrec.serving.server import Serving
from imgrec.version import __version__

LATER = {429, 503}
"""Statuses of requests that may be sent again."""
GONE = 499
"""What is counted where a client has gone before its answer."""


def build_app(serving: Serving, token: str = "", hosts: Collection[str] = ()) -> ASGIApp:
    """The doors of a server, guarded.

    Args:
        serving: What is behind them.
        token: That requests must bring; empty asks for none.
        hosts: Names by which the server may be called; empty allows all.
    """
    # The pages that show an OpenAPI document fetch their scripts from elsewhere; the document itself is there.
    app = FastAPI(title="imgrec", version=__version__, docs_url=None, redoc_url=None)
    for router in (asking(serving), watching(serving), protocol(serving), page()):
        app.include_router(router)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(RequestValidationError, _wrong)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _our_fault)
    return Guard(app, serving.metrics, token, hosts)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    headers = {"Retry-After": "1"} if error.status in LATER else None
    return JSONResponse({"error": error.reason}, error.status, headers)


async def _of_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _wrong(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return JSONResponse({"error": f"{where}: {first['msg']}"}, 400)


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=GONE)


async def _our_fault(_: Request, __: Exception) -> Response:
    """The traceback is in the server's log, and in no answer."""
    return JSONResponse({"error": "a fault of the server; its log has it"}, 500)
