"""Runs a job as a service: checks the cluster, serves metrics and probes, works until a signal or the end."""

from __future__ import annotations

import fcntl
import gc
import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from streamsample import __version__
from streamsample.clock import Clock, SystemClock
from streamsample.config import Job
from streamsample.errors import ConfigurationError, StreamsampleError
from streamsample.kafka.topics import TopicAdmin
from streamsample.kernels import load_imported
from streamsample.records import TopicPartition
from streamsample.runtime.http import StatusServer
from streamsample.runtime.layout import Layout
from streamsample.runtime.local import Copies
from streamsample.runtime.memory import keep_freed_memory
from streamsample.runtime.metrics import Metrics
from streamsample.runtime.plan import Plan, plan_of
from streamsample.runtime.preflight import Cluster, prepare
from streamsample.runtime.report import Progress, Report
from streamsample.runtime.worker import Worker, WorkerSettings

log = logging.getLogger(__name__)

_STALLED_MS = 60_000
_STATUS_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Options:
    """How a job is run. on_start is told where the metrics are; on_progress is called about twice a second. `stop`,
    once set, ends the run as SIGTERM does. log_level: of worker processes, if there are several.
    """

    until_caught_up: bool = False
    workers: int = 1
    log_level: str = "info"
    on_start: Callable[[str], None] = log.info
    on_warning: Callable[[str], None] = log.warning
    on_progress: Callable[[Progress], None] | None = None
    stop: threading.Event = field(default_factory=threading.Event)


def run_job(job: Job, path: Path, options: Options) -> Progress:
    """Run `job`, read from `path`, until SIGTERM, SIGINT or, with `until_caught_up`, the ends of its inputs.

    A backfill (see `config.backfill`) ends when all of its range is settled, or at the ends of its inputs.

    Raises StreamsampleError when it cannot go on. What was processed before is committed in every case but a failure,
    and then nothing is lost either: the next run begins at the last commit.
    """
    clock = SystemClock()
    with _locked(job.state_directory):
        shutil.rmtree(job.rows_directory, ignore_errors=True)  # of workers that were killed
        found = Copies(job.tasks_directory)
        progress = _run_many(job, path, options, clock) if options.workers > 1 else run_one(job, options, clock)
        if progress.tasks:
            found.remove_untouched()
        return progress


def run_one(job: Job, options: Options, clock: Clock, *, serve: bool = True) -> Progress:
    """One worker in this process."""
    keep_freed_memory()
    plan = plan_of(job)
    admin = TopicAdmin(job.kafka.options("admin"))
    server = None
    try:
        cluster = prepare(job, admin, clock.now_ms())
        for warning in cluster.warnings:
            options.on_warning(warning)
        registry = CollectorRegistry()
        metrics = Metrics(registry)
        metrics.build_info.labels(__version__, job.name, job.version).set(1)
        report = Report(plan, metrics)
        settings = WorkerSettings(
            name=f"{job.group}-{secrets.token_hex(3)}",
            until_caught_up=_ends(plan, admin, cluster) if options.until_caught_up or job.backfill else None,
        )
        worker = Worker(plan, cluster, admin, report, clock, settings, options.stop)
        if serve:
            server = _serve(job, worker, registry, clock)
            options.on_start(server.url)
        load_imported()
        _calm_garbage_collection()
        with _stopping_on_signals(worker.stop), _telling(report.progress, options.on_progress):
            worker.run()
        return report.progress
    finally:
        if server is not None:
            server.close()
        admin.close()


def _calm_garbage_collection() -> None:
    """Numba leaves some 10**6 objects behind that never die; to look at them again and again took a quarter of the
    loop's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _ends(plan: Plan, admin: TopicAdmin, cluster: Cluster) -> dict[TopicPartition, int]:
    counts = Layout(plan, cluster.partitions, cluster.origins).partitions
    return admin.latest([TopicPartition(topic, number) for topic, count in counts.items() for number in range(count)])


def _serve(job: Job, worker: Worker, registry: CollectorRegistry, clock: Clock) -> StatusServer:
    def live() -> str | None:
        stalled = clock.elapsed_ms() - worker.last_turn_ms
        return f"no progress for {stalled // 1000} s" if stalled > _STALLED_MS else None

    def ready() -> str | None:
        return None if worker.ready else "no task is assigned yet, or tasks are being restored"

    return StatusServer(job.metrics.host, job.metrics.port, registry, live, ready)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the state directory for this process. Raises ConfigurationError if another has it, or it cannot be had."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = open(directory / "lock", "a+")  # noqa: SIM115 - closed below
    except OSError as error:
        raise ConfigurationError(
            f"state.directory: {directory} cannot be used: {error.strerror}",
            remedy="name a directory that this user may write to",
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            handle.seek(0)
            raise ConfigurationError(
                f"state.directory: {directory} is in use by another process of this job ({handle.read().strip()})",
                remedy="use --workers N for more workers on this machine, or give this one a directory of its own",
            ) from error
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


@contextmanager
def _stopping_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT end the loop; a second one ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Any] = {}

    def handle(number: int, _: FrameType | None) -> None:
        for each, former in before.items():
            signal.signal(each, former)
        log.info("%s: committing and leaving the group", signal.Signals(number).name)
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _telling(progress: Progress, tell: Callable[[Progress], None] | None) -> Iterator[None]:
    """Call `tell` now and then while the body runs, and once at its end."""
    if tell is None:
        yield
        return
    over = threading.Event()

    def loop() -> None:
        while not over.wait(_STATUS_SECONDS):
            tell(progress)

    thread = threading.Thread(target=loop, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        tell(progress)


# -- several workers ----------------------------------------------------------------------------


def _run_many(job: Job, path: Path, options: Options, clock: Clock) -> Progress:
    """The parent of several worker processes: it serves the metrics of all. If one fails, all end."""
    admin = TopicAdmin(job.kafka.options("admin"))
    try:
        plan_of(job)
        cluster = prepare(job, admin, clock.now_ms())  # What is wrong is said once, not by each worker.
    finally:
        admin.close()
    for warning in cluster.warnings:
        options.on_warning(warning)
    folder = job.state_directory / "workers"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    members: list[_Member] = []

    def live() -> str | None:
        dead = [str(member.number) for member in members if member.stalled(clock)]
        return f"no progress in worker {', '.join(dead)}" if dead else None

    def ready() -> str | None:
        total = _sum([member.progress for member in members])
        if total.tasks and not total.restoring and all(member.heard_of for member in members):
            return None
        return "no task is assigned yet, or tasks are being restored"

    server = StatusServer(job.metrics.host, job.metrics.port, registry, live, ready)
    try:
        with _stopping_on_signals(options.stop.set):
            members += [_Member(job, path, folder, number, options) for number in range(options.workers)]
            options.on_start(server.url)
            return _attend(members, options.stop, options)
    finally:
        for member in members:
            member.end()
        server.close()


def _attend(members: list[_Member], stopping: threading.Event, options: Options) -> Progress:
    asked = False
    while any(member.running for member in members):
        if stopping.wait(_STATUS_SECONDS) and not asked:
            asked = True
            for member in members:
                member.ask_to_stop()
        total = _sum([member.progress for member in members])
        if options.on_progress is not None:
            options.on_progress(total)
        # One that is asked to stop while it still starts ends by the signal itself.
        fine = (None, 0, -signal.SIGTERM) if asked else (None, 0)
        failed = [member for member in members if member.exit_code not in fine]
        if failed:
            raise StreamsampleError(
                f"worker {failed[0].number} ended with exit code {failed[0].exit_code}",
                remedy="its own words are above",
            )
    return _sum([member.progress for member in members])


def _sum(parts: list[Progress]) -> Progress:
    total = Progress()
    for part in parts:
        for name, value in asdict(part).items():
            if name == "watermark_ms":
                known = [time for time in (total.watermark_ms, value) if time is not None]
                total.watermark_ms = min(known, default=None)
            else:
                setattr(total, name, getattr(total, name) + value)
    return total


class _Member:
    """A worker process, and what it wrote about itself."""

    def __init__(self, job: Job, path: Path, folder: Path, number: int, options: Options) -> None:
        self.number = number
        self._status = folder / f"worker-{number}.json"
        self._heard_ms = -1
        self._turn = -1
        until_caught_up = "1" if options.until_caught_up else "0"
        backfill = "" if job.backfill is None else json.dumps(asdict(job.backfill))
        arguments = [str(path), str(self._status), until_caught_up, str(os.getpid()), options.log_level, backfill]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "streamsample.runtime.member", *arguments],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
            start_new_session=True,  # Ctrl-C is for the parent: a worker takes a second signal as an order to die.
        )

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    @property
    def running(self) -> bool:
        return self.exit_code is None

    @property
    def heard_of(self) -> bool:
        return bool(self._read())

    @property
    def progress(self) -> Progress:
        return Progress(**self._read())

    def stalled(self, clock: Clock) -> bool:
        """Whether its loop has made no turn for too long."""
        turn, now = self.progress.turns, clock.elapsed_ms()
        if turn != self._turn or self._heard_ms < 0:
            self._turn, self._heard_ms = turn, now
        return now - self._heard_ms > _STALLED_MS

    def ask_to_stop(self) -> None:
        """Let it commit and leave."""
        if self.running:
            self._process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Ask, wait, and if need be kill."""
        self.ask_to_stop()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._status.read_text())
        except (OSError, ValueError):
            return {}
        return found
