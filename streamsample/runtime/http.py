"""One port for those who watch: /metrics, /livez and /readyz."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from streamsample.errors import ConfigurationError

Probe = Callable[[], str | None]
"""None if all is well, else what is not."""


_POLL_SECONDS = 0.1
"""How long `close` may take."""


class StatusServer:
    """Serves the metrics of `registry` and two probes. `port` 0 takes a free one; the attribute `port` tells which.

    /livez: the loop makes progress. /readyz: tasks are assigned and restored. Both answer 200, or 503 with what is
    wrong. Raises ConfigurationError if the address cannot be had.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, live: Probe, ready: Probe) -> None:
        handler = _handler(registry, {"/livez": live, "/readyz": ready})
        try:
            self._server = ThreadingHTTPServer((host, port), handler)
        except OSError as error:
            raise ConfigurationError(
                f"metrics: cannot listen on {host}:{port}: {error.strerror}",
                remedy="set metrics.port to a free port, or to 0 for any",
            ) from error
        self._server.daemon_threads = True
        self.host = host
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), name="status-server", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Where to look from this machine."""
        host = "localhost" if self.host in ("0.0.0.0", "::", "") else self.host
        return f"http://{host}:{self.port}"

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


def _handler(registry: CollectorRegistry, probes: dict[str, Probe]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version = "streamsample"

        def do_GET(self) -> None:
            path = self.path.split("?", 1)[0]
            if path == "/metrics":
                encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                self._answer(200, encode(registry), content_type)
            elif path in probes:
                problem = probes[path]()
                self._answer(503 if problem else 200, f"{problem or 'ok'}\n".encode(), "text/plain; charset=utf-8")
            else:
                self._answer(404, b"try /metrics, /livez or /readyz\n", "text/plain; charset=utf-8")

        def _answer(self, status: int, body: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Scrapes are no news."""

    return Handler
