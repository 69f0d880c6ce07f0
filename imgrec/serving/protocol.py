"""The Open Inference Protocol (V2), which KServe, Triton and their clients speak.

A picture is an element of the input `image`, of type BYTES: base64 in JSON, or its bytes after their length (four bytes,
little endian) in the binary extension. Outputs: `label`, `probability`, `probabilities`, `abstained`.

Source: https://github.com/kserve/open-inference-protocol (protocol of 2024), and Triton's extension "binary data".
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, ValidationError
from starlette.responses import JSONResponse

from imgrec.classifier import Prediction
from imgrec.errors import DecodeError
from imgrec.serving.doors import JSON, refusals
from imgrec.serving.models import ServedModel
from imgrec.serving.refusal import Refusal
from imgrec.serving.server import Serving
from imgrec.version import __version__

INPUT = "image"
HEAD = "inference-header-content-length"
SIZE = "binary_data_size"
MOST_DATA = 4096
"""Elements of an input, whatever `serve.most_pictures` allows: a list is read before it is counted."""
LENGTH = 4
"""Bytes that say how long an element is."""


class Tensor(BaseModel):
    """An input."""

    name: str
    shape: list[int] = Field(max_length=8)
    datatype: str
    parameters: dict[str, Any] = {}
    data: list[Any] = Field(default=[], max_length=MOST_DATA)


class Wanted(BaseModel):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class Inference(BaseModel):
    """A request."""

    id: str | None = None
    inputs: list[Tensor] = Field(min_length=1, max_length=1)
    outputs: list[Wanted] = Field(default=[], max_length=16)
    parameters: dict[str, Any] = {}


class Output(BaseModel):
    """An output."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class Inferred(BaseModel):
    """Its answer."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[Output]


class ServerInfo(BaseModel):
    """What the server is."""

    name: str
    version: str
    extensions: list[str]


class TensorInfo(BaseModel):
    """An input or output that a model has."""

    name: str
    datatype: str
    shape: list[int]


class V2Model(BaseModel):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]


class Live(BaseModel):
    """Whether the server lives."""

    live: bool


class Ready(BaseModel):
    """Whether the server, or a model, is ready."""

    ready: bool


def protocol(serving: Serving) -> APIRouter:
    """The routes under /v2."""
    router = APIRouter(prefix="/v2", tags=["open inference protocol"])

    @router.get("", responses=refusals(401, 403))
    async def server() -> ServerInfo:
        """What the server is."""
        return ServerInfo(name="imgrec", version=__version__, extensions=["binary_tensor_data"])

    @router.get("/health/live", responses=refusals(403))
    async def live() -> Live:
        """Whether the server lives."""
        return Live(live=True)

    @router.get("/health/ready", responses=refusals(403))
    async def ready() -> Ready:
        """Whether models are loaded."""
        return Ready(ready=bool(serving.models.all()))

    @router.get("/models/{name}", responses=refusals(401, 403, 404))
    @router.get("/models/{name}/versions/{version}", responses=refusals(401, 403, 404))
    async def describe(name: str, version: str = "") -> V2Model:
        """What a model takes and gives."""
        with serving.using(name) as model:
            _refuse_other(model, version)
            classes = len(model.classifier.card.class_names)
            return V2Model(
                name=name,
                versions=[model.version],
                platform="imgrec_torch",
                inputs=[TensorInfo(name=INPUT, datatype="BYTES", shape=[-1])],
                outputs=[
                    TensorInfo(name="label", datatype="BYTES", shape=[-1]),
                    TensorInfo(name="probability", datatype="FP32", shape=[-1]),
                    TensorInfo(name="probabilities", datatype="FP32", shape=[-1, classes]),
                    TensorInfo(name="abstained", datatype="BOOL", shape=[-1]),
                ],
            )

    @router.get("/models/{name}/ready", responses=refusals(401, 403, 404))
    @router.get("/models/{name}/versions/{version}/ready", responses=refusals(401, 403, 404))
    async def model_ready(name: str, version: str = "") -> Ready:
        """Whether a model is ready."""
        with serving.using(name) as model:
            _refuse_other(model, version)
            return Ready(ready=True)

    takes = {
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": _inlined(Inference.model_json_schema())}},
        }
    }
    told = {200: {"model": Inferred}, **refusals(400, 401, 403, 404, 408, 413, 422, 429, 503)}

    @router.post("/models/{name}/infer", responses=told, openapi_extra=takes)
    @router.post("/models/{name}/versions/{version}/infer", responses=told, openapi_extra=takes)
    async def infer(name: str, request: Request, version: str = "") -> Response:
        """Say what is in pictures."""
        serving.refuse_unknown(name)
        async with serving.bodies.whole(request) as body:
            asked, contents = _read(request, body, serving.settings.most_pictures)
            with serving.using(name) as model:
                _refuse_other(model, version)
                answers = await serving.ask(
                    model, contents, str(asked.parameters.get("priors", ""))
                )
        for row, answer in enumerate(answers):
            if isinstance(answer, DecodeError):  # a tensor has no place for a reason
                raise Refusal(422, f"{INPUT}[{row}]: {answer}")
        outputs = _outputs([one for one in answers if isinstance(one, Prediction)])
        wanted = [one.name for one in asked.outputs] or list(outputs)
        if unknown := [name for name in wanted if name not in outputs]:
            raise Refusal(400, f"outputs: no {unknown[0]}; there are {', '.join(outputs)}")
        return JSONResponse(
            {
                "model_name": model.name,
                "model_version": model.version,
                "id": asked.id,
                "outputs": [{"name": name, **outputs[name]} for name in wanted],
            }
        )

    return router


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that refers to nothing beside it."""
    parts = schema.pop("$defs", {})

    def inline(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return inline(parts[node["$ref"].rpartition("/")[2]])
            return {key: inline(one) for key, one in node.items()}
        return [inline(one) for one in node] if isinstance(node, list) else node

    inlined: dict[str, Any] = inline(schema)
    return inlined


def _refuse_other(model: ServedModel, version: str) -> None:
    if version and version != model.version:
        raise Refusal(404, f"version {version} is not served; {model.version} is")


def _read(request: Request, body: bytes, most: int) -> tuple[Inference, list[bytes]]:
    """A request and its pictures.

    Raises:
        Refusal: it is none of the protocol, or has too many.
    """
    length = request.headers.get(HEAD, str(len(body)))
    if not length.isdecimal() or len(length) > 12 or int(length) > len(body):
        raise Refusal(400, f"{HEAD}: must be the length of the JSON at the beginning of the body")
    try:
        asked = Inference.model_validate_json(body[: int(length)])
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refusal(400, f"{where or 'body'}: {first['msg']}") from error
    (tensor,) = asked.inputs
    if tensor.name != INPUT or tensor.datatype != "BYTES":
        raise Refusal(400, f"inputs: one of them, {INPUT} of type BYTES")
    size = tensor.parameters.get(SIZE)
    contents = (
        _from_base64(tensor.data) if size is None else _after_lengths(body[int(length) :], size)
    )
    expected = tensor.shape[0] if tensor.shape else -1
    if not contents or expected != len(contents) or any(one != 1 for one in tensor.shape[1:]):
        raise Refusal(400, f"{INPUT}: shape {tensor.shape}, and {len(contents)} pictures came")
    if len(contents) > most:
        raise Refusal(413, f"a request has {most} pictures at most")
    return asked, contents


def _from_base64(data: Sequence[Any]) -> list[bytes]:
    contents = []
    for row, text in enumerate(data):
        try:
            contents.append(base64.b64decode(text, validate=True))
        except (binascii.Error, TypeError, ValueError) as error:
            raise Refusal(400, f"{INPUT}[{row}]: a picture is text in base64") from error
    return contents


def _after_lengths(content: bytes, size: Any) -> list[bytes]:
    """Elements of BYTES in the binary extension."""
    if size != len(content):
        raise Refusal(400, f"{INPUT}: {SIZE} = {size}, and {len(content)} bytes came")
    elements, at = list[bytes](), 0
    while at < len(content):
        length = int.from_bytes(content[at : at + LENGTH], "little")
        at += LENGTH
        if at + length > len(content):
            raise Refusal(400, f"{INPUT}[{len(elements)}]: shorter than its length says")
        elements.append(content[at : at + length])
        at += length
    return elements


def _outputs(answers: Sequence[Prediction]) -> dict[str, dict[str, Any]]:
    count = len(answers)
    classes = len(answers[0].probabilities)
    flat = [share for one in answers for share in one.probabilities.values()]
    return {
        "label": _tensor("BYTES", [count], [one.label for one in answers]),
        "probability": _tensor("FP32", [count], [one.probability for one in answers]),
        "probabilities": _tensor("FP32", [count, classes], flat),
        "abstained": _tensor("BOOL", [count], [one.abstained for one in answers]),
    }


def _tensor(datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"datatype": datatype, "shape": shape, "data": data}
