"""What the server answers over HTTP: a real one, on loopback, with a real classifier behind it."""

import base64
import json
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from imgrec.serving import listen
from imgrec.serving.server import Serving
from imgrec.serving.source import FolderSource
from tests.integration.serving.made import make_classifier, picture, save, served

LIMITS = {"most_megabytes": 1, "most_pictures": 4, "body_seconds": 1.0}
Server = tuple[str, Serving]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = save(make_classifier(), tmp_path_factory.mktemp("models") / "animals")
    with served(FolderSource({"animals": folder}), **LIMITS) as running:
        yield running


def post(
    server: Server, body: Any = None, path: str = "predict", **options: Any
) -> requests.Response:
    url = f"{server[0]}/v1/models/animals/{path}"
    return requests.post(url, data=body, timeout=20, **options)


def form(*contents: bytes) -> dict[str, Any]:
    return {"files": [("file", (f"{row}.png", one)) for row, one in enumerate(contents)]}


def test_a_picture_is_answered_as_the_classifier_answers_it(server: Server) -> None:
    """One way from bytes to probabilities, whoever asks."""
    answer = post(server, picture(1))
    (expected,) = make_classifier().predict([picture(1)])

    assert answer.status_code == 200
    told = answer.json()
    (row,) = told["predictions"]
    assert told["model"] == "animals"
    assert row["label"] == expected.label
    assert row["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
    assert row["abstained"] is False
    assert row["possible"] == []


def test_a_broken_picture_of_several_costs_the_others_nothing(server: Server) -> None:
    """A row with its reason, in its place."""
    answer = post(server, **form(picture(1), b"no picture", picture(2)))

    assert answer.status_code == 200
    rows = answer.json()["predictions"]
    assert [set(row) == {"error"} for row in rows] == [False, True, False]
    assert "not a picture" in rows[1]["error"]
    assert rows[2]["label"] == make_classifier().predict([picture(2)])[0].label


def test_other_priors_are_for_the_request_that_names_them(server: Server) -> None:
    """Two requests that are answered in one batch may name different ones."""
    wanted = make_classifier().with_priors({"owl": 1.0}).predict(picture(3))[0]
    answers = [
        post(server, picture(3), params={"priors": text}).json()["predictions"][0]
        for text in ("owl=1", '{"owl": 2}', "")
    ]

    assert [one["label"] for one in answers[:2]] == ["owl", "owl"]
    assert answers[0]["probability"] == pytest.approx(wanted.probability, abs=1e-6)
    assert answers[2]["probability"] < 0.99


@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [
        ({"body": b""}, 422, "the body is empty"),
        ({"body": b"no picture"}, 422, "not a picture"),
        ({"body": picture(1)[:60]}, 422, ""),
        ({"body": bytes(1 << 20) + b"x"}, 413, "larger than 1 MiB"),
        ({"body": iter([bytes(600_000)] * 2)}, 413, "larger than 1 MiB"),
        (form(*[picture(1)] * 5), 413, "4 pictures at most"),
        (form(*[picture(1)] * 60), 413, "4 pictures at most"),
        ({"files": {"other": picture(1)}}, 422, "no file in the form"),
        ({"body": b"--", "headers": {"Content-Type": "multipart/form-data"}}, 422, "no form"),
        (
            {
                "body": b"--x\r\nno form",
                "headers": {"Content-Type": "multipart/form-data; boundary=x"},
            },
            422,
            "",
        ),
        ({"body": picture(1), "params": {"priors": "fox=1"}}, 400, "fox is no class"),
        ({"body": picture(1), "params": {"priors": "[1]"}}, 400, "write cat=0.9"),
        ({"body": picture(1), "path": "explode"}, 404, ""),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_wrong_request_is_refused_with_its_reason(
    server: Server, options: dict[str, Any], status: int, reason: str
) -> None:
    """A status that programs know, a sentence for people, and nothing of this machine."""
    answer = post(server, **options)

    assert answer.status_code == status
    told = answer.json()
    assert set(told) == {"error"}
    assert reason in told["error"]
    assert "/" not in told["error"]
    assert "Traceback" not in answer.text


def test_what_is_not_there_is_said(server: Server) -> None:
    """With the names of what is."""
    address, _ = server
    unknown = requests.post(f"{address}/v1/models/plants/predict", data=picture(1), timeout=20)
    wrong = requests.get(f"{address}/v1/models/animals/predict", timeout=20)

    assert unknown.status_code == 404
    assert unknown.json() == {"error": "no such model; there are animals"}
    assert wrong.status_code == 405


def test_uploads_are_never_written_to_a_disk(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starlette would put a large file of a form there, and a disk keeps what it was given."""
    large = picture(5, (700, 900), "BMP")
    assert len(large) > 600_000
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere/at/all")
    with pytest.raises(FileNotFoundError):
        tempfile.TemporaryFile()  # noqa: SIM115

    assert post(server, **form(large)).status_code == 200
    assert post(server, large).status_code == 200


def test_a_body_that_does_not_come_is_not_waited_for(server: Server) -> None:
    """Or whoever sends one byte a minute would hold a connection for ever."""
    host, port = server[0].removeprefix("http://").split(":")
    head = b"POST /v1/models/animals/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head + b"only this")
        answer = connection.recv(1000)

    assert answer.startswith(b"HTTP/1.1 408")


def test_a_head_that_does_not_come_is_not_waited_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same before the first line has come whole."""
    monkeypatch.setattr(listen, "HEAD_SECONDS", 0.3)
    host, port = server[0].removeprefix("http://").split(":")
    started = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"POST /v1")
        assert connection.recv(1000) == b""

    assert time.monotonic() - started < 5
    assert post(server, picture(1)).status_code == 200


def test_a_head_that_never_ends_is_not_kept(server: Server) -> None:
    """Or one connection could fill the memory."""
    host, port = server[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        sent = 0
        try:
            while sent < 1000:
                connection.sendall(b"X-Filler: " + b"x" * 1000 + b"\r\n")
                sent += 1
                time.sleep(0.002)
        except OSError:  # closed there
            pass
    assert sent < 1000

    large = requests.post(
        f"{server[0]}/v1/models/animals/predict", data=picture(5, (500, 900), "BMP"), timeout=20
    )
    assert large.status_code == 200


@pytest.mark.parametrize("drips", [b"x", b"0\r\nX: y\r\n" + b"X: y\r\n" * 10])
def test_what_comes_after_a_refusal_is_not_waited_for(server: Server, drips: bytes) -> None:
    """Byte after byte of a body that nobody reads, or headers behind it, hold a connection for a moment and no longer."""
    host, port = server[0].removeprefix("http://").split(":")
    kind = b"Content-Length: 100000" if drips == b"x" else b"Transfer-Encoding: chunked"
    head = b"POST /v1/models/nobody/predict HTTP/1.1\r\nHost: x\r\n" + kind + b"\r\n\r\n"
    started = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head)
        assert connection.recv(1000).startswith(b"HTTP/1.1 404")
        try:
            while time.monotonic() - started < 20:
                connection.sendall(drips)
                time.sleep(0.1)
        except OSError:
            pass

    assert time.monotonic() - started < 10


def test_whoever_goes_before_the_answer_costs_nothing(server: Server) -> None:
    """Half a request, and the connection is closed."""
    host, port = server[0].removeprefix("http://").split(":")
    head = b"POST /v1/models/animals/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    for _ in range(20):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(head)

    assert post(server, picture(1)).status_code == 200


def test_what_a_model_looked_at_is_shown(server: Server) -> None:
    """Two pictures that any page can show, and the same label as its answer."""
    told = post(server, picture(1), "explain").json()
    label = make_classifier().predict(picture(1))[0].label

    assert told["label"] == label
    for key in ("shown", "looked_at"):
        kind, _, text = told[key].partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(text).startswith(b"\x89PNG")


def test_models_and_state_are_told(server: Server) -> None:
    """For the page, for programs, for Prometheus, for whatever restarts containers."""
    address, _ = server
    (model,) = requests.get(f"{address}/v1/models", timeout=20).json()["models"]
    post(server, picture(1))
    counts = requests.get(f"{address}/metrics", timeout=20).text

    assert model["class_names"] == ["cat", "dog", "owl"]
    assert (model["height"], model["width"], model["channels"]) == (8, 8, 1)
    assert requests.get(f"{address}/v1/models/animals", timeout=20).json() == model
    for path in ("healthz", "readyz"):
        assert requests.get(f"{address}/{path}", timeout=20).json() == {"status": "ok"}
    assert 'imgrec_requests_total{path="/v1/models/{name}/predict",status="200"}' in counts
    assert 'imgrec_model_version{model="animals"' in counts


def test_the_page_needs_nothing_from_elsewhere(server: Server) -> None:
    """No network, and no script that is not this server's."""
    address, _ = server
    page = requests.get(f"{address}/", timeout=20)

    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "http" not in page.text.replace("http-equiv", "")
    for name in ("app.js", "words.js", "style.css"):
        assert f"page/{name}" in page.text
        part = requests.get(f"{address}/page/{name}", timeout=20)
        assert part.status_code == 200
        assert "http://" not in part.text
        assert "https://" not in part.text
    assert requests.get(f"{address}/page/__init__.py", timeout=20).status_code == 404


def infer(server: Server, asked: Any, tail: bytes = b"", **headers: str) -> requests.Response:
    url = f"{server[0]}/v2/models/animals/infer"
    return requests.post(url, json.dumps(asked).encode() + tail, headers=headers, timeout=20)


def tensor(**changed: Any) -> dict[str, Any]:
    data = [base64.b64encode(picture(seed)).decode() for seed in (1, 2)]
    return {
        "inputs": [{"name": "image", "shape": [2], "datatype": "BYTES", "data": data} | changed]
    }


def test_the_open_inference_protocol_is_spoken(server: Server) -> None:
    """KServe's and Triton's clients ask any server the same way: in JSON, or in binary."""
    expected = make_classifier().predict([picture(1), picture(2)])
    asked = tensor() | {"id": "7", "outputs": [{"name": "label"}, {"name": "probabilities"}]}
    told = infer(server, asked).json()
    label, probabilities = told["outputs"]

    assert told["id"] == "7"
    assert label == {
        "name": "label",
        "datatype": "BYTES",
        "shape": [2],
        "data": [one.label for one in expected],
    }
    assert probabilities["shape"] == [2, 3]
    flat = [share for one in expected for share in one.probabilities.values()]
    assert probabilities["data"] == pytest.approx(flat, abs=1e-6)

    tail = b"".join(len(one).to_bytes(4, "little") + one for one in (picture(1), picture(2)))
    asked = tensor(data=[], parameters={"binary_data_size": len(tail)})
    length = {"Inference-Header-Content-Length": str(len(json.dumps(asked)))}
    binary = infer(server, asked, tail, **length).json()
    assert binary["outputs"][0]["data"] == [one.label for one in expected]

    about = requests.get(f"{server[0]}/v2/models/animals", timeout=20).json()
    assert about["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    version = told["model_version"]
    ready = requests.get(f"{server[0]}/v2/models/animals/versions/{version}/ready", timeout=20)
    assert ready.json() == {"ready": True}


@pytest.mark.parametrize(
    ("asked", "status", "reason"),
    [
        ({}, 400, "inputs"),
        (tensor() | {"outputs": [0] * 100_000}, 400, "outputs"),
        (tensor(data=[0] * 5000), 400, "data"),
        ({"inputs": []}, 400, "inputs"),
        (tensor(name="picture"), 400, "one of them, image of type BYTES"),
        (tensor(datatype="FP32"), 400, "one of them, image of type BYTES"),
        (tensor(shape=[3]), 400, "shape [3], and 2 pictures came"),
        (tensor(data=["%%", "%%"]), 400, "text in base64"),
        (tensor(data=[[1], [2]]), 400, "text in base64"),
        (tensor(data=["aGVsbG8=", "aGVsbG8="]), 422, "image[0]: not a picture"),
        (tensor(shape=[5], data=["aGVsbG8="] * 5), 413, "4 pictures at most"),
        (tensor() | {"outputs": [{"name": "sound"}]}, 400, "no sound"),
        (tensor(parameters={"binary_data_size": 9}), 400, "and 0 bytes came"),
    ],
)
def test_what_is_not_the_protocol_is_refused(
    server: Server, asked: dict[str, Any], status: int, reason: str
) -> None:
    """With the status that its clients show, and the place in the request."""
    answer = infer(server, asked)

    assert answer.status_code == status
    assert reason in answer.json()["error"]


def test_another_version_is_not_answered_for(server: Server) -> None:
    """A client that names a version must not be told what another one says."""
    url = f"{server[0]}/v2/models/animals/versions/99/infer"
    answer = requests.post(url, json=tensor(), timeout=20)

    assert answer.status_code == 404
    assert "version 99 is not served" in answer.json()["error"]


def test_with_a_token_only_its_bearer_is_answered(tmp_path: Path) -> None:
    """But the page, which asks for it, and whatever watches the server."""
    folder = save(make_classifier(), tmp_path / "animals")
    # As from a file, with its newline.
    with served(FolderSource({"animals": folder}), token="a secret\n") as (address, _):

        def status(path: str, token: str = "") -> int:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            return requests.get(f"{address}{path}", headers=headers, timeout=20).status_code

        assert status("/v1/models") == 401
        assert status("/v1/models", "a secre") == 401
        assert status("/v1/models", "a secret") == 200
        assert status("/metrics") == 401
        assert status("/openapi.json") == 401
        for path in ("/", "/healthz", "/readyz", "/v2/health/live", "/page/app.js"):
            assert status(path) == 200


def test_a_page_of_another_site_is_refused(tmp_path: Path) -> None:
    """One that has made a browser believe that its name is this machine's."""
    folder = save(make_classifier(), tmp_path / "animals")
    hosts = ("127.0.0.1", "localhost")
    with served(FolderSource({"animals": folder}), hosts=hosts) as (address, _):
        port = address.rpartition(":")[2]
        for name, status in ((f"localhost:{port}", 200), ("evil.example", 403), ("", 403)):
            answer = requests.get(f"{address}/healthz", headers={"Host": name}, timeout=20)
            assert answer.status_code == status
