"""The body of a request: read whole into memory, within limits, and never written to a disk."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from imgrec.config import ServeConfig
from imgrec.serving.refusal import Refusal

FIELD = "file"
FORM = "multipart/form-data"
MOST_FIELDS = 16
"""Other parts than files, which nobody reads."""


class Bodies:
    """Those of all requests that are being answered."""

    def __init__(self, settings: ServeConfig) -> None:
        self._settings = settings
        self._most = settings.most_megabytes << 20
        self._inside, self._most_inside = 0, settings.most_bodies_megabytes << 20

    @asynccontextmanager
    async def whole(self, request: Request) -> AsyncIterator[bytes]:
        """The body; it counts as long as the block lasts.

        Raises:
            Refusal: it is too large, or does not come whole in time; or all bodies together are too large.
        """
        sizes: list[int] = []
        try:
            try:
                async with asyncio.timeout(self._settings.body_seconds):
                    body = await self._read(request, sizes)
            except TimeoutError as error:
                raise Refusal(408, "the request did not come whole in time") from error
            yield body
        finally:
            self._inside -= sum(sizes)

    async def _read(self, request: Request, sizes: list[int]) -> bytes:
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._most:
            raise self._too_large()
        parts: list[bytes] = []
        async for part in request.stream():
            sizes.append(len(part))
            self._inside += len(part)
            if sum(sizes) > self._most:
                raise self._too_large()
            if self._inside > self._most_inside:
                raise Refusal(503, "too many large requests at a time; send it again later")
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body is larger than {self._settings.most_megabytes} MiB")


async def pictures_in(request: Request, body: bytes, most: int) -> list[tuple[str, bytes]]:
    """Names and contents of the pictures of a body: the body itself, or the files of a form.

    Args:
        request: Whose headers say which.
        body: Its body.
        most: Pictures that there may be.

    Raises:
        Refusal: there is none, or there are too many.
    """
    if not request.headers.get("content-type", "").startswith(FORM):
        if not body:
            raise Refusal(422, "the body is empty; send a picture")
        return [("body", body)]

    async def once() -> AsyncGenerator[bytes, None]:
        yield body

    parser = _InMemory(request.headers, once(), max_files=most + 1, max_fields=MOST_FIELDS)
    parser.spool_max_size = len(body) + 1  # or Starlette writes what is larger to a disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if parser.files > most:
            raise _too_many(most) from error
        raise Refusal(422, f"no form can be read: {error.message}") from error
    try:
        files = [one for one in form.getlist(FIELD) if isinstance(one, UploadFile)]
        if not files:
            raise Refusal(422, f"no file in the form; send each picture as a field {FIELD}")
        if len(files) > most:
            raise _too_many(most)
        return [(one.filename or FIELD, await one.read()) for one in files]
    finally:
        await form.close()


def _too_many(most: int) -> Refusal:
    return Refusal(413, f"a request has {most} pictures at most")


class _InMemory(MultiPartParser):
    @property
    def files(self) -> int:
        """Of the form, as far as it was read."""
        return self._current_files
