"""Data sets of the Hugging Face hub: its own file system, and a server of ours that speaks its protocol."""

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tests.conftest import running
from tests.e2e.user import imgrec
from tests.unit.data.sources.made import as_folder, as_hugging_face

NAME = "team/photos"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
RANGE = re.compile(r"bytes=(\d+)-(\d+)")


class Hub(ThreadingHTTPServer):
    """Serves the files of one data set as the hub does: what there is of it, its tree, and parts of files."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files = files
        self.fetched: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        path, query = unquote(address.path).rstrip("/"), parse_qs(address.query)
        if path in {f"/api/datasets/{NAME}", f"/api/datasets/{NAME}/revision/main"}:
            self._send(200, json.dumps({"id": NAME, "sha": COMMIT, "siblings": []}).encode())
        elif match := re.fullmatch(rf"/api/datasets/{NAME}/tree/main/?(.*)", path):
            self._tree(match[1], recursive=query.get("recursive") == ["true"])
        elif match := re.fullmatch(rf"/datasets/{NAME}/resolve/main/(.+)", path):
            self._file(match[1])
        else:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _tree(self, folder: str, *, recursive: bool) -> None:
        prefix = f"{folder}/" if folder else ""
        below = [name for name in self.server.files if name.startswith(prefix)]
        if not below:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        found: dict[str, dict[str, object]] = {}
        for name in below:
            parts = name[len(prefix) :].split("/")
            for depth in range(1, len(parts) + 1 if recursive else 2):
                path, content = prefix + "/".join(parts[:depth]), self.server.files[name]
                about = {"oid": hashlib.sha1(content).hexdigest(), "path": path}
                found[path] = about | (
                    {"type": "directory", "size": 0}
                    if depth < len(parts)
                    else {"type": "file", "size": len(content)}
                )
        self._send(200, json.dumps(list(found.values())).encode())

    def _file(self, name: str) -> None:
        content = self.server.files[name]
        self.server.fetched.append(name)
        if asked := RANGE.fullmatch(self.headers.get("Range", "")):
            first, last = int(asked[1]), min(int(asked[2]), len(content) - 1)
            part = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
            self._send(206, content[first : last + 1], part)
        else:
            self._send(200, content)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Hub]:
    hub = Hub(files)
    with running(hub):
        yield hub


def files_of(folder: Path, below: str = "") -> dict[str, bytes]:
    return {
        below + file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def checked(hub: Hub, source: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`imgrec check`, of the hub that we serve."""
    words = ["check", source, "--json"]
    return imgrec(*words, cwd=cwd, HF_ENDPOINT=hub.url, HF_HOME=str(cwd / "hf"))


def test_a_folder_of_a_hub_is_the_folder(tmp_path: Path) -> None:
    """The same pictures, classes and splits; what makes it a page of the hub is left alone."""
    files = files_of(Path(as_folder(tmp_path))) | {"README.md": b"# Photos", ".gitattributes": b""}
    with serving(files) as hub:
        there = checked(hub, f"hf://datasets/{NAME}", tmp_path)
    here = imgrec("check", str(tmp_path / "photos"), "--json", cwd=tmp_path)

    assert there.returncode == 0, there.stderr
    mine, theirs = json.loads(here.stdout), json.loads(there.stdout)
    assert theirs["pictures"] == mine["pictures"] == 48
    assert theirs["classes"] == mine["classes"]
    assert "README.md" not in hub.fetched


def test_parquet_of_a_hub_is_fetched_once(tmp_path: Path) -> None:
    """In data/, as the hub's own tools write it, or in a folder called after a configuration."""
    (tmp_path / "made").mkdir()
    as_hugging_face(tmp_path / "made")
    made = [file for file in files_of(tmp_path / "made").items() if file[0].endswith(".parquet")]
    for place in ("data/", "plain_text/"):
        files = {f"{place}{Path(name).name}": content for name, content in made}
        with serving(files | {"README.md": b"# Photos"}) as hub:
            there = checked(hub, f"hf://datasets/{NAME}", tmp_path)
            again = checked(hub, f"hf://datasets/{NAME}", tmp_path)

        assert there.returncode == 0, there.stderr
        assert again.returncode == 0, again.stderr
        assert json.loads(there.stdout)["pictures"] == 48
        assert len(json.loads(there.stdout)["classes"]) == 3


def test_what_the_hub_does_not_have_is_one_line(tmp_path: Path) -> None:
    """A misspelt name, and a folder that is not there."""
    with serving({"train/cat/1.png": b"x"}) as hub:
        for name in ("hf://datasets/team/fotos", f"hf://datasets/{NAME}/trian"):
            refused = checked(hub, name, tmp_path)

            assert refused.returncode == 2, refused.stderr
            assert name in refused.stderr.splitlines()[-1]
            assert "Traceback" not in refused.stderr


def test_of_several_configurations_one_is_asked_for(tmp_path: Path) -> None:
    """They are data sets of their own, not classes."""
    with serving({"blue/train.parquet": b"x", "red/train.parquet": b"x"}) as hub:
        refused = checked(hub, f"hf://datasets/{NAME}", tmp_path)

    assert refused.returncode == 2
    assert (
        f"each of its folders is a data set (blue, red); name one: hf://datasets/{NAME}/blue"
        in refused.stderr
    )
