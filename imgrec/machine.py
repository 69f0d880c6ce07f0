"""What differs between machines and their operating systems.

Cores, processors, room on a disk, locks, births of processes, memory that ran out. Linux has all of it, macOS
most; where a system lacks a call, the function falls back to a simpler one.
"""

import atexit
import contextlib
import ctypes
import errno
import gc
import importlib
import math
import os
import platform
import random
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Self

import psutil

try:
    import fcntl
    import resource
except ImportError:  # pragma: no cover - Windows, where WSL is the way
    fcntl = resource = None  # type: ignore[assignment]

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
CGROUPS = Path("/sys/fs/cgroup")
VMSTAT = Path("/proc/vmstat")
PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, not written to
LOCK_POLL_SECONDS = 0.05
PORTS = range(20_000, 30_000)
"""Above the ports of Ray's workers, below the node ports of Kubernetes and most ephemeral ranges."""
SELDOM = (20_000, 10, 10)
"""Of `gc.set_threshold`, whose own is (700, 10, 10)."""
CACHES = {"MPLCONFIGDIR": "matplotlib", "TORCH_HOME": "torch"}
"""Variables that name caches of the home folder, and what they are called in a folder of ours."""
INDUCTOR = "TORCHINDUCTOR_CACHE_DIR"
"""torch makes this folder whenever an optimizer is made: by default in the temporary directory, where it stays."""
NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF})
"""What file systems say that have no locks, or none without a right to write."""
INSTRUCTIONS = ("amx_bf16", "avx512_bf16")
"""A CPU's flags for bf16, in order of preference; `processor_kind` has the first that is present."""


PATIENT = 5
"""As `nice` counts: where nothing is left over, a quarter of a core. With 19 it would be a sixtieth, and what waits for the
import would wait for minutes on a busy machine."""
MEMORY_KEPT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": "-1",  # never
}
"""Settings of glibc's malloc for a process that makes and drops large arrays all the time: `keep_memory` sets them, and who
computes in threads beside others, as Ray's processes do, begins with them in its environment."""
MALLOPT = {"MALLOC_MMAP_MAX_": -4, "MALLOC_ARENA_MAX": -8, "MALLOC_TRIM_THRESHOLD_": -1}
"""Their numbers in malloc.h."""
SOME_KEPT = {
    "MALLOC_MMAP_MAX_": "65536",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}
"""For one that decodes pictures: the arrays of a chunk are kept for the next, and those of a very large picture are not."""


def collect_seldom() -> None:
    """Let Python look for cycles among new objects less often, and not at the end: the system takes all memory back.

    Importing makes many objects, and none of them is to go. It is a sixth of the time of importing MLflow or torch,
    and so of the start of every process, and at its end one to two seconds (docs/log.md).
    """
    gc.set_threshold(*SELDOM)
    atexit.register(gc.freeze)


def keep_memory() -> None:
    """Let this process keep memory that it is done with for what it needs next, where it has glibc's malloc.

    glibc gives large arrays back to the system at once, and the next ones come page by page: for photos a network took twice
    the time by it (docs/log.md). From here on all of them lie in its main arena, which is not trimmed. Threads share it where the
    process has had no other thread before; else they do where it began with MEMORY_KEPT in its environment. What the
    environment says stays.
    """
    libc = _libc()
    if hasattr(libc, "mallopt"):
        for name, value in MEMORY_KEPT.items():
            if name not in os.environ:
                libc.mallopt(MALLOPT[name], int(value))


def give_memory_back() -> None:
    """What this process is done with goes to the system, for another that needs it."""
    libc = _libc()
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def module_paths() -> list[str]:
    """Where a process that this one starts finds the same modules; nothing from the current folder.

    Our own code first: a model that MLflow has loaded puts the code that it brings before it.
    """
    return [str(Path(__file__).parents[1]), *filter(None, sys.path)]


class PatientImport:
    """Modules that are imported, which takes seconds of a core, while other processes of this session go first.

    In a thread of its own, for a thread's worth can only fall; threads that a library starts while it is imported keep
    it. Before it is over, nobody else may import any of them: two threads can meet in a module that is half
    imported. At the end of a `with` it is over; where that is left by an error, or Ctrl-C is pressed meanwhile, it is
    given up.
    """

    def __init__(self, names: Sequence[str]) -> None:
        # Its library's threads are what computes later.
        importlib.import_module("numpy")
        self._names = names
        self._error: BaseException | None = None
        # A `join` that was interrupted would take the thread for dead (Python 3.11).
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="imports")
        self._thread.start()

    def _run(self) -> None:
        try:
            # Elsewhere it would be the worth of the whole process.
            if sys.platform.startswith("linux"):
                with contextlib.suppress(OSError):  # where a container forbids it
                    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), PATIENT)
            for name in self._names:
                importlib.import_module(name)
        except BaseException as error:
            self._error = error
        finally:
            self._over.set()

    def wait(self) -> None:
        """Return when they are there, or raise what one of them has raised."""
        try:
            self._over.wait()
        except BaseException:  # Ctrl-C
            self._give_up()
            raise
        if self._error:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.wait()
        else:
            self._give_up()

    def _give_up(self) -> None:
        # The interpreter waits for its threads at the end: at its next instruction this one is over.
        number = ctypes.c_ulong(self._thread.ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(number, ctypes.py_object(SystemExit))
        self._over.wait()


def available_cores() -> int:
    """Cores that this process may use: of the machine, or as many as its container's share of time comes to."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    shares = [
        math.ceil(int(quota) / int(period))
        for quota, period in _shares_of_time()
        if quota.isdecimal()  # not `max`, nor -1
    ]
    return min([cores, *shares])


def _shares_of_time() -> Iterator[tuple[str, str]]:
    """How many microseconds of how many this process's control group may run, as the system has it written."""
    for file in _of_control_group("cpu", "cpu.cfs_quota_us", "cpu.max"):
        words = " ".join(_lines(file)).split()
        if file.name == "cpu.cfs_quota_us":
            words += _lines(file.with_name("cpu.cfs_period_us"))
        if len(words) == 2:
            yield words[0], words[1]


def take_room(file: int, size: int) -> None:
    """Take the room for a file of so many bytes on its disk, as far as the system can.

    Args:
        file: A descriptor of an open file.
        size: In bytes.

    Raises:
        OSError: there is no room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.ftruncate(file, size)


def free_port(host: str = "127.0.0.1") -> int:
    """A free port for a server that starts a moment later.

    It lies outside the system's ephemeral range, unless that range covers all of PORTS: Ray's processes bind dozens of
    ephemeral ports, and one of them could take the port before the server does. No port of PORTS is returned twice.

    Raises:
        OSError: none is free.
    """
    for port in _ports():
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind((host, port))
            return port
    with socket.socket() as one:  # the system gives all of them to others
        one.bind((host, 0))
        return int(one.getsockname()[1])


@cache
def _ports() -> Iterator[int]:
    """In random order, so that two processes that search at the same time rarely try the same port."""
    low, high = 49_152, 65_535  # as IANA has it
    with contextlib.suppress(OSError):
        low, high = map(int, PORT_RANGE.read_text().split())
    ports = [port for port in PORTS if not low <= port <= high]
    random.SystemRandom().shuffle(ports)
    return iter(ports)


def keep_caches_in(folder: Path) -> None:
    """Let torch leave nothing in the temporary directory; without a home folder let libraries keep caches here.

    What the user has set stays. To be called before Matplotlib and torch are imported.
    """
    os.environ.setdefault(INDUCTOR, str(folder / ".caches" / "inductor"))
    if _has_home():
        return
    for variable, name in CACHES.items():
        place = folder / ".caches" / name
        with contextlib.suppress(OSError):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.environ.setdefault(variable, str(place))


def _has_home() -> bool:
    try:
        with tempfile.TemporaryFile(dir=Path.home()):
            return True
    except (OSError, RuntimeError):  # there is none, or none of ours
        return False


def write_durably(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all, also after the power failed."""
    part = path.with_suffix(f".{uuid.uuid4().hex}")
    part.write_text(text, encoding="utf-8")
    sync(part)
    part.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Return when what was written to a file, or the names in a folder, are on the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock that a file stands for; the system frees it when its process ends.

    Args:
        path: Made if need be. Where its file system has no locks, nobody is kept out.
        wait: Until whoever holds it lets go; else say False inside, where somebody does.

    Raises:
        OSError: the file cannot be made.
    """
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        number = os.open(path, os.O_RDONLY)  # another user's, who let us read it
    with os.fdopen(number, "rb") as file:
        taken = _take(file.fileno(), wait=wait)
        try:
            yield taken
        finally:
            if taken and fcntl:
                with contextlib.suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_UN)


def _take(file: int, *, wait: bool) -> bool:
    """By trying again and again, so that Ctrl-C and SIGTERM are answered at once."""
    while fcntl:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno in NO_LOCKS:
                return True
            raise
        else:
            return True
        if not wait:
            return False
        time.sleep(LOCK_POLL_SECONDS)
    return True


def memory_kills() -> int:
    """How often the system has killed a process for want of memory: one of this container's, if it counts those.

    Else any of this machine's. A counter that only grows; 0 where there is none.
    """
    for file in [*_of_control_group("memory", "memory.oom_control", "memory.events"), VMSTAT]:
        for line in _lines(file):
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0


def memory_limit() -> int:
    """Bytes of memory that this process and its children may have: of the machine, or of its container."""
    limits = [psutil.virtual_memory().total]
    for file in _of_control_group("memory", "memory.limit_in_bytes", "memory.max"):
        limits += [int(line) for line in _lines(file)[:1] if line.isdecimal()]
    return min(limits)


def limit_memory(size: int) -> None:
    """Let this process have so many bytes of data at most, as far as the system can; less where it has less."""
    if resource is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = size if hard == resource.RLIM_INFINITY else min(size, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _of_control_group(controller: str, first: str, second: str) -> Iterator[Path]:
    """Where a file of this process's control group may lie, seen from outside of its container or from inside.

    Args:
        controller: What it limits: memory, cpu.
        first: What it is called in the first version of control groups.
        second: In the second.
    """
    for line in _lines(Path("/proc/self/cgroup")):
        _, controllers, path = line.split(":", 2)
        for below in dict.fromkeys((path.strip("/"), "")):
            if controller in controllers.split(","):
                yield CGROUPS / controller / below / first
            elif not controllers:
                yield CGROUPS / below / second


def _lines(file: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return file.read_text(encoding="utf-8").splitlines()
    return []


def birth_of(pid: int) -> str:
    """What tells a process from all others that have had, or will have, its number; empty if it is gone.

    On Linux the boot's id and the ticks from boot to the process's birth: neither moves when the clock is
    set. Elsewhere the time of its birth.
    """
    try:
        # The name of the program, in brackets, may hold anything; 19 fields behind it is field 22.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return f"{BOOT_ID.read_text(encoding='utf-8').strip()}:{fields[19]}"
    except (FileNotFoundError, ProcessLookupError):
        if BOOT_ID.exists():
            return ""
    try:
        return f"{psutil.Process(pid).create_time():.0f}"
    except psutil.NoSuchProcess:
        return ""


def processor_kind() -> str:
    """The maker of this machine's processor, and its instructions for bf16 if it has any."""
    maker, flags = platform.machine(), list[str]()
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as file:
        for line in file:
            name, _, value = (part.strip() for part in line.partition(":"))
            if name == "vendor_id":
                maker = value
            if name == "flags":
                flags = value.split()
                break
    return " ".join([maker, *[one for one in INSTRUCTIONS if one in flags][:1]])
