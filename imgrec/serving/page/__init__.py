"""The web page: drop, paste, photograph or draw a picture, and see what every model says of it."""

from importlib.resources import files

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

KINDS = {"app.js": "text/javascript", "words.js": "text/javascript", "style.css": "text/css"}
HEADERS = {
    # Nothing but what this server gives, and no script within the page.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page() -> APIRouter:
    """Its routes."""
    router = APIRouter(include_in_schema=False)
    folder = files(__name__)
    index = (folder / "index.html").read_bytes()
    parts = {name: (folder / name).read_bytes() for name in KINDS}

    @router.get("/")
    async def show() -> Response:
        return Response(index, media_type="text/html", headers=HEADERS)

    @router.get("/page/{name}")
    async def part(name: str) -> Response:
        if name not in parts:
            raise HTTPException(404, "no such file")
        return Response(parts[name], media_type=KINDS[name], headers=HEADERS)

    return router
