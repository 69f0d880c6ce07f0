"""A Ray that goes down leaves nothing of it in the process."""

import contextlib
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import ray

from imgrec.config import ClusterConfig
from imgrec.distributed import local
from imgrec.distributed.address import refuse_silence
from imgrec.distributed.demand import plan_demand
from imgrec.distributed.head import keep_logs, session_folder
from imgrec.distributed.lone_worker import start_worker
from imgrec.distributed.nodes import NodeInfo, _on_each
from imgrec.distributed.session import ray_session
from imgrec.errors import ClusterError
from imgrec.machine import free_port


def test_what_waits_for_ray_ends_with_it(tmp_path: Path) -> None:
    """A thread that is inside Ray at the end of the interpreter crashes it, one time in six."""
    with ray_session(ClusterConfig(), tmp_path / "ray.log", cpus=1) as session:
        late = session.beside(lambda: time.sleep(2), "late")
    assert late.is_over()


def test_what_a_local_ray_writes_is_its_owners_alone_and_goes_at_the_end(tmp_path: Path) -> None:
    """Ray opens its folder to all users: whoever puts a link there could read what it points to."""
    with ray_session(ClusterConfig(), tmp_path / "ray.log", cpus=1):
        where = Path(ray.get(ray.remote(tempfile_of).remote()))
        folder = Path("/tmp", where.relative_to("/tmp").parts[0])
        mode = stat.S_IMODE(folder.stat().st_mode)

    assert folder.name.startswith("imgrec-")
    assert mode == 0o700
    assert not folder.exists()


def test_processes_of_a_local_ray_ask_their_own_where_another_one_is_up(tmp_path: Path) -> None:
    """Ray Train asks by itself whether a trainer lives, and would hold the cores of one that was stopped for ever."""
    code = (
        "import signal, time; from pathlib import Path; from imgrec.config import ClusterConfig\n"
        "from imgrec.distributed.session import ray_session\n"
        f"with ray_session(ClusterConfig(), Path({str(tmp_path)!r}, 'other.log'), cpus=1):\n"
        "    signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        "    print('up', flush=True); time.sleep(100)"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "up\n"
        try:
            with ray_session(ClusterConfig(), tmp_path / "ray.log", cpus=1, dashboard=True):
                actors = ray.get(ray.remote(names_of_actors).remote())
        finally:
            other.terminate()

    assert actors == {"MailboxActor"}


def test_a_local_ray_goes_down_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    """Nothing of it is left that anybody would have to look for, and its folder is gone."""
    code = (
        "import time, tempfile, ray; from pathlib import Path; from imgrec.config import ClusterConfig\n"
        "from imgrec.distributed.session import ray_session\n"
        f"with ray_session(ClusterConfig(), Path({str(tmp_path)!r}, 'ray.log'), cpus=1):\n"
        "    print(ray.get(ray.remote(tempfile.mkdtemp).remote()), flush=True); time.sleep(100)"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout
        folder = Path("/tmp", Path(driver.stdout.readline().strip()).parts[2])
        processes = psutil.Process(driver.pid).children(recursive=True)
        there = folder.exists()
        driver.kill()
    _, alive = psutil.wait_procs(processes, timeout=30)

    assert there
    assert len(processes) > 3
    assert not alive
    assert not folder.exists()


def test_a_local_ray_that_does_not_come_up_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the file that says more."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with (
        pytest.raises(
            ClusterError, match=r"did not come up .* \(its process has ended\); .*ray\.log"
        ),
        ray_session(ClusterConfig(), tmp_path / "ray.log"),
    ):
        pass


def test_why_a_local_ray_does_not_come_up_is_told_as_often_as_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run looks early, and is told when it needs Ray."""
    answer = "import json, os, sys; asked = json.loads(sys.argv[1])\n"
    answer += "os.write(asked['answer'], b'{\"error\": \"no room\"}\\n')"
    monkeypatch.setattr(local, "ENTRY", answer)
    with contextlib.closing(local.LocalRay(tmp_path / "ray.log", workers=1)) as held:
        for _ in range(2):
            with pytest.raises(ClusterError, match="no room"):
                held.address()
        assert held.is_up()


def test_the_first_worker_comes_up_with_ray(tmp_path: Path) -> None:
    """Where a lane of one comes first; it is there before the driver has joined, and trains what the driver sends."""
    cluster = ClusterConfig(cpus_per_worker=1)
    with (
        contextlib.closing(
            local.LocalRay(tmp_path / "ray.log", workers=1, cpus=1, first=cluster)
        ) as held,
        ray_session(cluster, tmp_path / "ray.log", local=held) as session,
    ):
        demand = plan_demand(session.nodes, cluster)
        (prepared,) = session.prepared
        there = ray.get(prepared.__ray_call__.remote(lambda _: sorted(sys.modules)), timeout=60)

        assert start_worker(session.prepared, demand) == prepared
        assert not session.prepared
    assert {"torch._dynamo", "imgrec.distributed.worker"} <= set(there)


@pytest.mark.parametrize(
    "first", [None, ClusterConfig(workers=2, cpus_per_worker=1), ClusterConfig(cpus_per_worker=9)]
)
def test_no_worker_comes_up_where_none_is_alone(
    tmp_path: Path, first: ClusterConfig | None
) -> None:
    """Before a search, for groups, and where the machine can never give what is asked for, which is said later."""
    with (
        contextlib.closing(
            local.LocalRay(tmp_path / "ray.log", workers=1, cpus=1, first=first)
        ) as held,
        ray_session(ClusterConfig(), tmp_path / "ray.log", local=held) as session,
    ):
        assert session.prepared == []


def names_of_actors() -> set[str]:
    from ray.util.state import list_actors

    return {actor.class_name for actor in list_actors()}


def tempfile_of() -> str:
    import tempfile

    return tempfile.mkdtemp()


def test_folders_that_killed_runs_left_go_with_the_next() -> None:
    """Those of living ones stay."""
    code = (
        "import time; from imgrec.distributed.head import session_folder\n"
        "with session_folder() as folder: print(folder, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as living,
    ):
        assert killed.stdout
        assert living.stdout
        left, kept = (Path(one.readline().strip()) for one in (killed.stdout, living.stdout))
        killed.kill()
        killed.wait()
        with session_folder():
            found = left.exists(), kept.exists()
        living.terminate()

    assert found == (False, True)


def test_logs_are_copied_of_files_that_are_ours_and_of_no_link(tmp_path: Path) -> None:
    """A link in the folder would bring what it points to into a file that others may read."""
    private = tmp_path / "private.txt"
    private.write_text("a secret")
    logs = tmp_path / "session_2026" / "logs"
    logs.mkdir(parents=True)
    (logs / "worker-1.out").write_text("a word of a worker")
    (logs / "worker-2.out").symlink_to(private)
    os.mkfifo(logs / "worker-3.out")
    keep_logs(tmp_path, tmp_path / "run.log")
    kept = (tmp_path / "run.log").read_text()

    assert "a word of a worker" in kept
    assert "a secret" not in kept


@pytest.mark.parametrize("by", ["setting", "environment"])
def test_an_address_where_nobody_answers_is_said_at_once(
    by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray would tell of it in its own lines for three minutes."""
    address = f"127.0.0.1:{free_port()}"
    if by == "environment":
        monkeypatch.setenv("RAY_ADDRESS", address)
    config = ClusterConfig(address=address if by == "setting" else "")
    began = time.monotonic()

    with pytest.raises(ClusterError, match="no Ray cluster answers there"):
        refuse_silence(config)
    assert time.monotonic() - began < 5
    with pytest.raises(ClusterError, match="no address"):
        refuse_silence(ClusterConfig(address="nowhere"))


def test_without_a_home_ray_gets_a_token_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container with any user id: the token lies with the logs, for its owner alone."""
    monkeypatch.setenv("HOME", "/proc/nobody")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    local.provide_token(tmp_path / "run.log")
    token = Path(os.environ.pop("RAY_AUTH_TOKEN_PATH"))

    assert token.parent == tmp_path
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) == 64


@pytest.mark.parametrize(
    ("gigabytes", "workers", "said"),
    [
        (
            2,
            1,
            r"gives 2\.0 GB of memory, and a run with 1 worker takes 2\.6 GB at least; give it more$",
        ),
        (
            4,
            4,
            r"a run with 4 workers takes 4\.4 GB at least; give it more, or lower cluster\.workers$",
        ),
    ],
)
def test_a_machine_with_too_little_memory_is_refused_in_one_line(
    gigabytes: int, workers: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything starts, and not by a traceback after two minutes."""
    monkeypatch.setattr(local, "memory_limit", lambda: gigabytes * 1_000_000_000)

    with (
        pytest.raises(ClusterError, match=said),
        ray_session(ClusterConfig(workers=workers), tmp_path / "ray.log"),
    ):
        pass


@pytest.mark.parametrize("kind", ["silent", "another protocol"])
def test_what_listens_and_is_no_ray_is_told_at_once(kind: str) -> None:
    """Ray itself would try again for minutes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    if kind == "silent":
                        connection.recv(1)
                        time.sleep(10)
                    else:
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        port = server.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(ClusterError, match="no Ray cluster answers there"):
            refuse_silence(ClusterConfig(address=f"127.0.0.1:{port}"))
        assert time.monotonic() - began < 6


def test_a_ray_that_is_there_is_known(tmp_path: Path) -> None:
    """Its first answer is gRPC's."""
    with ray_session(ClusterConfig(), tmp_path / "ray.log", cpus=1):
        refuse_silence(ClusterConfig(address=ray.get_runtime_context().gcs_address))


def test_a_node_that_has_gone_meanwhile_is_not_waited_for(tmp_path: Path) -> None:
    """Ray counts a lost machine for some seconds more; a run that starts just then goes on with the others."""
    lost = NodeInfo("ab" * 28, "192.0.2.77", cpus=1, gpus=0)
    with ray_session(ClusterConfig(), tmp_path / "ray.log", cpus=1) as session:
        answers = _on_each([lost, *session.nodes], name_of_node, "you are")

    assert [(node, said) for node, said in answers] == [
        (node, f"you are {node.id}") for node in session.nodes
    ]


def name_of_node(asked: str, node: str) -> str:
    return f"{asked} {node}"
