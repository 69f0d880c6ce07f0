"""What differs between machines and their operating systems.

Cores, processors and cards, room on a disk, locks, births of processes, memory that ran out. Linux has all of it, macOS most; where a call is missing, what is said here does without.
"""

import contextlib
import errno
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

try:
    import fcntl
    import resource
except ImportError:  # pragma: no cover - Windows, where WSL is the way
    fcntl = resource = None  # type: ignore[assignment]

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
CGROUPS = Path("/sys/fs/cgroup")
KILL_COUNTERS = tuple(
    Path(name)
    for name in (
        "/sys/fs/cgroup/memory.events",
        "/sys/fs/cgroup/memory/memory.oom_control",
        "/proc/vmstat",
    )
)
LOCK_POLL_SECONDS = 0.05
NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF})
"""What file systems say that have no locks, or none without a right to write."""
AMPERE = 8.0
INSTRUCTIONS = ("amx_bf16", "avx512_bf16")
"""For bf16; of those that a processor has the first counts."""


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
    """How often the system has killed a process for want of memory: of this container's, and of all.

    Counters that only grow; 0 where there are none.
    """
    return sum(
        int(value)
        for file in KILL_COUNTERS
        for line in _lines(file)
        for name, _, value in [line.partition(" ")]
        if name == "oom_kill"
    )


def memory_limit() -> int:
    """Bytes of memory that this process and its children may have: of the machine, or of its container."""
    limits = [psutil.virtual_memory().total]
    for file in _limit_files():
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


def _limit_files() -> Iterator[Path]:
    """Where the limit of a control group may stand, in the first and second version of them."""
    for line in _lines(Path("/proc/self/cgroup")):
        _, controllers, path = line.split(":", 2)
        for below in {path.strip("/"), ""}:
            if controllers == "memory":
                yield CGROUPS / "memory" / below / "memory.limit_in_bytes"
            elif not controllers:
                yield CGROUPS / below / "memory.max"


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


def card_kind() -> str:
    """The kind of this machine's cards, asked of the driver: a process without a card sees none by torch."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)  # noqa: S603 - fixed words
    except (OSError, subprocess.SubprocessError):
        return "cuda"  # of another maker, which were not measured
    capabilities = [float(line) for line in answer.stdout.split()]
    return "cuda bf16" if capabilities and min(capabilities) >= AMPERE else "cuda"


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
