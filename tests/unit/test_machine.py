"""What differs between operating systems stands in one module, and what is missing is done without."""

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from imgrec import machine
from imgrec.config import DataConfig
from imgrec.data.store import prepare_store
from imgrec.machine import (
    MEMORY_KEPT,
    PATIENT,
    SELDOM,
    PatientImport,
    birth_of,
    free_port,
    keep_caches_in,
    locked,
    memory_kills,
    processor_kind,
)
from tests.conftest import ROOT, no_progress

PAGES = """
import ctypes, resource, sys, threading
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: a huge page would be one for 512
keep, thread, back = map(int, sys.argv[1:])
if thread:  # others than the one that works had an arena of their own
    [threading.Thread(target=print, args=("",)).start() for _ in range(20)]
import numpy as np
from imgrec.machine import give_memory_back, keep_memory
if keep:
    keep_memory()
counts = []

def work():
    for _ in range(20):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(3):  # beyond what glibc keeps by itself, 64 MB each
            np.empty(1 << 26, dtype=np.uint8).fill(1)
        if back:
            give_memory_back()
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

if thread:
    one = threading.Thread(target=work)
    one.start()
    one.join()
else:
    work()
print(max(counts[5:]))
"""


def pages(
    *, keep: bool = False, thread: bool = False, back: bool = False, **environment: str
) -> int:
    """How many come anew while the same large array is made and dropped three times."""
    given = [str(int(one)) for one in (keep, thread, back)]
    others = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))
    }
    told = subprocess.run(
        [sys.executable, "-c", PAGES, *given],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**others, "OPENBLAS_NUM_THREADS": "1", **environment},
    )
    return int(told.stdout.split()[-1])


A_THIRD = (1 << 26) // os.sysconf("SC_PAGE_SIZE")


needs_glibc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc's malloc"
)


@needs_glibc
def test_memory_that_is_kept_does_not_come_back_page_by_page() -> None:
    """Unless it is given back, where that is said."""
    assert pages(keep=True) < A_THIRD // 100
    assert pages() >= 3 * A_THIRD
    assert pages(keep=True, back=True) >= A_THIRD


@needs_glibc
def test_a_thread_beside_others_keeps_memory_by_its_environment() -> None:
    """As Ray's processes do: what is set later holds for arenas that are new."""
    assert pages(keep=True, thread=True, **MEMORY_KEPT) < A_THIRD // 100


@needs_glibc
def test_what_the_environment_says_of_memory_stays() -> None:
    """A person may know better, or have little of it."""
    assert pages(keep=True, MALLOC_MMAP_MAX_="65536", MALLOC_TRIM_THRESHOLD_="0") >= 3 * A_THIRD


@pytest.mark.parametrize("keep", ["pixels", "jpeg"])
def test_a_store_is_made_where_linux_has_calls_that_macos_has_not(
    keep: Literal["pixels", "jpeg"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """posix_fallocate and sched_getaffinity do not exist there."""
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.delattr(os, "sched_getaffinity")
    store = prepare_store(DataConfig(keep=keep), tmp_path, progress=no_progress)

    assert store.images[np.array([0])].shape == (1, 8, 8, 1)


def test_no_other_module_calls_what_not_every_system_has() -> None:
    """Whoever ports imgrec looks in one place."""
    calls = re.compile(r"posix_fallocate|sched_getaffinity|\bfcntl\b|/proc/cpuinfo|boot_id")
    found = [
        path.relative_to(ROOT).as_posix()
        for folder in ("imgrec", "pipelines")
        for path in (ROOT / folder).rglob("*.py")
        if calls.search(path.read_text(encoding="utf-8"))
    ]

    assert found == ["imgrec/machine.py"]


def test_a_lock_is_held_by_one_process_and_freed_by_its_death(tmp_path: Path) -> None:
    """Whatever it dies of."""
    code = (
        "import sys, time; from pathlib import Path; from imgrec.machine import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        holder.stdout.readline()
        with locked(tmp_path / "lock", wait=False) as taken:
            assert not taken
        holder.kill()
    with locked(tmp_path / "lock", wait=False) as taken:
        assert taken


def test_a_process_is_told_from_all_others_of_its_number() -> None:
    """And one that has gone is nobody."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        births = birth_of(os.getpid()), birth_of(other.pid)
        other.kill()
    assert births[0] == birth_of(os.getpid())
    assert births[0] != births[1]
    assert birth_of(other.pid) == ""


def test_counters_of_memory_kills_are_read_where_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of this container alone, where it counts them; what befalls others of the machine changes nothing here."""
    events, vmstat = tmp_path / "memory.events", tmp_path / "vmstat"
    vmstat.write_text("pgfault 12\noom_kill 40\n")
    own = machine._lines
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "VMSTAT", vmstat)
    monkeypatch.setattr(
        machine, "_lines", lambda file: ["0::/"] if file.name == "cgroup" else own(file)
    )

    assert memory_kills() == 40
    events.write_text("low 0\nhigh 3\noom 5\noom_kill 2\n")
    assert memory_kills() == 2


def test_the_kind_of_a_processor_is_its_maker_and_its_instructions() -> None:
    """The same in every process of a machine."""
    assert processor_kind() == processor_kind()
    assert re.fullmatch(r"\w+( (amx|avx512)_bf16)?", processor_kind())


@pytest.mark.parametrize(
    ("lines", "file", "limit"),
    [
        ("4:memory:/a/b\n", "memory/a/b/memory.limit_in_bytes", 1000),
        ("4:memory:/elsewhere\n", "memory/memory.limit_in_bytes", 1000),
        ("0::/a\n", "a/memory.max", 1000),
        ("0::/\n", "memory.max", 1000),
        ("0::/a\n", "nowhere", None),
    ],
)
def test_the_memory_of_a_container_is_that_of_its_control_group(
    lines: str, file: str, limit: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of both versions, seen from inside or from outside of the container."""
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("1000\n")
    own = machine._lines
    monkeypatch.setattr(
        machine, "_lines", lambda path: lines.splitlines() if path.name == "cgroup" else own(path)
    )
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)

    assert machine.memory_limit() == limit or (limit is None and machine.memory_limit() > 1000)


@pytest.mark.parametrize(
    ("lines", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/a\n", {"a/cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": ""}, 64),
        (
            "4:cpu,cpuacct:/a\n",
            {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            3,
        ),
        (
            "1:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            64,
        ),
        ("4:memory:/\n", {"cpu.max": "100000 100000\n"}, 64),
    ],
)
def test_the_cores_of_a_container_are_its_share_of_time(
    lines: str,
    files: dict[str, str],
    cores: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of both versions of control groups; a part of a core is one; without a limit they are the machine's."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    own = machine._lines
    monkeypatch.setattr(
        machine, "_lines", lambda path: lines.splitlines() if path.name == "cgroup" else own(path)
    )
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))

    assert machine.available_cores() == cores


def test_without_a_home_caches_lie_in_the_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container with an arbitrary user: Matplotlib would complain at every command."""
    for variable in (*machine.CACHES, machine.INDUCTOR):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    keep_caches_in(tmp_path / "storage")
    assert "MPLCONFIGDIR" not in os.environ

    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    monkeypatch.setenv("TORCH_HOME", "mine")
    keep_caches_in(tmp_path / "storage")
    place = tmp_path / "storage" / ".caches" / "matplotlib"
    assert os.environ["MPLCONFIGDIR"] == str(place)
    assert os.environ["TORCH_HOME"] == "mine"
    assert place.stat().st_mode & 0o077 == 0
    monkeypatch.delenv("MPLCONFIGDIR")
    monkeypatch.delenv(machine.INDUCTOR)


def test_an_optimizer_leaves_nothing_in_the_temporary_directory(tmp_path: Path) -> None:
    """A folder of a compiler that nobody asked for would stay after every run."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    code = (
        "import sys; from pathlib import Path; from imgrec.machine import keep_caches_in\n"
        "keep_caches_in(Path(sys.argv[1]))\n"
        "import torch; torch.optim.AdamW([torch.zeros(1, requires_grad=True)])"
    )
    environment = {k: v for k, v in os.environ.items() if k != machine.INDUCTOR}
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "storage")],
        env=environment | {"TMPDIR": str(temporary)},
        cwd=ROOT,
        check=True,
    )

    assert list(temporary.iterdir()) == []


OF_RAY = "import imgrec.distributed"
COMMAND = """
import contextlib
from pipelines.cli import app
app.app = lambda **_: 0
with contextlib.suppress(SystemExit):
    app.main()
"""


@pytest.mark.parametrize("beginning", [OF_RAY, COMMAND])
def test_processes_of_ours_look_for_cycles_seldom(beginning: str) -> None:
    """Those of Ray from their first import on, and commands: both begin with seconds of imports, and end at once."""
    at_the_end = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 0))"
    ended = subprocess.run(
        [sys.executable, "-c", f"{at_the_end}\n{beginning}\nprint(gc.get_threshold())"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )

    assert ended.stdout.splitlines() == [str(SELDOM), "True"]


def test_a_patient_import_gives_way_and_tells_its_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread alone does: what is computed later is worth as much as ever."""
    (tmp_path / "patient_one.py").write_text(
        "import os, threading\nWORTH = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())\n"
    )
    (tmp_path / "patient_two.py").write_text("raise ImportError('no such library')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with PatientImport(["patient_one"]):
        pass
    with pytest.raises(ImportError, match="no such library"), PatientImport(["patient_two"]):
        pass

    assert (PATIENT if sys.platform == "linux" else 0) == sys.modules["patient_one"].WORTH
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == 0


def test_a_patient_import_that_nobody_waits_for_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C must not wait for what it has ended."""
    (tmp_path / "patient_three.py").write_text(
        "import time\nfor _ in range(600):\n    time.sleep(0.05)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    before = signal.signal(signal.SIGUSR1, lambda *_: signal.raise_signal(signal.SIGINT))
    interrupts = signal.signal(signal.SIGINT, signal.default_int_handler)
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt), PatientImport(["patient_three"]):
            raise KeyboardInterrupt
        main = threading.main_thread().ident or 0
        threading.Timer(0.5, signal.pthread_kill, (main, signal.SIGUSR1)).start()
        with pytest.raises(KeyboardInterrupt), PatientImport(["patient_three"]):
            pass  # it comes while this waits at the end
    finally:
        signal.signal(signal.SIGUSR1, before)
        signal.signal(signal.SIGINT, interrupts)

    assert time.monotonic() - started < 20  # of the thirty seconds that each would take


@pytest.fixture
def port_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file in which the system tells which ports it gives away; not there as long as a test writes nothing."""
    monkeypatch.setattr(machine, "PORT_RANGE", tmp_path / "range")
    machine._ports.cache_clear()
    yield tmp_path / "range"
    machine._ports.cache_clear()


def test_a_server_gets_a_port_that_nobody_is_given_before_it_comes_up(port_range: Path) -> None:
    """Ray takes the port that the system has just told to be free, and MLflow's client is answered by Ray."""
    port_range.write_text("22000\t60999\n")  # as where a system gives away some of ours
    ports = [free_port() for _ in range(50)]

    assert all(20_000 <= port < 22_000 for port in ports)
    assert len(set(ports)) == 50


@pytest.mark.parametrize(
    ("told", "ours"), [("1024 65535", False), (None, True)], ids=["all", "not told"]
)
def test_a_port_is_found_whatever_the_system_gives_to_others(
    told: str | None, ours: bool, port_range: Path
) -> None:
    """Where all ports are given to whoever asks for any, it is one of those; where the system does not tell, none."""
    if told:
        port_range.write_text(told)
    port = free_port()
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))

    assert (next(machine._ports(), None) is not None) == ours
    assert not ours or port in machine.PORTS
