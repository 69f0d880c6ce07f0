"""The Hugging Face hub: its own client, and a server of ours on loopback that speaks its protocol."""

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import running
from tests.e2e.user import imgrec, refuse_unregistered

NAME = "test_efficientnet.r160_in1k"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves files of one repository as the hub does.

    Attributes:
        files: What it holds, by name.
        asked: The method and name of everything that was asked for.
        breaks_off: Send half of every file, and close.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files = files
        self.asked: list[tuple[str, str]] = []
        self.breaks_off = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        name = self.path.partition("/resolve/main/")[2]
        if not name and self.path == "/":
            self.send_response(200)
            self.end_headers()
            return
        self.server.asked.append((self.command, self.path))
        content = self.server.files.get(name)
        if content is None or f"/timm/{NAME}/" not in self.path:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content[: len(content) // 2] if self.server.breaks_off else content)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Hub]:
    hub = Hub(files)
    with running(hub):
        yield hub


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small network's weights, and what the hub says of them."""
    import timm

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "model.safetensors"
    tensors = timm.create_model("test_efficientnet").state_dict()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    cfg = {"input_size": [3, 96, 96], "crop_pct": 0.9, "interpolation": "bicubic"}
    cfg |= {"mean": [0.5] * 3, "std": [0.5] * 3, "license": "apache-2.0"}
    config = {"architecture": "test_efficientnet", "pretrained_cfg": cfg}
    return {"model.safetensors": file.read_bytes(), "config.json": json.dumps(config).encode()}


def asking(hub: str, *words: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """A command with an empty cache, and this hub."""
    return imgrec(*words, cwd=cwd, HF_ENDPOINT=hub, HF_HOME=str(cwd / "hf"), **more)


def test_fetch_brings_weights_that_a_run_without_a_network_begins_with(
    files: dict[str, bytes], make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """Once from a mirror into the cache; then nobody is asked, and the registered model says what it began with."""
    source = make_folder(16)
    with serving(files) as hub:
        fetched = asking(hub.url, "fetch", "test_efficientnet", "--json", cwd=tmp_path)
        asked = list(hub.asked)
    words = ["run", "--data", str(source), "--arch", "cnn", "--json"]
    words += ["--set", "cnn.model.backbone=test_efficientnet", "--set", "cnn.train.epochs=2"]
    ran = asking("http://127.0.0.1:9", *words, cwd=tmp_path, HF_HUB_OFFLINE="1")

    assert fetched.returncode == 0, fetched.stderr
    assert asked.count(("GET", f"/timm/{NAME}/resolve/main/model.safetensors")) == 1
    (file,) = json.loads(fetched.stdout)["weights"].values()
    assert Path(file).read_bytes() == files["model.safetensors"]
    refuse_unregistered(ran)
    (model,) = json.loads(ran.stdout)["models"]
    assert model["begins_with"] == NAME


def test_weights_go_into_a_folder_for_machines_without_a_network(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    """As `pretrained.folder` wants them."""
    with serving(files) as hub:
        done = asking(hub.url, "fetch", NAME, "--to", "models", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    folder = tmp_path / "models" / NAME
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files


@pytest.mark.parametrize("case", ["down", "breaks off", "not there"])
def test_a_hub_that_does_not_give_them_is_one_line(
    case: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    """Nobody answers; it goes away in the middle; it has no such file. Nothing half is left to be found later."""
    with serving(files) as hub:
        url = "http://127.0.0.1:9" if case == "down" else hub.url
        hub.breaks_off = case == "breaks off"
        name = "test_vit" if case == "not there" else NAME
        done = asking(url, "fetch", name, cwd=tmp_path)

    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("imgrec: ")]
    assert lines == done.stderr.strip().splitlines()[-1:]
    said = "does not answer" if case == "down" else "cannot be fetched"
    assert said in lines[0]
    assert not list((tmp_path / "hf").rglob("model.safetensors"))
