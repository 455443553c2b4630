"""Ends the session of a local broker that was killed, before it is started again.

Kafka 4.3.1 as a single node: after SIGKILL its metadata still say that the broker leads everything. Started again, it
takes up the transactions whose end was decided, but not yet written to all partitions, as their coordinator; then the
controller fences the old incarnation, for a moment no partition has a leader, and the coordinator takes them for
deleted and forgets the markers ("Couldn't find leader endpoint for partitions ..."). Such a transaction hangs for
ever: nothing behind it can be read, and the group's offsets in it stay undecided. In a cluster another broker takes
over instead. So here the controller runs alone first, until it has fenced the killed broker.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from streamsample.clock import SystemClock
from streamsample.errors import KafkaSideError

READY = "Kafka Server started"
_FENCED = "Fencing broker 1"
_FENCE_SECONDS = 30
"""Once the controller runs. One that was killed before it had registered is not fenced, and need not be."""
_CLEAN = ".kafka_cleanshutdown"
_METADATA = "__cluster_metadata-0"
_STOP_SECONDS = 15
_SETTINGS: Mapping[str, str] = {
    "process.roles": "controller",
    "broker.session.timeout.ms": "200",
    "broker.heartbeat.interval.ms": "100",
    "metadata.max.idle.interval.ms": "50",  # each adds a record to the metadata's log
}


def was_killed(data: Path) -> bool:
    """Whether the broker of this data folder did not end in good order."""
    return (data / _METADATA).exists() and not (data / _CLEAN).exists()


def fence_killed(java: Sequence[str], settings: Mapping[str, str], folder: Path, timeout_seconds: float) -> None:
    """Run the controller alone until it has fenced the broker (2-3 s). Its log is `folder`/controller.log.

    java: the command up to the settings file; settings: the broker's, of which the controller's listener is the last.
    Raises KafkaSideError with the end of the log.
    """
    path, log_path = folder / "controller.properties", folder / "controller.log"
    listener = settings["listeners"].rsplit(",", 1)[-1]
    alone = {**settings, **_SETTINGS, "listeners": listener}
    del alone["advertised.listeners"]
    path.write_text("".join(f"{key}={value}\n" for key, value in alone.items()))
    with log_path.open("wb") as log:
        controller = subprocess.Popen(
            kept([*java, str(path)]), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert controller.stdout is not None
    try:
        pid = int(controller.stdout.readline() or 0)
        wait_for_line(log_path, 0, READY, lambda: controller.poll() is None, timeout_seconds)
        if wait(lambda: _FENCED in log_path.read_text(errors="replace"), _FENCE_SECONDS):
            _wait_until_written(Path(settings["log.dirs"]) / _METADATA, timeout_seconds)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        controller.wait(_STOP_SECONDS)
    finally:
        controller.kill()  # and so what it keeps
        controller.wait()
        controller.stdout.close()


def _wait_until_written(metadata: Path, timeout_seconds: float) -> None:
    """Until what the controller has decided by now is in its log.

    It says that it fences before it writes so, and a stop in between loses the record. Records are written in order:
    the log has grown by one that may have been under way before, and by one more.
    """

    def grown() -> Callable[[], bool]:
        before = size()
        return lambda: size() > before

    def size() -> int:
        return sum(path.stat().st_size for path in metadata.glob("*.log"))

    for _ in range(2):
        wait(grown(), timeout_seconds)


def kept(command: Sequence[str], remove: str = "") -> list[str]:
    """`command`, run so that it does not outlive this process: see `keeper`. remove: a folder to go with it."""
    keeper = str(Path(__file__).with_name("keeper.py"))
    return [sys.executable, "-I", "-S", keeper, str(os.getpid()), remove, *command]


def wait(condition: Callable[[], bool], timeout_seconds: float) -> bool:
    """Whether `condition` came true in time."""
    clock = SystemClock()
    deadline = clock.elapsed_ms() + timeout_seconds * 1000
    while not condition():
        if clock.elapsed_ms() > deadline:
            return False
        time.sleep(0.02)
    return True


def wait_for_line(log_path: Path, before: int, words: str, alive: Callable[[], bool], timeout_seconds: float) -> None:
    """Until the log, from byte `before` on, has these words. Raises KafkaSideError with its end if they do not come."""
    with log_path.open("rb") as log:
        log.seek(before)
        seen = b""

        def told() -> bool:
            nonlocal seen
            seen = seen[-len(words) :] + log.read()
            return words.encode() in seen or not alive()

        in_time = wait(told, timeout_seconds)
    if in_time and alive():
        return
    with log_path.open("rb") as log:
        log.seek(max(before, log_path.stat().st_size - 4000))
        tail = log.read().decode(errors="replace")
    what = "ended while starting" if in_time else f"was not ready within {timeout_seconds:g} s"
    raise KafkaSideError(
        f"the local broker {what}; the end of {log_path}:\n{tail}", remedy="the log says why; see also its settings"
    )
