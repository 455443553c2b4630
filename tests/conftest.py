"""The brokers that the tests run against, and the rule that a run without them is no run.

`broker`: one for the whole session. The one at STREAMSAMPLE_TEST_BROKER, or a container if a Docker engine answers,
or a local one. `own_broker`, `module_broker`: a local one of the test's, or module's, own, to be killed and paused.
`make_topic` makes topics with names of their own, so that tests do not meet on the shared broker.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import pytest
from hypothesis import settings
from kafka.admin import KafkaAdminClient, NewTopic

from streamsample.kafka.broker import KAFKA_VERSION, LocalBroker

ADDRESS_VARIABLE = "STREAMSAMPLE_TEST_BROKER"
BROKER_FIXTURES = {"broker", "own_broker", "module_broker"}
MakeTopic = Callable[..., str]


class Broker(Protocol):
    """What a test may rely on."""

    @property
    def bootstrap_servers(self) -> str: ...


@dataclass(frozen=True)
class _RunningBroker:
    bootstrap_servers: str


class _Kind:
    """Which broker the session uses, and what became of the tests that need it: a plugin that sees all reports, those
    of other processes (pytest -n) too.
    """

    def __init__(self) -> None:
        self.address = os.environ.get(ADDRESS_VARIABLE, "")
        self.docker = not self.address and _docker_answers()
        self.met = 0
        self.passed = 0
        self.skipped: list[str] = []

    def __str__(self) -> str:
        if self.address:
            return f"{self.address} ({ADDRESS_VARIABLE})"
        return f"Apache Kafka {KAFKA_VERSION} in a container" if self.docker else f"local Apache Kafka {KAFKA_VERSION}"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        needs_broker = "broker" in report.keywords
        self.met += needs_broker and report.when == "setup"
        self.passed += needs_broker and report.when == "call" and report.passed
        if report.skipped and not hasattr(report, "wasxfail"):
            self.skipped.append(report.nodeid)


# The same examples in every run, however slow the machine is.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

KIND = pytest.StashKey[_Kind]()


def _docker_answers() -> bool:
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=2)
    except DockerException:
        return False
    try:
        return bool(client.ping())
    except DockerException:
        return False
    finally:
        client.close()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[KIND] = _Kind()
    config.pluginmanager.register(config.stash[KIND])


def pytest_report_header(config: pytest.Config) -> str:
    return f"broker: {config.stash[KIND]}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if BROKER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.broker)


def _whole_suite(config: pytest.Config) -> bool:
    narrowed = any(config.getoption(name, None) for name in ("keyword", "markexpr", "deselect", "ignore", "lf"))
    return config.args_source == pytest.Config.ArgsSource.TESTPATHS and not narrowed


def _complaints(config: pytest.Config) -> list[str]:
    """Why this run does not count although no test failed."""
    if hasattr(config, "workerinput"):  # one of several processes: the first one judges
        return []
    kind = config.stash[KIND]
    found = [f"skipped, which no test may be: {name}" for name in kind.skipped]
    if kind.passed == 0 and (kind.met or _whole_suite(config)):
        found.append("no test against a real broker has passed")
    return found


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.OK and not session.config.option.collectonly and _complaints(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    kind = config.stash[KIND]
    terminalreporter.write_line(f"broker tests: {kind.passed} of {kind.met} passed, on {kind}")
    if not config.option.collectonly:
        for complaint in _complaints(config):
            terminalreporter.write_line(f"FAILED: {complaint}", red=True)


@pytest.fixture(scope="session")
def broker(pytestconfig: pytest.Config) -> Iterator[Broker]:
    """The session's broker; shared, so it is never stopped, and topics are made by `make_topic`."""
    kind = pytestconfig.stash[KIND]
    if kind.address:
        yield _RunningBroker(kind.address)
    elif kind.docker:
        from testcontainers.kafka import KafkaContainer

        with KafkaContainer(f"apache/kafka:{KAFKA_VERSION}").with_kraft() as container:
            yield _RunningBroker(container.get_bootstrap_server())
    else:
        with LocalBroker(short_lived=True) as local:
            yield local


@pytest.fixture
def own_broker() -> Iterator[LocalBroker]:
    """A local broker for this test alone, to be killed, paused and restarted."""
    with LocalBroker(short_lived=True) as local:
        yield local


@pytest.fixture(scope="module")
def module_broker() -> Iterator[LocalBroker]:
    """A local broker for one module; each test leaves it running."""
    with LocalBroker(short_lived=True) as local:
        yield local


def create_topic(bootstrap_servers: str, name: str, partitions: int = 4, config: dict[str, str] | None = None) -> str:
    """Make a topic and return its name. Event times are old, so retention deletes nothing unless `config` says so."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap_servers)
    try:
        admin.create_topics([NewTopic(name, partitions, 1, topic_configs={"retention.ms": "-1", **(config or {})})])
    finally:
        admin.close()
    return name


def unique_name(request: pytest.FixtureRequest, word: str = "") -> str:
    """A topic, group or job name that no other test, run or time has used."""
    parts = [re.sub(r"[^a-zA-Z0-9-]+", "-", request.node.name)[:60].strip("-"), word, uuid.uuid4().hex[:8]]
    return ".".join(part for part in parts if part)


@pytest.fixture
def make_topic(request: pytest.FixtureRequest) -> MakeTopic:
    """`make_topic(partitions=4, word="", config=None, on=None)`: a new topic's name; `on`: another broker."""

    def make(
        partitions: int = 4, word: str = "", config: dict[str, str] | None = None, on: Broker | None = None
    ) -> str:
        where: Broker = on or request.getfixturevalue("broker")
        return create_topic(where.bootstrap_servers, unique_name(request, word), partitions, config)

    return make


@pytest.fixture
def topic(broker: Broker, request: pytest.FixtureRequest) -> str:
    """A new topic of 4 partitions on the session's broker."""
    return create_topic(broker.bootstrap_servers, unique_name(request))
