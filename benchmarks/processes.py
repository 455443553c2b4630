"""Each thing is measured in a process of its own, so that its CPU time and its memory are its own.

The process that starts the others stays small and imports nothing large: Linux counts the memory of the process that
started another as part of the other's peak.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that has ended. seconds: of wall time; peak_bytes: of resident memory; output: stdout."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    output: str


class Failed(Exception):
    """A measured process ended with an error, or without its figures."""


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Finished:
    """Run to the end. stderr goes to ours. Raises Failed with the exit code."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})})
    assert process.stdout is not None
    try:
        output = process.stdout.read()
        exit_code, usage = reap(process)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if exit_code:
        raise Failed(f"{' '.join(command[:4])} ... ended with exit code {exit_code}\n{output[-2000:]}")
    seconds = time.perf_counter() - started
    return Finished(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * _RSS_UNIT, output)


def reap(process: subprocess.Popen[Any]) -> tuple[int, Any]:
    """Wait for the end: the exit code and what the process used (`resource.struct_rusage`)."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage


def call(
    function: str, environment: Mapping[str, str] | None = None, **arguments: Any
) -> tuple[dict[str, Any], Finished]:
    """Call `module:function` of this package in a new process; the figures that it returns, and what it used in all."""
    command = [sys.executable, "-m", "benchmarks.processes", function, json.dumps(arguments)]
    finished = run(command, environment)
    lines = finished.output.strip().splitlines()
    if not lines:
        raise Failed(f"{function} told nothing")
    return json.loads(lines[-1]), finished


class Stopwatch:
    """Wall and CPU seconds of this process, all threads, since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def figures(self, records: int) -> dict[str, float]:
        """What a measured function returns."""
        seconds, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return {"records": records, "seconds": seconds, "cpu_seconds": cpu}


def wait_until(condition: Callable[[], bool], what: str, seconds: float, pause: float = 0.01) -> None:
    """Raises Failed if `condition` does not come true in time."""
    deadline = time.perf_counter() + seconds
    waiting = threading.Event()
    while not condition():
        if time.perf_counter() > deadline:
            raise Failed(f"{what}: not within {seconds:g} s")
        waiting.wait(pause)


if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    told = getattr(importlib.import_module(f"benchmarks.{module}"), name)(**json.loads(sys.argv[2]))
    print(json.dumps(told))
