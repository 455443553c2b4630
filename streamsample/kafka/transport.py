"""Large answers, received with fewer copies and system calls than kafka-python makes.

The library reads 4 KiB at a time and copies an answer six times on its way; for fetches of many MiB that costs three
times as much as decoding them. Here a large answer on a plain TCP connection is received where it is assembled, and
parsed there; what is small goes through one buffer that stays in the processor's cache. TLS connections are read by the
library. To be given to the library's clients as `kafka_client`.
"""

from __future__ import annotations

import selectors
from typing import Any

import kafka.errors as kafka_errors
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaTCPTransport
from kafka.protocol.parser import KafkaProtocol

_RECEIVE_BYTES = 256 * 1024
_AT_ONCE_BYTES = 4 * 1024 * 1024
"""Of an answer, until the connections' other work has its turn."""


class _Answer:
    """The bytes of one answer, read as a file; the rest of it is given out as a view, not as a copy."""

    def __init__(self, data: bytearray) -> None:
        self._data = memoryview(data)
        self._at = 0

    def read(self, size: int | None = None) -> bytes | memoryview:
        start = self._at
        self._at = len(self._data) if size is None else min(start + size, len(self._data))
        part = self._data[start : self._at]
        return part if size is None else bytes(part)

    def seek(self, at: int) -> None:
        self._at = at

    def tell(self) -> int:
        return self._at


class _Protocol(KafkaProtocol):
    """The library's parser, which takes an answer as it lies."""

    def _process_response(self, read_buffer: Any) -> Any:
        return super()._process_response(_Answer(read_buffer))

    def room(self) -> memoryview | None:
        """Where the next bytes of a large answer belong, without its last one: with that, the library goes on. None if
        they are few.
        """
        if not self._receiving:
            return None
        begin, last = self._rbuffer.tell(), len(self._rbuffer) - 1
        return memoryview(self._rbuffer)[begin:last] if last - begin > _RECEIVE_BYTES else None

    def received(self, size: int) -> None:
        """So many bytes were put there."""
        self._rbuffer.seek(self._rbuffer.tell() + size)


class _Receiver:
    """In place of a plain TCP transport's `_sock_recv`. The view that it returns is valid until the next call."""

    def __init__(self, transport: KafkaTCPTransport) -> None:
        self._transport = transport
        self._buffer = memoryview(bytearray(_RECEIVE_BYTES))

    def __call__(self) -> tuple[bytes | memoryview, Exception | None]:
        parser = self._transport.get_protocol().parser
        room = parser.room() if isinstance(parser, _Protocol) else None
        try:
            if room is not None:
                size = self._transport._sock.recv_into(room[:_AT_ONCE_BYTES])
                parser.received(size)
                return b"", None if size else kafka_errors.KafkaConnectionError("socket disconnected")
            size = self._transport._sock.recv_into(self._buffer)
        except (BlockingIOError, InterruptedError):
            return b"", None
        except OSError as error:
            return b"", kafka_errors.KafkaConnectionError(error)
        if size == 0:
            return b"", kafka_errors.KafkaConnectionError("socket disconnected")
        return self._buffer[:size], None


class _Manager(KafkaConnectionManager):
    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> Any:
        transport = await super()._build_transport(node, timeout_at=timeout_at)
        if type(transport) is KafkaTCPTransport:
            transport._sock_recv = _Receiver(transport)
        return transport

    async def _connect(self, node: Any, conn: Any, **options: Any) -> None:
        made = conn.connection_made

        def connection_made(transport: Any) -> None:
            made(transport)
            conn.parser = _Protocol(
                client_id=conn.config["client_id"],
                receive_message_max_bytes=conn.config["receive_message_max_bytes"],
                ident=conn.parser._ident,
            )

        conn.connection_made = connection_made
        await super()._connect(node, conn, **options)


class _Selector(selectors.DefaultSelector):
    """The library asks for each socket before it registers it, and a miss would be described in words each time."""

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        keys: dict[int, selectors.SelectorKey] = self._fd_to_key  # type: ignore[attr-defined]
        return keys[fileobj if isinstance(fileobj, int) else fileobj.fileno()]


class FewCopiesClient(KafkaNetClient):
    """kafka-python's network client, with the receiving side of this module."""

    def __init__(self, **configs: Any) -> None:
        net = NetworkSelector(**{**configs, "selector": _Selector})
        super().__init__(net=net, manager=_Manager(net, **configs), **configs)
