"""The data that all sources are compared with, and servers of pictures."""

import contextlib
import functools
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imgrec.data.store import Store
from tests.unit.data.sources.made import (
    as_folder,
    png,
    stored,
)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of the folder, which all the others are to be like."""
    folder = tmp_path_factory.mktemp("reference")
    return stored(as_folder(folder), folder)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder, and its address on a real web server."""
    folder = tmp_path_factory.mktemp("web")
    handler = functools.partial(_Quiet, directory=str(folder))
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256  # Python's default of 5 makes connections wait for seconds


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


class _Asked(_Quiet):
    """Notes what it is asked, and may send the asker on."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        if self.path.startswith("/away"):
            self.send_response(302)
            self.send_header("Location", self.server.away)  # type: ignore[attr-defined]
            self.end_headers()
            return
        if self.path.startswith("/endless"):
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"x" * (1 << 20))
        if self.path.startswith("/dripping"):
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"x")
                    time.sleep(0.2)
        if self.path.startswith("/slow"):
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"x")
                    time.sleep(0.2)
        super().do_GET()

    def do_HEAD(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        super().do_HEAD()


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[tuple[list[str], str]]:
    """A server inside the user's network: what it was asked, and its host."""
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "secret.png").write_bytes(png(0, 999))
    with _Server(("127.0.0.1", 0), functools.partial(_Asked, directory=str(folder))) as server:
        server.asked = asked = []  # type: ignore[attr-defined]
        server.away = "file:///etc/passwd"  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield asked, f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def outside(inside: tuple[list[str], str], tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A server elsewhere, whose pages below /away lead inside."""
    folder = tmp_path / "outside"
    folder.mkdir()
    with _Server(("127.0.0.1", 0), functools.partial(_Asked, directory=str(folder))) as server:
        server.asked = []  # type: ignore[attr-defined]
        server.away = f"http://{inside[1]}/secret.png"  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
