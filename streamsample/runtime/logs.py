"""What a process writes to its log."""

from __future__ import annotations

import logging

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_CLIENT = "kafka"
_SILENT_SECONDS = 60
_REMEMBERED = 1_000


def log_at(level: str) -> None:
    """Log to stderr from `level` (a key of LEVELS) on; the client library from warnings on, each once a minute."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    if level != "debug":
        handler.addFilter(OnceAMinute())
    logging.basicConfig(level=LEVELS[level], handlers=[handler])
    logging.getLogger(_CLIENT).setLevel(max(LEVELS[level], logging.WARNING))


class OnceAMinute(logging.Filter):
    """The client library says at each attempt that a broker does not answer, in several places: once will do."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(_CLIENT):
            return True
        said = (record.name, str(record.msg))
        if record.created < self._said.get(said, 0.0) + _SILENT_SECONDS:
            return False
        if len(self._said) >= _REMEMBERED:
            self._said.clear()
        self._said[said] = record.created
        return True
