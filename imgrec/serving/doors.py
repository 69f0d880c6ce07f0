"""The doors under /v1, and those of whoever watches the server."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute

from imgrec.classifier import Classifier
from imgrec.data.decode import Pixels
from imgrec.errors import DecodeError
from imgrec.evaluation.mistakes import Seen, look_at
from imgrec.serving.answers import (
    Explained,
    ModelInfo,
    ModelList,
    Predictions,
    Refused,
    State,
    as_row,
    info_of,
)
from imgrec.serving.bodies import FIELD, FORM, pictures_in
from imgrec.serving.refusal import Refusal
from imgrec.serving.server import Serving

JSON = "application/json"
REASONS = {
    400: "The request is wrong.",
    401: "The token is missing or wrong.",
    403: "The Host header names another server.",
    404: "There is no such model.",
    408: "The request did not come whole in time.",
    413: "The body is too large, or has too many pictures.",
    422: "No picture of the request can be read.",
    429: "Too many pictures wait; send it again later.",
    503: "The answer did not come in time, or no model is ready.",
}
ANY_FILE = {"type": "string", "format": "binary"}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": ANY_FILE},
            "image/*": {"schema": ANY_FILE},
            FORM: {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {FIELD: {"type": "array", "items": ANY_FILE, "minItems": 1}},
                }
            },
        },
    }
}
Priors = Annotated[
    str,
    Query(
        description="How frequent classes are where the pictures come from: cat=0.9,dog=0.1, a JSON object, or even."
    ),
]


class _Direct(APIRoute):
    """One whose endpoint is called without FastAPI's reading of parameters, which takes as long as a small picture."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint with the name of the path, the request, and the priors of the query."""
        endpoint = self.endpoint

        async def answer(request: Request) -> Response:
            priors = request.query_params.get("priors", "")
            told: Response = await endpoint(request.path_params["name"], request, priors)
            return told

        return answer


class _Explaining:
    """One picture at a time, in a thread of its own."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._going_on: asyncio.Task[Seen] | None = None

    async def explain(self, classifier: Classifier, pixels: Pixels) -> Seen:
        """What the classifier looked at.

        Raises:
            Refusal: another picture is being explained, or it takes too long; a thread cannot be ended, so until it is
                through there is no other.
        """
        if self._going_on is not None and not self._going_on.done():
            raise Refusal(429, "another picture is being explained; send it again later")
        self._going_on = asyncio.create_task(asyncio.to_thread(look_at, classifier, pixels))
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.shield(self._going_on)
        except TimeoutError as error:
            raise Refusal(503, "the model takes too long to be explained") from error


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These, for the OpenAPI document."""
    return {status: {"model": Refused, "description": REASONS[status]} for status in statuses}


def asking(serving: Serving) -> APIRouter:
    """The routes of pictures."""
    router, direct = APIRouter(), APIRouter(route_class=_Direct)
    explaining = _Explaining(serving.settings.answer_seconds)
    of_pictures = refusals(400, 401, 403, 404, 408, 413, 422, 429, 503)

    @direct.post(
        "/v1/models/{name}/predict",
        responses={200: {"model": Predictions}, **of_pictures},
        openapi_extra=BODY,
        tags=["predict"],
    )
    async def predict(name: str, request: Request, priors: Priors = "") -> Response:
        """Say what is in a picture (the body), or in several (the files of a form, a field `file` each)."""
        serving.refuse_unknown(name)
        async with serving.bodies.whole(request) as body:
            pictures = await pictures_in(request, body, serving.settings.most_pictures)
            with serving.using(name) as model:
                contents = [content for _, content in pictures]
                answers = await serving.ask(model, contents, priors)
        unread = [one for one in answers if isinstance(one, DecodeError)]
        outcomes = serving.metrics.pictures
        outcomes.labels(name, "unread").inc(len(unread))
        outcomes.labels(name, "answered").inc(len(answers) - len(unread))
        if len(unread) == len(answers):
            raise Refusal(422, str(unread[0]))
        rows = [as_row(one) for one in answers]
        told = {"predictions": rows, "model": model.name, "version": model.version}
        return Response(json.dumps(told), media_type=JSON)

    @router.post(
        "/v1/models/{name}/explain",
        responses={200: {"model": Explained}, **of_pictures},
        openapi_extra=BODY,
        tags=["predict"],
    )
    async def explain(name: str, request: Request) -> Response:
        """Show what a model looked at in a picture: parts are covered one after the other. It costs about 50 answers."""
        serving.refuse_unknown(name)
        async with serving.bodies.whole(request) as body:
            (_, content), *more = await pictures_in(request, body, 1)
            assert not more
            with serving.using(name) as model:
                pixels = await serving.pixels(model, content)
                seen = await explaining.explain(model.classifier, pixels)
        told = Explained(
            label=seen.label,
            probability=seen.probability,
            shown=seen.shown,
            looked_at=seen.looked_at,
            model=model.name,
            version=model.version,
        )
        return Response(told.model_dump_json(), media_type=JSON)

    router.include_router(direct)
    return router


def watching(serving: Serving) -> APIRouter:
    """The routes of what is there, and of whoever watches the server."""
    router = APIRouter()

    @router.get("/v1/models", responses=refusals(401, 403), tags=["models"])
    async def list_models() -> ModelList:
        """The models that answer."""
        return ModelList(models=[info_of(model) for model in serving.models.all()])

    @router.get("/v1/models/{name}", responses=refusals(401, 403, 404), tags=["models"])
    async def describe_model(name: str) -> ModelInfo:
        """One of them."""
        with serving.using(name) as model:
            return info_of(model)

    @router.get("/healthz", responses=refusals(403), tags=["server"])
    async def live() -> State:
        """Whether the server lives."""
        return State(status="ok")

    @router.get("/readyz", responses=refusals(403, 503), tags=["server"])
    async def ready() -> State:
        """Whether models are loaded."""
        if not serving.models.all():
            raise Refusal(503, "no model is ready")
        return State(status="ok")

    @router.get(
        "/metrics",
        responses=refusals(401, 403),
        response_class=PlainTextResponse,
        tags=["server"],
    )
    async def metrics() -> Response:
        """Counts for Prometheus."""
        return PlainTextResponse(serving.metrics.text())

    return router
