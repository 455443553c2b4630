"""Why no broker answered: each address is tried once, for the message that a person reads."""

from __future__ import annotations

import socket
from collections.abc import Sequence

_SECONDS = 2
_PORT = "9092"


def refusals(servers: Sequence[str]) -> str:
    """What came of a connection to each `host:port`: the system's own words, or that something listens there."""
    return "; ".join(f"{server}: {_tried(server)}" for server in servers)


def _tried(server: str) -> str:
    host, _, port = server.rpartition(":")
    if not port.isdigit() or (":" in host and not host.startswith("[")):
        host, port = server, _PORT  # no port is given; colons are those of an IPv6 address
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS).close()
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return "something listens there, but does not answer as a broker: is security_protocol right?"
