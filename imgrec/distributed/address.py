"""The address of a Ray cluster, asked whether Ray answers there. Imports no Ray, so it is asked first."""

import os
import socket
from urllib.parse import urlsplit

from imgrec.config import ClusterConfig
from imgrec.errors import ClusterError

ANSWER_SECONDS = 4.0
# RFC 9113, sections 3.4 and 6.5.
HTTP2_PREFACE, EMPTY_SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes(3) + b"\4" + bytes(5)
FRAME_HEADER, SETTINGS_FRAME = 9, b"\4"
FOUND_BY_RAY = frozenset({"auto", "local"})


def cluster_address(config: ClusterConfig) -> str:
    """Of the cluster to join; empty where a local Ray is started."""
    return config.address or os.environ.get("RAY_ADDRESS", "")


def setting_of_address(config: ClusterConfig) -> str:
    """Which setting has the address, for people."""
    return "cluster.address" if config.address else "RAY_ADDRESS"


def refuse_silence(config: ClusterConfig) -> None:
    """Raise ClusterError where no Ray answers at the address: Ray itself would wait for minutes."""
    address, where = cluster_address(config), setting_of_address(config)
    if not address or address in FOUND_BY_RAY:
        return
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
        with socket.create_connection((host, port), timeout=ANSWER_SECONDS) as connection:
            reason = "" if _speaks_http2(connection) else "something else listens there"
    except TimeoutError:
        reason = f"no answer within {ANSWER_SECONDS:.0f} s"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        msg = (
            f"{where} = {address!r}: no Ray cluster answers there ({reason}); start it, or unset {where} for "
            f"a local Ray"
        )
        raise ClusterError(msg)


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether the other side answers as gRPC does, which Ray speaks: with its settings, in the first frame."""
    if os.environ.get("RAY_USE_TLS", "0") not in {"", "0"}:
        return True  # it would want to see a certificate first
    connection.sendall(HTTP2_PREFACE + EMPTY_SETTINGS)
    header = b""
    while len(header) < FRAME_HEADER and (more := connection.recv(FRAME_HEADER - len(header))):
        header += more
    return header[3:4] == SETTINGS_FRAME
