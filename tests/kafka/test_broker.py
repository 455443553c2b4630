from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient

from streamsample.errors import KafkaSideError
from streamsample.kafka.broker import (
    KAFKA_VERSION,
    LocalBroker,
    java_classpath,
    java_executable,
    start_detached,
    status_detached,
    stop_detached,
)
from tests.conftest import Broker, MakeTopic, create_topic

REPOSITORY = Path(__file__).parents[2]


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.02)


def send(address: str, topic: str, value: bytes) -> int:
    producer = KafkaProducer(bootstrap_servers=address)
    try:
        return int(producer.send(topic, value, partition=0).get(30).offset)
    finally:
        producer.close()


def read(address: str, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(bootstrap_servers=address, auto_offset_reset="earliest", enable_auto_commit=False)
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    found: list[bytes] = []
    try:

        def more() -> bool:
            found.extend(record.value for record in consumer.poll(200).get(partition, []))
            return len(found) >= count

        until(more)
    finally:
        consumer.close()
    return found


def process_state(pid: int) -> str:
    """One letter as Linux gives it: T for stopped, Z for a zombie, nothing for no process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def alive(pid: int) -> bool:
    return process_state(pid) not in ("", "Z")


def test_session_broker_takes_records(broker: Broker, topic: str) -> None:
    assert send(broker.bootstrap_servers, topic, b"x") == 0
    assert read(broker.bootstrap_servers, topic, 1) == [b"x"]


def test_topics_have_names_and_settings_of_their_own(broker: Broker, make_topic: MakeTopic) -> None:
    one, other = make_topic(2, "a", {"retention.ms": "-1"}), make_topic(3, "a")
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    described = {found["name"]: len(found["partitions"]) for found in admin.describe_topics([one, other])}
    admin.close()
    assert described == {one: 2, other: 3}


def test_kill_pause_and_restart_keep_port_and_data(own_broker: LocalBroker) -> None:
    address = own_broker.bootstrap_servers
    topic = create_topic(address, "kept", 1)
    send(address, topic, b"before")

    own_broker.kill()
    assert not own_broker.running
    own_broker.start()
    send(address, topic, b"after the kill")

    own_broker.pause()
    until(lambda: process_state(own_broker.pid) == "T")
    own_broker.resume()

    own_broker.restart()
    assert own_broker.bootstrap_servers == address
    assert read(address, topic, 2) == [b"before", b"after the kill"]
    log = own_broker.log_path
    own_broker.stop()
    own_broker.stop()  # Again does no harm.
    assert log.read_text().count("Kafka Server started") == 3


def test_a_directory_keeps_its_data(tmp_path: Path) -> None:
    with LocalBroker(tmp_path, properties={"num.partitions": "3"}) as first:
        topic = create_topic(first.bootstrap_servers, "kept", 1)
        send(first.bootstrap_servers, topic, b"x")
    with LocalBroker(tmp_path) as second:
        assert read(second.bootstrap_servers, topic, 1) == [b"x"]
        assert not (tmp_path / "controller.log").exists()
        second.kill()
        second.start()
        assert "Fencing broker 1" in (tmp_path / "controller.log").read_text()
        assert read(second.bootstrap_servers, topic, 1) == [b"x"]
    assert (tmp_path / "server.log").stat().st_size


def test_a_paused_broker_can_be_stopped() -> None:
    local = LocalBroker()
    local.start()
    pid = local.pid
    local.pause()
    local.stop()
    assert not alive(pid)


def test_a_failed_start_shows_the_log_and_leaves_nothing() -> None:
    local = LocalBroker(properties={"log.retention.ms": "many"})
    with pytest.raises(
        KafkaSideError, match=r"(?s)ended while starting.*Invalid value many.*log\.retention\.ms"
    ) as caught:
        local.start()
    assert str(local.log_path) in str(caught.value)
    assert not local.running
    local.stop()


def test_a_start_has_a_deadline() -> None:
    local = LocalBroker()
    with pytest.raises(KafkaSideError, match=r"not ready within 0\.1 s"):
        local.start(timeout_seconds=0.1)
    assert not local.running
    local.stop()


def test_before_the_first_start_there_is_no_address() -> None:
    local = LocalBroker()
    for ask in (lambda: local.bootstrap_servers, lambda: local.log_path, local.pause, local.resume):
        with pytest.raises(KafkaSideError, match="call start"):
            ask()
    local.kill()
    local.stop()


OWNER = """
import sys
from streamsample.kafka.broker import LocalBroker
local = LocalBroker()
local.start()
print(local.pid, local._directory, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_the_broker_ends_with_its_owner(how: signal.Signals) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, cwd=REPOSITORY, start_new_session=True,
    )  # fmt: skip
    assert owner.stdin
    assert owner.stdout
    pid, folder = owner.stdout.readline().split()
    assert alive(int(pid))
    os.killpg(owner.pid, how)
    owner.wait(30)
    until(lambda: not alive(int(pid)))
    until(lambda: not Path(folder).exists())
    owner.stdin.close()
    owner.stdout.close()


def test_a_killed_keeper_takes_the_broker_along() -> None:
    local = LocalBroker()
    local.start()
    pid = local.pid
    assert local._keeper
    local._keeper.kill()
    until(lambda: not alive(pid))
    local.stop()


STARTER = """
import sys
from pathlib import Path
from streamsample.kafka.broker import start_detached
print(start_detached(Path(sys.argv[1])))
"""


def test_detached_start_status_stop(tmp_path: Path) -> None:
    assert status_detached(tmp_path) is None
    assert not stop_detached(tmp_path)
    try:
        done = subprocess.run(
            [sys.executable, "-c", STARTER, tmp_path], capture_output=True, text=True, check=True, cwd=REPOSITORY
        )
        address = done.stdout.strip()
        status = status_detached(tmp_path)
        assert status
        assert status.bootstrap_servers == address
        assert alive(status.pid)
        assert start_detached(tmp_path) == address  # Starting again finds it.
        send(address, create_topic(address, "x", 1), b"x")
    finally:
        stopped = stop_detached(tmp_path)
    assert stopped
    assert not alive(status.pid)
    assert status_detached(tmp_path) is None


def test_java_programs_run_from_their_coordinates() -> None:
    classpath = java_classpath(f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}")
    done = subprocess.run(
        [java_executable(), "-cp", classpath, "org.apache.kafka.tools.ConsumerPerformance", "--version"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert KAFKA_VERSION in done.stdout
