"""Runs as jobs of a Ray cluster, through the job server on its head."""

import asyncio
import json
import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from imgrec.distributed.session import wants_token
from imgrec.errors import ClusterError, reason_of
from imgrec.probe import ask

TIMEOUT_SECONDS = 10
TRIES = 5
SECONDS_BETWEEN_TRIES = 1.0
OVER = frozenset({"succeeded", "failed", "stopped"})
MARK = "imgrec"
"""The key of a job's metadata that says that it is one of ours."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as its cluster knows it.

    Attributes:
        id: The name it was submitted under.
        state: `pending`, `running`, `succeeded`, `failed` or `stopped`.
        command: What it runs.
        message: What Ray says of its state.
        began: Unix time in seconds; 0 before it has.
        ended: Unix time in seconds; 0 before it has.
        exit_status: What its process ended with; None before, or where Ray does not know.
    """

    id: str
    state: str
    command: str
    message: str
    began: float
    ended: float
    exit_status: int | None

    @property
    def is_over(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.state in OVER


class JobServer:
    """The job server of a cluster.

    Raises:
        ClusterError: from every method, where the server does not answer or refuses.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        if not self.address.startswith(("http://", "https://")):
            msg = (
                f"--address {address}: the address of a job server starts with http:// and has "
                f"Ray's dashboard port: http://HEAD:8265"
            )
            raise ClusterError(msg)
        self._refuse_silence()
        # It tells of every package it uploads and of every connection that closes.
        logging.getLogger("ray").setLevel(logging.ERROR)
        with self._answering():
            self._client = JobSubmissionClient(self.address)

    def submit(
        self,
        name: str,
        command: str,
        upload: Path,
        tags: Mapping[str, str],
        packages: list[str] | None = None,
    ) -> None:
        """Start a job.

        Args:
            name: Its id; no other job of the cluster may have it.
            command: For the shell of the head node, in the uploaded folder.
            upload: A folder that every process of the job finds its modules in.
            tags: Kept with the job.
            packages: What to install for the job, by uv; None where the nodes have it all.
        """
        environment: dict[str, Any] = {"working_dir": str(upload)}
        if packages is not None:
            environment["uv"] = {"packages": packages}
        with self._answering():
            self._client.submit_job(
                submission_id=name,
                entrypoint=command,
                runtime_env=environment,
                metadata={MARK: name, **tags},
            )

    def find(self, name: str) -> Job | None:
        """A job of ours, by its id."""
        return next((job for job in self.jobs() if job.id == name), None)

    def get(self, name: str) -> Job:
        """A job of ours that must be there."""
        job = self.find(name)
        if job is None:
            msg = f"{name}: {self.address} has no such job; imgrec jobs lists them"
            raise ClusterError(msg)
        return job

    def jobs(self) -> list[Job]:
        """Ours, newest first."""
        with self._answering():
            listed = self._client.list_jobs()
        ours = [_job(one) for one in listed if one.submission_id and MARK in (one.metadata or {})]
        return sorted(ours, key=lambda job: -job.began)

    def stop(self, name: str) -> None:
        """Ask a job to end: SIGTERM, and after some seconds SIGKILL."""
        with self._answering():
            self._client.stop_job(name)

    def forget(self, name: str) -> None:
        """Remove a job that has ended, so that its id is free."""
        with self._answering():
            self._client.delete_job(name)

    def log(self, name: str) -> str:
        """What a job has printed until now."""
        with self._answering():
            return str(self._client.get_job_logs(name))

    def follow(self, name: str) -> Iterator[str]:
        """What a job prints, from its beginning until it ends, in pieces of any length.

        A connection that breaks is taken up again where it was.
        """
        seen = failures = 0
        while True:
            position = 0
            try:
                for text in self._tail(name):
                    position += len(text)
                    if position > seen:
                        yield text[-(position - seen) :]
                        seen, failures = position, 0
                if self.get(name).is_over:
                    return
            except (RuntimeError, OSError, ClusterError) as error:
                failures += 1
                if failures == TRIES:
                    msg = f"{self.address}: the log of {name} broke off ({reason_of(error)})"
                    raise ClusterError(msg) from error
            time.sleep(SECONDS_BETWEEN_TRIES)

    def _tail(self, name: str) -> Iterator[str]:
        """Ray's own is asynchronous; a thread of its own lets Ctrl-C through at once."""
        told: queue.SimpleQueue[str | Exception | None] = queue.SimpleQueue()

        async def read() -> None:
            async for text in self._client.tail_job_logs(name):
                told.put(text)

        def work() -> None:
            try:
                asyncio.run(read())
            except Exception as error:
                told.put(error)
            told.put(None)

        threading.Thread(target=work, daemon=True, name="job log").start()
        while (line := told.get()) is not None:
            if isinstance(line, Exception):
                raise line
            yield line

    def _refuse_silence(self) -> None:
        """Ray's own client would wait for ever."""
        answer = ask(f"{self.address}/api/version", TIMEOUT_SECONDS)
        if answer.wants_name:
            return  # it wants its token; Ray's client says so
        try:
            version = json.loads(answer.text)["ray_version"]
        except (ValueError, KeyError, TypeError) as error:
            reason = answer.reason or "it does not say its version"
            msg = f"{self.address}: no Ray job server answers there ({reason})"
            raise ClusterError(msg) from error
        _refuse_other_version(self.address, version)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except AuthenticationError as error:
            raise wants_token(self.address) from error
        except (RuntimeError, OSError, ValueError, requests.RequestException) as error:
            # Of a traceback of the server the last line says what it was.
            lines = [line.strip(" .'\"") for line in str(error).splitlines()]
            reason = next((line for line in reversed(lines) if line), type(error).__name__)
            msg = f"{self.address}: {reason}"
            raise ClusterError(msg) from error


def _refuse_other_version(address: str, version: str) -> None:
    if version != ray.__version__:
        msg = (
            f"{address}: has Ray {version}, and here is {ray.__version__}; a job needs the same on "
            f"both sides"
        )
        raise ClusterError(msg)


def _job(details: Any) -> Job:
    return Job(
        id=details.submission_id,
        state=details.status.value.lower(),
        command=details.entrypoint,
        message=details.message or "",
        began=(details.start_time or 0) / 1000,
        ended=(details.end_time or 0) / 1000,
        exit_status=details.driver_exit_code,
    )
