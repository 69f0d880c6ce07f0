"""The memory of a run is that of all its processes, at the moment when it is most."""

import subprocess
import sys
import time
from contextlib import closing

import pytest

from imgrec.data.parallel import end_decoders
from pipelines.costs import memory
from pipelines.costs.memory import DECODERS, OWN, MemoryWatch, held_by_group, memory_in_words

HOLD = "import time; block = bytearray(200_000_000); print('held', flush=True); time.sleep(90)"


def test_what_a_process_below_held_is_remembered_after_it_has_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """200 MB of it."""
    # How long it rests goes by how long a look takes: on a busy machine longer than anybody waits here.
    monkeypatch.setattr(memory, "REST", 0)
    monkeypatch.setattr(memory, "LEAST_SECONDS", 0.1)
    end_decoders()  # those of other tests
    with closing(MemoryWatch()) as watch:
        with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE) as child:
            assert child.stdout
            assert child.stdout.readline() == b"held\n"
            deadline = time.monotonic() + 60
            while watch.most().get(DECODERS, 0) < 200_000_000:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            child.kill()
        assert held_by_group().get(DECODERS, 0) < 200_000_000
    most = watch.most()
    assert 200_000_000 <= most[DECODERS] < 300_000_000
    assert most[OWN] > 0


def test_memory_is_said_with_the_largest_part_first() -> None:
    """For people."""
    held = {"imgrec": 400_000_000, "workers": 1_100_000_000, "Ray": 600_000_000}
    assert memory_in_words(held) == "2.1 GB at most: workers 1.1 GB, Ray 600 MB, imgrec 400 MB"
