"""Decoding in processes that may take so much time and memory for a picture, and end with their parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from imgrec.data import parallel
from imgrec.data.content import Content
from imgrec.data.parallel import OwnDecoder, end_decoders, map_in_chunks, within_limits
from imgrec.errors import DataError, DecodeError
from tests.conftest import ROOT

MANY = 100


@dataclass(frozen=True, slots=True)
class Bytes:
    """A content that does something when it is read."""

    kind: str

    def read(self) -> bytes:
        return self.kind.encode()


def decode(start: int, contents: Sequence[Content]) -> list[tuple[int, str]]:
    """A row and what became of it; run in a decoding process."""
    found = []
    for place, content in enumerate(contents):
        try:
            kind = bytes(content.read()).decode()
            with within_limits():
                if kind == "endless":
                    while True:
                        pass
                if kind == "crash":
                    os.kill(os.getpid(), signal.SIGSEGV)
                if kind == "huge":
                    np.ones(1 << 40, dtype=np.uint8)
                if kind == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                if kind == "many":
                    return [(start, "x" * (64 << 20))]
                if kind == "bug":
                    msg = "a bug of ours"
                    raise ValueError(msg)
            found.append((start + place, "good"))
        except DecodeError as error:
            found.append((start + place, str(error)))
    return found


@pytest.fixture(autouse=True)
def _own_decoders(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(parallel, "MOST_SECONDS", 1)
    end_decoders()
    yield
    end_decoders()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("endless", "takes more than 1 s to decode"),
        ("crash", "crashes its decoder"),
        ("huge", "takes more than 4 GiB of memory to decode"),
    ],
)
def test_a_picture_that_breaks_its_limits_is_left_out_and_the_others_go_on(
    kind: str, reason: str
) -> None:
    """One hostile file of a thousand must not end the scan, nor keep a core busy."""
    places = (5, 60)
    contents = [Bytes(kind if row in places else "good") for row in range(MANY)]
    found = [one for some in map_in_chunks(decode, contents, workers=2) for one in some]

    assert [row for row, _ in found] == list(range(MANY))
    assert [text for row, text in found if row not in places] == ["good"] * (MANY - 2)
    assert [found[row][1] for row in places] == [reason] * 2


def test_a_bug_is_raised_with_its_traceback() -> None:
    """It is no fault of the picture."""
    with pytest.raises(RuntimeError, match="a bug of ours"):
        list(map_in_chunks(decode, [Bytes("bug")], workers=1))


def where(_start: int, contents: Sequence[Content]) -> list[str]:
    """Whose code a decoding process runs."""
    import imgrec

    return [imgrec.__file__] * len(contents)


def test_decoding_processes_run_the_code_of_their_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that MLflow has loaded puts its own copy of imgrec before it on the path."""
    import imgrec

    (tmp_path / "imgrec").mkdir()
    (tmp_path / "imgrec" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert list(map_in_chunks(where, [Bytes("good")], workers=1)) == [[imgrec.__file__]]


@pytest.mark.parametrize("kind", ["bug", "killed"])
def test_after_an_error_the_next_set_is_decoded_all_the_same(kind: str) -> None:
    """A process that has ended must not wait for the next one."""
    with pytest.raises((RuntimeError, DataError)):
        list(map_in_chunks(decode, [Bytes(kind)], workers=1))

    assert list(map_in_chunks(decode, [Bytes("good")], workers=1)) == [[(0, "good")]]


def test_a_process_that_the_system_ends_is_no_fault_of_the_picture() -> None:
    """On a machine with more memory it would be read: to leave it out would be another data set."""
    with pytest.raises(DataError, match=r"out of memory; set data\.decode_workers"):
        list(map_in_chunks(decode, [Bytes("killed")], workers=1))


def test_a_process_that_dies_while_it_answers_says_nothing_of_the_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half an answer is none."""
    found = map_in_chunks(decode, [Bytes("many")], workers=1)
    given = parallel._Decoder.give

    def give_and_kill(self: Any, *args: Any) -> None:
        given(self, *args)
        self.pipe.poll(30)
        self._process.kill()

    monkeypatch.setattr(parallel._Decoder, "give", give_and_kill)
    with pytest.raises(DataError, match="out of memory"):
        list(found)


@pytest.mark.parametrize("how", ["killed", "waited too long"])
def test_processes_that_ended_while_they_waited_are_replaced(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was lost with them."""
    monkeypatch.setattr(parallel, "IDLE_SECONDS", 1 if how == "waited too long" else 60)
    (first,) = map_in_chunks(number_of_process, [Bytes("good")], workers=1)
    if how == "killed":
        psutil.Process(first).kill()
    psutil.wait_procs(
        [child for child in psutil.Process().children() if child.pid == first], timeout=10
    )
    (second,) = map_in_chunks(number_of_process, [Bytes("good")], workers=1)

    assert first != second


def number_of_process(_start: int, _contents: Sequence[Content]) -> int:
    """The process's."""
    return os.getpid()


def test_processes_that_were_started_ahead_are_those_that_decode() -> None:
    """They come up while samples are listed, and no others are started then."""
    parallel.start_decoders(1)
    ahead = {child.pid for child in psutil.Process().children()}
    found = set(map_in_chunks(number_of_process, [Bytes("good")] * MANY, workers=1))

    assert found
    assert found <= ahead


@pytest.mark.parametrize("entry", ["import os; os.abort()", "pass"])
def test_a_decoder_that_cannot_even_start_is_an_error(
    entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To start it again and again would never end, also where it ends as if all were well."""
    monkeypatch.setattr(parallel, "ENTRY", entry)
    with pytest.raises(RuntimeError, match=r"ends without work|ended with status 0"):
        list(map_in_chunks(decode, [Bytes("good")], workers=1))


def test_decoding_processes_end_with_their_parent_in_the_middle_of_a_picture() -> None:
    """Kill -9 or a closed terminal must leave none that computes for ever."""
    code = (
        "import sys; from tests.unit.data.test_parallel import Bytes, decode; "
        "from imgrec.data.parallel import map_in_chunks; "
        "list(map_in_chunks(decode, [Bytes('endless')] * 40, workers=2))"
    )

    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    children: list[psutil.Process] = []
    deadline = time.monotonic() + 60
    while len(children) < 2 and time.monotonic() < deadline:
        children = psutil.Process(parent.pid).children()
        time.sleep(0.1)
    time.sleep(1)
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=10)

    assert len(children) == 2
    assert not alive


def test_a_process_of_ones_own_goes_on_after_what_broke_it() -> None:
    """A server has pictures all the time, and one of them must not cost the next."""
    decoder = OwnDecoder(seconds=1)
    try:
        for kinds in (["good"], ["good", "endless", "good"], ["crash"], ["good", "good"]):
            answers = [
                kind
                for some in decoder.map(decode, [Bytes(kind) for kind in kinds])
                for _, kind in some
            ]
            assert [kind == "good" for kind in answers] == [kind == "good" for kind in kinds]
            if "endless" in kinds:
                assert answers[1] == "takes more than 1 s to decode"
    finally:
        decoder.end()


def test_what_decodes_imports_little() -> None:
    """Settings, sources and networks would make each decoding process three times as slow to start."""
    code = (
        "import sys, imgrec.data.guarded, imgrec.data.look\n"
        "print([name for name in ('torch', 'pydantic', 'requests', 'imgrec.config') if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert ended.stdout.strip() == "[]"
