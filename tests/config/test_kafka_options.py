"""The static list of kafka-python's options against the installed library."""

from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from streamsample.config import parse_job
from streamsample.config.kafka_options import ALL_CLIENTS, OPTIONS, OWNED
from streamsample.errors import ConfigurationError
from tests.config.test_load import SMALL

CLIENTS: dict[str, Any] = {"consumer": KafkaConsumer, "producer": KafkaProducer, "admin": KafkaAdminClient}


def test_every_option_of_kafka_python_is_allowed_or_owned() -> None:
    known = {name for client in CLIENTS.values() for name in client.DEFAULT_CONFIG} - {"bootstrap_servers"}
    assert set(OPTIONS) | set(OWNED) == known
    assert not set(OPTIONS) & set(OWNED)


def test_each_option_goes_to_the_clients_that_have_it() -> None:
    for name, option in OPTIONS.items():
        assert set(option.clients) == {client for client in ALL_CLIENTS if name in CLIENTS[client].DEFAULT_CONFIG}, name


def kafka(options: str) -> Any:
    return parse_job(SMALL.replace('"localhost:9092"', f'"a:1, [::1]:2", {options}')).kafka


def test_options_by_client() -> None:
    section = kafka("fetch_max_wait_ms: 5, client_id: me, ssl_check_hostname: false, ssl_ciphers: x")
    assert section.options("consumer") == {
        "bootstrap_servers": ["a:1", "[::1]:2"],
        "fetch_max_wait_ms": 5,
        "client_id": "me",
        "ssl_check_hostname": False,
        "ssl_ciphers": "x",
    }
    assert set(section.options("producer")) == {"bootstrap_servers", "client_id", "ssl_check_hostname", "ssl_ciphers"}
    assert set(section.options("admin")) == {"bootstrap_servers", "client_id", "ssl_check_hostname"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("isolation_level: x", "read_committed always"),
        ("enable_auto_commit: true", "exactly once"),
        ("transactional_id: x", "each worker makes its own"),
        ("acks: 1", "exactly once"),
        ("key_serializer: x", "bytes in columns"),
        ("auto_offset_reset: latest", "use start"),
        ("compression_type: lz4", "use output.compression"),
        ("ssl_context: x", "Python object"),
        ("security.protocol: SSL", "did you mean security_protocol?"),
        ("sasl.password: x", "did you mean sasl_plain_password?"),
        ("fetch_min_byte: 1", "did you mean fetch_min_bytes?"),
        ("fetch_min_bytes: x", "must be a whole number"),
        ("fetch_min_bytes: -1", "must be >= 0"),
        ("ssl_check_hostname: 1", "must be true or false"),
        ("security_protocol: TLS", "must be PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"),
        ("sasl_mechanism: PLAIN", "has no effect without a SASL protocol"),
        ("security_protocol: SASL_SSL", "needs sasl_mechanism"),
        (
            "security_protocol: SASL_SSL, sasl_mechanism: PLAIN, sasl_plain_username: u",
            "PLAIN needs sasl_plain_password",
        ),
        ("ssl_certfile: x", "needs ssl_keyfile too"),
        ("client_id: 5", "must be text"),
    ],
)
def test_options_that_are_refused(options: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        kafka(options)
    assert words in str(caught.value)


@pytest.mark.parametrize("servers", ['""', "5", "[]", '"a:b"', '"a:99999"', '"a:1,"', '"http://a:1"', "[a, 5]"])
def test_addresses_that_are_none(servers: str) -> None:
    with pytest.raises(ConfigurationError, match=r"kafka\.bootstrap_servers: "):
        parse_job(SMALL.replace('"localhost:9092"', servers))
