"""Time is passed in: only `SystemClock` reads the machine's clocks."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time and elapsed time, in integer milliseconds."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch. May jump."""
        ...

    def elapsed_ms(self) -> int:
        """Milliseconds since some fixed moment. Never goes back."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def elapsed_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000


class ManualClock:
    """A clock that moves only when told to."""

    def __init__(self, now_ms: int = 0) -> None:
        self._now_ms = now_ms
        self._elapsed_ms = 0

    def now_ms(self) -> int:
        return self._now_ms

    def elapsed_ms(self) -> int:
        return self._elapsed_ms

    def advance(self, milliseconds: int) -> None:
        """Let `milliseconds` (>= 0) pass."""
        if milliseconds < 0:
            raise ValueError(f"time cannot go back by {-milliseconds} ms")
        self._now_ms += milliseconds
        self._elapsed_ms += milliseconds
