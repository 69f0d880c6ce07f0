"""A real cluster on one machine: Ray nodes, and MLflow on PostgreSQL with artifacts in an S3 store.

Every node of Ray has its own resources, its own network namespace and so its own address, and its
own disk below Ray's folder. The job server is on, and so is Ray's token authentication. Everything
is stopped and removed at the end.
"""

import contextlib
import json
import os
import pwd
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import psutil

from imgrec.machine import free_port
from tests.conftest import ROOT

BIN = Path(sys.executable).parent
START_MLFLOW = ROOT / "cluster" / "images" / "start_mlflow.py"
CARD = "eth0"
BUCKET = "artifacts"
S3_KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
START_SECONDS = 90
STORAGE = "512m"
# By the process, so that two do not meet.
NETWORK = f"10.{64 + os.getpid() % 64}.{os.getpid() // 64 % 256}"


def postgres_programs() -> Path | None:
    """Where Debian keeps them; None without the package postgresql."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


def wait_for(what: str, ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        assert process.poll() is None, f"{what} ended while it started"
        assert time.monotonic() < deadline, f"{what} did not start"
        time.sleep(0.1)


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Nothing that it started stays."""
    with contextlib.suppress(psutil.Error):
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for child in family:
            with contextlib.suppress(psutil.Error):
                child.kill()
        psutil.wait_procs(family, timeout=10)
    process.wait()


@dataclass
class Node:
    """A machine of the cluster."""

    process: subprocess.Popen[bytes]
    address: str
    disk: Path
    inside: list[str]  # before a command that is to run on it

    def kill(self) -> None:
        """As if its plug were pulled."""
        kill_tree(self.process)


@dataclass
class Lab:
    """The cluster, while it is up.

    Attributes:
        folder: Everything is below it.
        storage: A folder that every node sees.
        host: The address of the services.
        env: What a user outside sets to reach cluster and MLflow.
    """

    folder: Path
    stack: ExitStack
    storage: Path
    host: str
    env: dict[str, str]
    spaces: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    started: int = 0  # nodes, also those that are no more
    jobs: str = ""
    gcs: str = ""
    mlflow: subprocess.Popen[bytes] | None = None
    postgres_port: int = 0
    postgres_password: str = ""
    s3: str = ""

    def run(
        self, command: Sequence[str | Path], log: str, **options: object
    ) -> subprocess.Popen[bytes]:
        """Start a service, whose output goes to a file."""
        with (self.folder / f"{log}.log").open("ab") as output:
            process = subprocess.Popen(  # type: ignore[call-overload]
                [str(word) for word in command],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **({"env": self.env, "cwd": self.folder} | options),
            )
        self.stack.callback(kill_tree, process)
        return process

    def start_postgres(self) -> None:
        programs = postgres_programs()
        assert programs
        # PostgreSQL refuses to run as root.
        as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        data = self.folder / "postgres"
        data.mkdir(mode=0o700)
        self.postgres_password = secrets.token_hex(12)
        secret = self.folder / "postgres.password"
        secret.write_text(self.postgres_password)
        if as_user:
            user = pwd.getpwnam("postgres")
            for path in (data, secret):
                os.chown(path, user.pw_uid, user.pw_gid)
        words = [
            "-D",
            data,
            "-U",
            "mlflow",
            "--pwfile",
            secret,
            "--auth=scram-sha-256",
            "-E",
            "UTF8",
        ]
        subprocess.run(
            [*as_user, programs / "initdb", *words], check=True, capture_output=True, cwd="/"
        )
        port = self.postgres_port = free_port()
        command = [
            programs / "postgres",
            "-D",
            data,
            "-p",
            str(port),
            "-k",
            data,
            "-c",
            "fsync=off",
        ]
        process = self.run([*as_user, *command], "postgres", cwd="/")
        env = {**os.environ, "PGPASSWORD": self.postgres_password}
        psql = [
            programs / "psql",
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-U",
            "mlflow",
            "-d",
            "postgres",
        ]

        def ready() -> bool:
            create = [*psql, "-c", "create database mlflow"]
            return not subprocess.run(create, env=env, capture_output=True, check=False).returncode

        wait_for("PostgreSQL", ready, process)
        subprocess.run(
            [*psql, "-c", "create database mlflow_users"], env=env, check=True, capture_output=True
        )

    def start_s3(self) -> None:
        port = free_port()
        process = self.run([BIN / "moto_server", "-H", "127.0.0.1", "-p", str(port)], "s3")
        self.s3 = f"http://127.0.0.1:{port}"
        wait_for("the S3 store", lambda: answers(self.s3), process)

    def objects(self) -> list[str]:
        """What lies in the S3 store."""
        keys = {name.lower(): value for name, value in S3_KEYS.items()}
        client = boto3.client("s3", endpoint_url=self.s3, region_name="us-east-1", **keys)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def start_mlflow(self, port: int | None = None) -> None:
        """By the script of its image, with the keys of the S3 store, which nobody else has."""
        port = port or free_port(self.host)
        env = self.env | {
            "POSTGRES_HOST": "127.0.0.1",
            "POSTGRES_PORT": str(self.postgres_port),
            "POSTGRES_USER": "mlflow",
            "POSTGRES_PASSWORD": self.postgres_password,
            "POSTGRES_DB": "mlflow",
            "POSTGRES_AUTH_DB": "mlflow_users",
            "S3_BUCKET": BUCKET,
            "MLFLOW_S3_ENDPOINT_URL": self.s3,
            **S3_KEYS,
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_ADMIN_USER": self.env["MLFLOW_TRACKING_USERNAME"],
            "MLFLOW_ADMIN_PASSWORD": self.env["MLFLOW_TRACKING_PASSWORD"],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
            "HOST": self.host,
            "PORT": str(port),
            "ALLOWED_HOSTS": f"{self.host}:*",
            "WORKERS": "1",
        }
        env.pop("MLFLOW_TRACKING_URI", None)
        self.mlflow = self.run([sys.executable, START_MLFLOW], "mlflow", env=env)
        uri = f"http://{self.host}:{port}"
        wait_for("MLflow", lambda: answers(f"{uri}/health"), self.mlflow)
        self.env["MLFLOW_TRACKING_URI"] = uri

    def stop_mlflow(self) -> int:
        """Its port, to start it again."""
        assert self.mlflow
        kill_tree(self.mlflow)
        return int(self.env["MLFLOW_TRACKING_URI"].rpartition(":")[2])

    def start_node(self, cpus: int, hidden: Path | None = None) -> Node:
        """A head first, then workers.

        Args:
            cpus: What Ray is told that it has.
            hidden: A folder that this node does not see as the others do.
        """
        self.started += 1
        number = self.started
        disk = self.folder / f"disk-{number}" if self.nodes else self.folder / "ray"
        address, prefix = self._space(number)
        words = ["--num-cpus", str(cpus), "--node-ip-address", address, "--block"]
        words += ["--disable-usage-stats", "--object-store-memory", str(200_000_000)]
        if not self.nodes:
            port, dashboard = free_port(), free_port()
            self.gcs, self.jobs = f"{address}:{port}", f"http://{address}:{dashboard}"
            words += ["--head", "--port", str(port), "--dashboard-host", address]
            words += ["--dashboard-port", str(dashboard), "--temp-dir", str(self.folder / "ray")]
        else:
            words += ["--address", self.gcs]
        command = [str(BIN / "ray"), "start", *words]
        mounts = [] if hidden is None else [f"mount -t tmpfs none {hidden}"]
        if self.nodes:
            # A machine of its own has a disk of its own: what one node cleans up is not another's.
            disk.mkdir()
            mounts.append(f"mount --bind {disk} {self.folder / 'ray'}")
        command = [*prefix, "sh", "-c", " && ".join([*mounts, f"exec {shlex.join(command)}"])]
        # Tracking is the driver's alone, and it runs on the head.
        hide = {"MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_USERNAME"} if self.nodes else set()
        env = {key: value for key, value in self.env.items() if key not in hide}
        env["IMGREC_CACHE"] = str(self.folder / "ray" / "cache")  # each node's own, as said above
        node = Node(self.run(command, f"node-{number}", env=env), address, disk, prefix)
        # One after the other: two that start at once in one session's folder disturb each other.
        log = self.folder / f"node-{number}.log"
        wait_for(f"node {number}", lambda: "will now block" in log.read_text(), node.process)
        if not self.nodes:
            wait_for("the job server", lambda: answers(f"{self.jobs}/api/version"), node.process)
        self.nodes.append(node)
        return node

    def wait_until_idle(self) -> None:
        """Until nothing is held of what its nodes have, and Ray has noticed who is gone."""
        idle = f"0.0/{len(self.nodes)}.0 CPU"
        deadline = time.monotonic() + START_SECONDS
        while idle not in (said := self.ray("status", "--address", self.gcs)):
            assert time.monotonic() < deadline, said
            time.sleep(1)

    def drain(self, node: Node, seconds: float) -> None:
        """As a cloud does that takes a machine back: Ray is told some seconds before."""
        nodes = json.loads(self.ray("list", "nodes", "--format", "json", "--address", self.jobs))
        (found,) = [one for one in nodes if one["node_ip"] == node.address]
        words = ["--node-id", found["node_id"], "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
        words += ["--reason-message", "taken back", "--deadline-remaining-seconds", str(seconds)]
        self.ray("drain-node", "--address", self.gcs, *words)

    def ray(self, *words: str) -> str:
        """What a command of Ray's prints."""
        command = [str(BIN / "ray"), *words]
        ended = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def _space(self, number: int) -> tuple[str, list[str]]:
        name = f"imgrec-{os.getpid()}-{number}"
        address = f"{NETWORK}.{number}"
        outer = f"ex{os.getpid() % 10**6}-{number}"
        for command in (
            f"ip netns add {name}",
            f"ip link add {outer} type veth peer name {CARD} netns {name}",
            f"ip link set {outer} master {bridge_name()} up",
            f"ip -n {name} addr add {address}/24 dev {CARD}",
            f"ip -n {name} link set {CARD} up",
            f"ip -n {name} link set lo up",
        ):
            subprocess.run(command.split(), check=True, capture_output=True)
        self.stack.callback(
            subprocess.run, ["ip", "netns", "del", name], check=False, capture_output=True
        )
        return address, ["ip", "netns", "exec", name]


def bridge_name() -> str:
    return f"br{os.getpid() % 10**6}"


def can_make_networks() -> bool:
    """Whether the kernel lets us have network namespaces, with cables between them."""
    name, cable = f"try-{os.getpid()}", f"try{os.getpid() % 10**6}"
    commands = (
        f"ip netns add {name}",
        f"ip link add {cable} type veth peer name {cable}x netns {name}",
        f"ip link add {cable}b type bridge",
    )
    try:
        for command in commands:
            subprocess.run(command.split(), check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    finally:
        with contextlib.suppress(OSError):
            for command in (f"ip netns del {name}", f"ip link del {cable}b"):
                subprocess.run(command.split(), check=False, capture_output=True)
    return True


@contextmanager
def network() -> Iterator[str]:
    """A bridge that nodes are plugged into, and the address that services have on it."""
    name = bridge_name()
    for command in (
        f"ip link add {name} type bridge",
        f"ip addr add {NETWORK}.254/24 dev {name}",
        f"ip link set {name} up",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)
    try:
        yield f"{NETWORK}.254"
    finally:
        subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)


@contextmanager
def lab(nodes: Sequence[int] = (1, 1, 1)) -> Iterator[Lab]:
    """Everything up; `nodes` are the cores of the head and of the workers."""
    # Short, for the names of Unix sockets end at 107 characters; and readable, for PostgreSQL's user.
    folder = Path(tempfile.mkdtemp(prefix="lab-", dir="/tmp"))
    folder.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        host = stack.enter_context(network())
        kept = ("HOME", "LANG", "TMPDIR")
        env = {name: os.environ[name] for name in kept if name in os.environ}
        env |= {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Below `uv run pytest` Ray would take the folder that it was started in for the code of
            # every job, and send all of it.
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_worker_niceness": "0",
            # All nodes have the same host name, by which gloo would look for the address to use.
            "GLOO_SOCKET_IFNAME": CARD,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": secrets.token_hex(12),
        }
        stack.push(lambda kind, *_: show_logs(folder) if kind else None)
        # Of a size that a test can fill.
        (folder / "storage").mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={STORAGE}", "none", folder / "storage"]
        subprocess.run(mount, check=True)
        stack.callback(subprocess.run, ["umount", "-l", folder / "storage"], check=False)
        built = Lab(folder, stack, folder / "storage", host, env)
        built.start_postgres()
        built.start_s3()
        built.start_mlflow()
        for cpus in nodes:
            built.start_node(cpus)
        yield built


def show_logs(folder: Path) -> None:
    """What every service said last, for whoever looks for the cause."""
    for log in sorted(folder.glob("*.log")):
        lines = log.read_text(errors="replace").splitlines()[-15:]
        sys.stderr.write("\n".join([f"---- {log.name}", *lines, ""]))


def main() -> None:
    """Bring it up, say how to reach it, and wait for Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), lab() as built:
        for name, value in built.env.items():
            if name.startswith(("RAY", "MLFLOW")):
                sys.stdout.write(f"export {name}={value}\n")
        sys.stdout.write(f"export IMGREC_CLUSTER={built.jobs}\n# storage={built.storage}\n")
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    main()
