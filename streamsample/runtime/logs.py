"""What a process writes to its log."""

from __future__ import annotations

import logging

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def log_at(level: str) -> None:
    """Log to stderr from `level` (a key of LEVELS) on; the client library, which tells much, from warnings on."""
    logging.basicConfig(level=LEVELS[level], format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("kafka").setLevel(max(LEVELS[level], logging.WARNING))
