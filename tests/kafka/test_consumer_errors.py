"""What the consumer refuses, and that foreign errors reach nobody: each becomes one of ours."""

from __future__ import annotations

import kafka.errors as kafka_errors
import pytest
from kafka.consumer.fetcher import Fetcher

from streamsample import errors
from streamsample.errors import ConfigurationError, KafkaSideError, RetentionError, TopicError, UnsupportedClientError
from streamsample.kafka import seam
from streamsample.kafka.consumer import ColumnarConsumer
from streamsample.kafka.foreign_errors import translate
from streamsample.records import TopicPartition
from tests.conftest import Broker


def test_each_foreign_error_becomes_one_of_ours() -> None:
    cases = {
        kafka_errors.UnknownMemberIdError: errors.FencedError,
        kafka_errors.IllegalGenerationError: errors.FencedError,
        kafka_errors.UnknownTopicOrPartitionError: TopicError,
        kafka_errors.TopicAuthorizationFailedError: TopicError,
        kafka_errors.GroupAuthorizationFailedError: KafkaSideError,
        kafka_errors.SaslAuthenticationFailedError: KafkaSideError,
        kafka_errors.KafkaConnectionError: errors.UnreachableError,
        kafka_errors.KafkaTimeoutError: errors.UnreachableError,
        kafka_errors.KafkaConfigurationError: ConfigurationError,
        kafka_errors.UnsupportedVersionError: UnsupportedClientError,
        kafka_errors.UnknownError: KafkaSideError,
    }
    for foreign, ours in cases.items():
        found = translate(foreign("why"), "reading")
        assert type(found) is ours
        assert "reading" in str(found)
        assert foreign.__name__ in str(found)
    assert type(translate(kafka_errors.LogTruncationError({}), "reading")) is RetentionError


def test_options_that_are_not_the_callers_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="isolation_level: set by streamsample"):
        ColumnarConsumer({"bootstrap_servers": "localhost:1", "isolation_level": "read_uncommitted"})
    with pytest.raises(ConfigurationError, match="colour"):
        ColumnarConsumer({"bootstrap_servers": "localhost:1", "colour": "blue"})


def test_no_broker_is_an_error_of_ours() -> None:
    with pytest.raises(KafkaSideError, match="bootstrap_servers"):
        ColumnarConsumer({"bootstrap_servers": "127.0.0.1:1", "bootstrap_timeout_ms": 300})


def test_a_topic_that_does_not_exist_is_an_error_of_ours(broker: Broker) -> None:
    connection = {"bootstrap_servers": broker.bootstrap_servers}
    with ColumnarConsumer(connection, request_timeout_ms=1000) as consumer, pytest.raises(KafkaSideError):
        consumer.end_offsets([TopicPartition("no.such.topic", 0)])


def test_a_group_is_needed_for_what_groups_do(broker: Broker) -> None:
    with ColumnarConsumer({"bootstrap_servers": broker.bootstrap_servers}) as consumer:
        with pytest.raises(ConfigurationError):
            consumer.subscribe(["t"])
        with pytest.raises(ConfigurationError):
            consumer.group_metadata()


@pytest.fixture
def _unchecked() -> None:
    seam.check_consumer_seam.cache_clear()


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("version", ["2.3.1", "3.0.11", "3.1.0", "4.0.0"])
def test_another_version_of_the_library_is_named(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    with pytest.raises(UnsupportedClientError, match=f"kafka-python {version}"):
        seam.check_consumer_seam()


@pytest.mark.usefixtures("_unchecked")
def test_other_internals_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    seam.check_consumer_seam()
    seam.check_consumer_seam.cache_clear()
    monkeypatch.setattr(Fetcher, "_parse_fetched_data", lambda self, other: None)
    with pytest.raises(UnsupportedClientError, match="takes self, other"):
        seam.check_consumer_seam()
    seam.check_consumer_seam.cache_clear()
    monkeypatch.delattr(Fetcher, "_handle_fetch_response")
    with pytest.raises(UnsupportedClientError, match="_handle_fetch_response"):
        seam.check_consumer_seam()
