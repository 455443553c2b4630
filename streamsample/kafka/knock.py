"""Why no broker answered: each address is tried once, for the message that a person reads."""

from __future__ import annotations

import socket
from collections.abc import Sequence

_SECONDS = 2
_PORT = "9092"


def refusals(servers: str | Sequence[str]) -> str:
    """What came of a connection to each `host:port` (a list, or text with commas between): the system's own words, or
    that something listens there.
    """
    each = servers.split(",") if isinstance(servers, str) else servers
    return "; ".join(f"{server}: {_tried(server)}" for server in map(str.strip, each))


def _tried(server: str) -> str:
    host, _, port = server.rpartition(":")
    if not port.isdigit() or (":" in host and not host.startswith("[")):
        host, port = server, _PORT  # no port is given; colons are those of an IPv6 address
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS).close()
    except OSError as error:
        return (error.strerror or str(error)).lower()
    except UnicodeError:
        return "not the name of a host"
    return "something listens there, but does not answer as a broker: is security_protocol right?"
