"""A thread that encodes, compresses, sends and commits while the caller goes on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from streamsample.kafka.producer_seam import Deadline

Work = Callable[[], None]


class WriterThread:
    """Runs pieces of work one after another, in the order given, beside the thread that gives them.

    What waits is bounded by its size. After a piece has raised, the rest is dropped, and the error is kept in `failure`
    until `clear`.
    """

    def __init__(self, name: str, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, Work]] = deque()
        self._bytes = 0
        self._busy = False
        self._closed = False
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, size: int, work: Work, deadline: Deadline) -> bool:
        """Have `work` done, which holds `size` bytes until then; waits for room (one piece always fits). False if the
        deadline passed first, or a piece before it has failed.
        """
        with self._changed:
            room = self._changed.wait_for(
                lambda: self.failure is not None or not self._bytes or self._bytes + size <= self._bytes_max,
                deadline.left_ms() / 1000,
            )
            if not room or self.failure is not None:
                return False
            self._waiting.append((size, work))
            self._bytes += size
            self._changed.notify_all()
        return True

    def wait(self, deadline: Deadline) -> bool:
        """Until all is done. False if the deadline passed first, or a piece has failed."""
        with self._changed:
            done = self._changed.wait_for(
                lambda: self.failure is not None or not (self._waiting or self._busy), deadline.left_ms() / 1000
            )
            return done and self.failure is None

    def clear(self, deadline: Deadline) -> bool:
        """Drop what waits and forget the failure, once the piece in hand is done. False if it was not done in time."""
        with self._changed:
            self._drop()
            idle = self._changed.wait_for(lambda: not self._busy, deadline.left_ms() / 1000)
            self.failure = None
            return idle

    def close(self, deadline: Deadline) -> None:
        """Drop what waits and end."""
        with self._changed:
            self._closed = True
            self._drop()
            self._changed.notify_all()
        self._thread.join(deadline.left_ms() / 1000)

    def _drop(self) -> None:
        self._bytes -= sum(size for size, _ in self._waiting)
        self._waiting.clear()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                size, work = self._waiting.popleft()
                self._busy = True
            try:
                work()
            except BaseException as error:
                with self._changed:
                    self.failure = error
                    self._drop()
            finally:
                del work  # it holds the columns
                with self._changed:
                    self._busy = False
                    self._bytes -= size
                    self._changed.notify_all()
