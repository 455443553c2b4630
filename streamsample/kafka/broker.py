"""A real Apache Kafka on this machine, for tests, demo and benchmarks: one node, no Docker, no Java to install."""

from __future__ import annotations

import atexit
import base64
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from streamsample.errors import KafkaSideError
from streamsample.kafka.fencing import READY, fence_killed, kept, wait, wait_for_line, was_killed
from streamsample.kafka.java import cache_folder, java_classpath, java_executable, locked

__all__ = [
    "KAFKA_VERSION",
    "BrokerStatus",
    "LocalBroker",
    "java_classpath",
    "java_executable",
    "start_detached",
    "status_detached",
    "stop_detached",
]

KAFKA_VERSION = "4.3.1"
# Kafka brings no binding for its logging interface; this one writes to stderr.
KAFKA = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
HOST = "127.0.0.1"
DEFAULT_PORT = 9092
START_SECONDS = 60
STOP_SECONDS = 15
KEPT_LOGS = 20
# Below the ephemeral range, so that no client's connection takes the port while the broker is down.
FREE_PORTS = range(20_000, 32_000)

SETTINGS: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    # One node votes for itself: waiting for others only delays the start.
    "controller.quorum.election.timeout.ms": "100",
    "controller.quorum.append.linger.ms": "5",
    # There is no other broker to take over. A short session only fences one that was paused (see `fencing`).
    "broker.session.timeout.ms": "600000",
    "broker.heartbeat.interval.ms": "500",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "2",
    "group.initial.rebalance.delay.ms": "0",
    "group.coordinator.rebalance.protocols": "classic,consumer",
    "group.min.session.timeout.ms": "1000",
    # A killed worker's transaction ends within a second of its time-out, not within ten.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "auto.create.topics.enable": "false",
    "num.network.threads": "2",
    "num.io.threads": "4",
    # The default, 128 MB, would be half of the heap.
    "log.cleaner.dedupe.buffer.size": "16777216",
    "log.segment.delete.delay.ms": "1000",
}

JVM = (
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config=warn",
)

SHORT_LIVED_JVM = ("-XX:TieredStopAtLevel=1",)


class LocalBroker:
    """Apache Kafka 4.3.1 in one process, combined KRaft mode, on free ports of 127.0.0.1.

    `directory` holds data, settings and log, and stays; without one, a temporary folder that goes with the broker,
    while its log is kept in `log_path` (the newest 20 of them). `heap` is Java's -Xmx; `properties` override SETTINGS.
    `port` is the one to listen on, 0 for a free one; it stays the same over restarts. `short_lived`: Java compiles
    less, which halves the CPU that the first minute costs. The broker ends with this process, however that ends.
    """

    def __init__(
        self,
        directory: Path | None = None,
        heap: str = "256m",
        properties: dict[str, str] | None = None,
        *,
        port: int = 0,
        short_lived: bool = False,
    ) -> None:
        self._temporary = directory is None
        self._directory = directory
        self._heap = heap
        self._short_lived = short_lived
        self._properties = dict(properties or {})
        self._port = port
        self._controller_port = 0
        self._log_path: Path | None = None
        self._keeper: subprocess.Popen[str] | None = None
        self._pid = 0

    @property
    def bootstrap_servers(self) -> str:
        """`127.0.0.1:port`. Raises KafkaSideError before the first start."""
        if not self._port:
            raise KafkaSideError("the local broker has no address yet", remedy="call start() first")
        return f"{HOST}:{self._port}"

    @property
    def log_path(self) -> Path:
        """The broker's log, appended to by each start."""
        if self._log_path is None:
            raise KafkaSideError("the local broker has no log yet", remedy="call start() first")
        return self._log_path

    @property
    def pid(self) -> int:
        """The process id of Java. Raises KafkaSideError if it does not run."""
        if not self.running:
            raise KafkaSideError("the local broker does not run", remedy="call start() first")
        return self._pid

    @property
    def running(self) -> bool:
        """Whether the process is there (ready or not, paused or not)."""
        return self._keeper is not None and self._keeper.poll() is None

    def start(self, timeout_seconds: float = START_SECONDS) -> None:
        """Start and wait until ready (3-5 s once fetched). Raises KafkaSideError with the end of the log."""
        if self.running:
            return
        command = self._prepare(timeout_seconds)
        before = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self._keeper = subprocess.Popen(
                kept(command, str(self._directory) if self._temporary else ""),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for us; we stop the broker when we are done with it.
            )
        atexit.register(self._stop_at_exit, os.getpid())
        try:
            assert self._keeper.stdout is not None
            self._pid = int(self._keeper.stdout.readline() or 0)
            wait_for_line(self.log_path, before, READY, lambda: self.running, timeout_seconds)
        except BaseException:
            self._end(signal.SIGKILL)
            raise

    def stop(self) -> None:
        """Shut down in good order; killed if that takes longer than 15 s. A temporary folder is deleted."""
        self._end(signal.SIGTERM)
        atexit.unregister(self._stop_at_exit)
        if self._temporary and self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, no one is told. `start` brings it back on the same port with the same data."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop in good order, if it runs, and start again: same port, same data."""
        self._end(signal.SIGTERM)
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered, until `resume`."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> LocalBroker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _prepare(self, timeout_seconds: float) -> list[str]:
        """Give the broker its folder, ports and settings; the command to run."""
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="streamsample-broker-"))
        if self._log_path is None:
            self._log_path = _new_log() if self._temporary else self._directory / "server.log"
        self._port = self._port or _free_port()
        self._controller_port = self._controller_port or _free_port(beside=self._port)
        java, *arguments = _prepare_folder(
            self._directory,
            (self._port, self._controller_port),
            self._heap,
            self._properties,
            timeout_seconds,
        )
        return [java, *(SHORT_LIVED_JVM if self._short_lived else ()), *arguments]

    def _end(self, how: signal.Signals) -> None:
        if self._keeper is None:
            return
        if self.running and self._pid:
            _signal(self._pid, how)
            _signal(self._pid, signal.SIGCONT)  # A paused process hears SIGTERM only when it goes on.
            try:
                self._keeper.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                _signal(self._pid, signal.SIGKILL)
        elif self.running:
            self._keeper.kill()
        self._keeper.wait()
        if self._keeper.stdout is not None:
            self._keeper.stdout.close()
        self._keeper = None
        self._pid = 0

    def _stop_at_exit(self, owner: int) -> None:
        if os.getpid() == owner:  # A forked child runs its parent's exit handlers too.
            self.stop()


@dataclass(frozen=True, slots=True)
class BrokerStatus:
    """A broker that runs on its own: process id, address, folder and log."""

    pid: int
    bootstrap_servers: str
    directory: str
    log: str


def start_detached(directory: Path | None = None, heap: str = "256m", timeout_seconds: float = START_SECONDS) -> str:
    """Start a broker that outlives this process, or find the one that runs; its `bootstrap_servers`.

    `directory`: by default $XDG_STATE_HOME/streamsample/broker (~/.local/state). Listens on 9092, if that is free.
    Raises KafkaSideError with the end of the log.
    """
    folder = _detached_folder(directory)
    with locked(folder / "lock"):
        if (found := status_detached(folder)) is not None:
            return found.bootstrap_servers
        port = DEFAULT_PORT if _is_free(DEFAULT_PORT) else _free_port()
        log_path = folder / "server.log"
        command = _prepare_folder(folder, (port, _free_port(beside=port)), heap, {}, timeout_seconds)
        before = log_path.stat().st_size if log_path.exists() else 0
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, close_fds=True
            )
        status = BrokerStatus(process.pid, f"{HOST}:{port}", str(folder), str(log_path))
        try:
            (folder / "broker.json").write_text(json.dumps(asdict(status)))
            wait_for_line(log_path, before, READY, lambda: process.poll() is None, timeout_seconds)
        except BaseException:
            process.kill()
            process.wait()
            raise
    return status.bootstrap_servers


def status_detached(directory: Path | None = None) -> BrokerStatus | None:
    """The broker that `start_detached` left running, or None."""
    folder = _detached_folder(directory)
    try:
        status = BrokerStatus(**json.loads((folder / "broker.json").read_text()))
    except FileNotFoundError:
        return None
    return status if _runs(status) else None


def stop_detached(directory: Path | None = None) -> bool:
    """Stop the broker that `start_detached` left running, keeping its data. False if none ran."""
    status = status_detached(directory)
    if status is None:
        return False
    _signal(status.pid, signal.SIGTERM)
    _signal(status.pid, signal.SIGCONT)
    if not wait(lambda: not _runs(status), STOP_SECONDS):
        _signal(status.pid, signal.SIGKILL)
        wait(lambda: not _runs(status), STOP_SECONDS)
    return True


def _detached_folder(directory: Path | None) -> Path:
    return directory.absolute() if directory is not None else _state_folder() / "broker"


def _state_folder() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "streamsample"


def _new_log() -> Path:
    """A log file of its own for a temporary broker, beside the newest of the earlier ones."""
    folder = _state_folder() / "broker-logs"
    folder.mkdir(parents=True, exist_ok=True)
    found = [(path.stat().st_mtime, path) for path in folder.glob("*.log")]
    for _, path in sorted(found)[: -KEPT_LOGS + 1]:
        path.unlink(missing_ok=True)
    return next(path for number in itertools.count() if not (path := folder / f"{os.getpid()}-{number}.log").exists())


def _prepare_folder(
    directory: Path, ports: tuple[int, int], heap: str, properties: Mapping[str, str], timeout_seconds: float
) -> list[str]:
    """Write the settings, format the data folder if it is new, fence a broker that was killed in it, and return the
    command that runs the broker.
    """
    port, controller_port = ports
    data = directory / "data"
    data.mkdir(parents=True, exist_ok=True)
    settings = {
        **SETTINGS,
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
        "log.dirs": str(data),
        **properties,
    }
    path = directory / "server.properties"
    path.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    classpath = java_classpath(KAFKA)
    if not (data / "meta.properties").exists():
        _format(data, classpath)
    java = [str(java_executable()), f"-Xmx{heap}", *JVM, "-cp", classpath, "kafka.Kafka"]
    if was_killed(data):
        fence_killed(java, settings, directory, timeout_seconds)
    return [*java, str(path)]


def _format(data: Path, classpath: str) -> None:
    """What `kafka-storage format` does, without starting Java for it each time.

    The file with the cluster's first feature levels depends on Kafka's version only: the tool makes it once, then it
    is copied.
    """
    first_levels = cache_folder() / "java" / f"kafka-{KAFKA_VERSION}.bootstrap.checkpoint"
    with locked(first_levels.with_suffix(".lock")):
        if not first_levels.exists():
            _make_first_levels(first_levels, classpath)
    shutil.copyfile(first_levels, data / "bootstrap.checkpoint")
    (data / "meta.properties").write_text(
        f"version=1\ncluster.id={_kafka_uuid()}\nnode.id=1\ndirectory.id={_kafka_uuid()}\n"
    )


def _make_first_levels(target: Path, classpath: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "server.properties"
        data = Path(folder) / "data"
        listener = f"{HOST}:{DEFAULT_PORT}"
        settings.write_text(
            "process.roles=broker,controller\nnode.id=1\ncontroller.listener.names=CONTROLLER\n"
            f"controller.quorum.voters=1@{listener}\nlog.dirs={data}\n"
            f"listeners=CONTROLLER://{listener},PLAINTEXT://{HOST}:{DEFAULT_PORT + 1}\n"
        )
        tool = ["kafka.tools.StorageTool", "format", "--cluster-id", _kafka_uuid(), "--config", str(settings)]
        java = [str(java_executable()), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", classpath]
        done = subprocess.run([*java, *tool], capture_output=True, text=True, check=False)
        if done.returncode:
            raise KafkaSideError(
                f"Apache Kafka's storage tool failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}",
                remedy=f"delete {target.parent} and try again",
            )
        partial = target.with_suffix(".partial")
        shutil.copyfile(data / "bootstrap.checkpoint", partial)
        partial.rename(target)


def _kafka_uuid() -> str:
    """A random id as Kafka writes it: 22 characters of URL-safe base64, the first not a dash."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _free_port(beside: int | None = None) -> int:
    """A port that no one listens on, at random, so that processes that ask at the same time get different ones; another
    than `beside`.
    """
    for port in random.SystemRandom().sample(FREE_PORTS, 1000):
        if port != beside and _is_free(port):
            return port
    raise KafkaSideError(f"no free port in {FREE_PORTS.start}-{FREE_PORTS.stop - 1} of {HOST}")


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _runs(status: BrokerStatus) -> bool:
    """Whether the process is there and still that broker (process ids are used again)."""
    try:
        os.kill(status.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    listing = Path(f"/proc/{status.pid}/cmdline")
    if listing.exists():
        command = listing.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    else:
        ps = ["ps", "-ww", "-o", "command=", "-p", str(status.pid)]
        command = subprocess.run(ps, capture_output=True, text=True, check=False).stdout
    return "kafka.Kafka" in command and status.directory in command
