"""A job run as its users run it: `streamsample run JOB` in a process of its own, watched from outside."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.processes import Failed, Finished, reap, wait_until

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024
_ADDRESS = re.compile(r"metrics at (http://\S+)/metrics")
_SUMMARY = re.compile(r"job \S+: read ([\d,]+), wrote ([\d,]+), open ([\d,]+), dead letters ([\d,]+)")


@dataclass(frozen=True, slots=True)
class Ended:
    """The job's own last line. at: when it came, in seconds since the start."""

    at: float
    read: int
    wrote: int
    still_open: int
    dead: int


class JobProcess:
    """A running job. All times are wall seconds since its process was started."""

    def __init__(self, job_file: Path, *options: str, environment: Mapping[str, str] | None = None) -> None:
        self._started = time.perf_counter()
        self._process = subprocess.Popen(
            [str(Path(sys.executable).with_name("streamsample")), "run", str(job_file), *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "200", **(environment or {})},
        )
        self._lines: list[tuple[float, str]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def said(self) -> str:
        """What it wrote to stderr so far."""
        return "\n".join(line for _, line in self._lines)

    def seconds(self) -> float:
        """How long it runs."""
        return time.perf_counter() - self._started

    def cpu_seconds(self) -> float:
        """CPU time that it has used, all threads."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def memory(self) -> tuple[int, int]:
        """Resident bytes now, and the most there have been (as far as the system tells)."""
        now = int(psutil.Process(self._process.pid).memory_info().rss)
        status = Path(f"/proc/{self._process.pid}/status")
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
        return now, int(found.group(1)) * 1024 if found else now

    def wait_until_ready(self, seconds: float = 300) -> float:
        """Wait for /readyz; when it was. The job is killed if it takes too long."""
        try:
            return self._wait_until_ready(seconds)
        except Failed:
            self.kill()
            raise

    def _wait_until_ready(self, seconds: float) -> float:
        wait_until(lambda: self._address is not None, "the job's start", seconds)
        wait_until(self._is_ready, "the job's /readyz", seconds)
        return self.seconds()

    def metric(self, name: str) -> float:
        """The sum of a metric's values over its labels, as served now; 0 if it has none."""
        assert self._address is not None
        with urllib.request.urlopen(f"{self._address}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = re.findall(rf"^streamsample_{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        return sum(float(value) for value in found)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()

    def wait(self, seconds: float = 1800) -> tuple[Ended, Finished]:
        """Wait for its end: what it said of its work, and what it used. Raises Failed if it failed."""
        timer = threading.Timer(seconds, self._process.kill)
        timer.start()
        exit_code, usage = reap(self._process)
        timer.cancel()
        self._reader.join(10)
        finished = Finished(self.seconds(), usage.ru_utime + usage.ru_stime, usage.ru_maxrss * _RSS_UNIT, self.said)
        if exit_code:
            raise Failed(f"the job ended with exit code {exit_code}\n{self.said[-3000:]}")
        return self._ended(), finished

    def _ended(self) -> Ended:
        for at, line in self._lines:
            found = _SUMMARY.search(line)
            if found:
                read, wrote, still_open, dead = (int(group.replace(",", "")) for group in found.groups())
                return Ended(at, read, wrote, still_open, dead)
        raise Failed(f"the job did not sum up its work\n{self.said[-3000:]}")

    @property
    def _address(self) -> str | None:
        found = _ADDRESS.search(self.said)
        if found is None and self._process.poll() is not None:
            raise Failed(f"the job ended with exit code {self._process.returncode}\n{self.said[-3000:]}")
        return None if found is None else found.group(1).replace("localhost", "127.0.0.1")

    def _is_ready(self) -> bool:
        self._address  # noqa: B018 - raises if the job has ended
        try:
            with urllib.request.urlopen(f"{self._address}/readyz", timeout=10) as answer:
                return bool(answer.status == 200)
        except urllib.error.URLError:
            return False

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.append((self.seconds(), line.rstrip("\n")))


_SAMPLING_JOB = """\
job: {name}
kafka: {{bootstrap_servers: "{servers}"}}
start: earliest
input:
  topic: {topic}
  format: avro
  schema_file: impression.avsc
  id: impression_id
  time: {{field: served_at, unit: ms}}
{sample}
output: {{topic: {name}.out}}
metrics: {{port: 0}}
state: {{directory: {name}}}
"""


def sampling_job(folder: Path, name: str, servers: str, topic: str, sample: str) -> Path:
    """The file of a job that samples impressions. sample: its section `sample` or `samples`."""
    path = folder / f"{name}.yaml"
    path.write_text(_SAMPLING_JOB.format(name=name, servers=servers, topic=topic, sample=sample))
    return path


@dataclass(frozen=True, slots=True)
class Work:
    """A job that read its inputs to their end.

    working_seconds: from ready (tasks assigned) to the job's last words (group left);
    whole_seconds: of the process, imports and all. working_cpu_seconds: from ready to the end of the process.
    """

    ended: Ended
    working_seconds: float
    whole_seconds: float
    working_cpu_seconds: float
    whole_cpu_seconds: float
    peak_bytes: int


def run_to_the_end(job_file: Path) -> Work:
    """`streamsample run JOB --until-caught-up`."""
    job = JobProcess(job_file, "--until-caught-up")
    ready = job.wait_until_ready()
    cpu_at_ready = job.cpu_seconds()
    ended, finished = job.wait()
    return Work(
        ended=ended,
        working_seconds=ended.at - ready,
        whole_seconds=finished.seconds,
        working_cpu_seconds=finished.cpu_seconds - cpu_at_ready,
        whole_cpu_seconds=finished.cpu_seconds,
        peak_bytes=finished.peak_bytes,
    )
