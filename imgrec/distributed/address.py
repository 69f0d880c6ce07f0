"""The address of a Ray cluster, asked whether anybody answers there. Imports no Ray, so it is asked first."""

import os
import socket
from urllib.parse import urlsplit

from imgrec.config import ClusterConfig
from imgrec.errors import ClusterError

ANSWER_SECONDS = 4.0
FOUND_BY_RAY = frozenset({"auto", "local"})


def cluster_address(config: ClusterConfig) -> str:
    """Of the cluster to join; empty where a local Ray is started."""
    return config.address or os.environ.get("RAY_ADDRESS", "")


def refuse_silence(config: ClusterConfig) -> None:
    """Raise ClusterError where nobody listens at the address: Ray itself would wait for minutes."""
    address = cluster_address(config)
    if not address or address in FOUND_BY_RAY:
        return
    where = "cluster.address" if config.address else "RAY_ADDRESS"
    try:
        parts = urlsplit(address if "://" in address else f"ray://{address}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        msg = f"{where} = {address!r}: no address ({error}); write HOST:6379"
        raise ClusterError(msg) from error
    if not host or not port:
        msg = f"{where} = {address!r}: no address; write HOST:6379"
        raise ClusterError(msg)
    try:
        socket.create_connection((host, port), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        msg = (
            f"{where} = {address!r}: no Ray cluster answers there ({error.strerror or error}); start it, or unset "
            f"{where} for a local Ray"
        )
        raise ClusterError(msg) from error
