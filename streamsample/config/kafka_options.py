"""The options of kafka-python 3.0 that a job may set, and those that the job sets itself.

A static list: this room does not import kafka. A test compares it with the installed library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Client: TypeAlias = Literal["consumer", "producer", "admin"]
ALL_CLIENTS: tuple[Client, ...] = ("consumer", "producer", "admin")


@dataclass(frozen=True, slots=True)
class Option:
    """An option that a job may set.

    kind: the type of its value; "path" is text that is taken relative to the job file. secret: never shown.
    """

    kind: Literal["text", "int", "bool", "path"]
    meaning: str
    clients: tuple[Client, ...] = ALL_CLIENTS
    choices: tuple[str, ...] = ()
    secret: bool = False


_SECURITY_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI", "AWS_MSK_IAM")
_CONSUMER: tuple[Client, ...] = ("consumer",)

OPTIONS: dict[str, Option] = {
    "security_protocol": Option("text", "how the connection is secured", choices=_SECURITY_PROTOCOLS),
    "ssl_cafile": Option("path", "certificate authorities, PEM"),
    "ssl_certfile": Option("path", "the client's certificate, PEM"),
    "ssl_keyfile": Option("path", "the client's private key, PEM"),
    "ssl_password": Option("text", "password of the private key", secret=True),
    "ssl_crlfile": Option("path", "revoked certificates"),
    "ssl_check_hostname": Option("bool", "whether the certificate must name the broker's host"),
    "ssl_ciphers": Option("text", "ciphers in OpenSSL's notation", clients=("consumer", "producer")),
    "sasl_mechanism": Option("text", "how the client authenticates", choices=MECHANISMS),
    "sasl_plain_username": Option("text", "user name for PLAIN and SCRAM"),
    "sasl_plain_password": Option("text", "password for PLAIN and SCRAM", secret=True),
    "sasl_kerberos_name": Option("text", "principal for GSSAPI"),
    "sasl_kerberos_service_name": Option("text", "service name for GSSAPI"),
    "sasl_kerberos_domain_name": Option("text", "domain name for GSSAPI"),
    "client_id": Option("text", "what brokers' logs and quotas call this client"),
    "client_rack": Option("text", "rack, so that the nearest replica is read", clients=_CONSUMER),
    "client_dns_lookup": Option("text", "which addresses of a host name are tried"),
    "proxy_url": Option("text", "proxy for all connections", secret=True),
    "socks5_proxy": Option("text", "SOCKS5 proxy for all connections", secret=True),
    "bootstrap_timeout_ms": Option("int", "how long the first connection may take"),
    "connections_max_idle_ms": Option("int", "when idle connections are closed"),
    "metadata_max_age_ms": Option("int", "how often topics and leaders are asked for"),
    "reconnect_backoff_ms": Option("int", "pause before the first reconnection"),
    "reconnect_backoff_max_ms": Option("int", "longest pause between reconnections"),
    "request_timeout_ms": Option("int", "how long a request may take"),
    "receive_buffer_bytes": Option("int", "the socket's receive buffer"),
    "send_buffer_bytes": Option("int", "the socket's send buffer"),
    "receive_message_max_bytes": Option("int", "largest response that is accepted"),
    "fetch_min_bytes": Option("int", "least data a broker waits for", clients=_CONSUMER),
    "fetch_max_wait_ms": Option("int", "how long a broker waits for it", clients=_CONSUMER),
    "fetch_max_bytes": Option("int", "most data of one fetch", clients=_CONSUMER),
    "max_partition_fetch_bytes": Option("int", "most data of one fetch of one partition", clients=_CONSUMER),
    "session_timeout_ms": Option("int", "when a silent worker leaves the group", clients=_CONSUMER),
    "heartbeat_interval_ms": Option("int", "how often a worker reports to the group", clients=_CONSUMER),
    "max_poll_interval_ms": Option("int", "when a stuck worker leaves the group", clients=_CONSUMER),
    "enable_incremental_fetch_sessions": Option("bool", "whether fetches name only what changed", clients=_CONSUMER),
}

_EXACTLY_ONCE = "exactly once is the only guarantee, and it depends on it"
_BYTES = "records are read and written as bytes in columns"
_OBJECT = "it takes a Python object, which a job file cannot hold"
_OWN_METRICS = "streamsample exports its own metrics: see metrics"
_BATCHES = "whole record batches are built before the client sees them"

OWNED: dict[str, str] = {
    "group_id": "the consumer group is the job's name",
    "group_instance_id": "workers come and go as members of their own",
    "transactional_id": "each worker makes its own from the job's name",
    "isolation_level": f"read_committed always: {_EXACTLY_ONCE}",
    "enable_auto_commit": f"positions are committed with the output: {_EXACTLY_ONCE}",
    "auto_commit_interval_ms": "use commit_interval",
    "default_offset_commit_callback": "positions are committed with the output",
    "auto_offset_reset": "use start",
    "acks": f"all always: {_EXACTLY_ONCE}",
    "enable_idempotence": f"on always: {_EXACTLY_ONCE}",
    "retries": _EXACTLY_ONCE,
    "max_in_flight_requests_per_connection": _EXACTLY_ONCE,
    "transaction_timeout_ms": "it bounds how long a killed worker blocks its readers",
    "delivery_timeout_ms": "it must stay below the transaction timeout",
    "retry_backoff_ms": "it decides how long a commit takes",
    "max_block_ms": "the waits of a commit have limits of their own",
    "compression_type": "use output.compression",
    "batch_size": _BATCHES,
    "linger_ms": _BATCHES,
    "max_request_size": "it follows the output topic's max.message.bytes",
    "partitioner": "a record goes to the partition of its prediction",
    "partition_assignment_strategy": "partitions of the same number must come to the same worker",
    "key_serializer": _BYTES,
    "value_serializer": _BYTES,
    "key_deserializer": _BYTES,
    "value_deserializer": _BYTES,
    "check_crcs": "checksums are always checked",
    "max_poll_records": "whole fetches are processed",
    "consumer_timeout_ms": "use run --until-caught-up",
    "exclude_internal_topics": "topics are named, never matched",
    "allow_auto_create_topics": "a mistyped topic must be an error",
    "api_version": "the brokers are asked",
    "metrics_enabled": _OWN_METRICS,
    "metric_reporters": _OWN_METRICS,
    "metrics_num_samples": _OWN_METRICS,
    "metrics_sample_window_ms": _OWN_METRICS,
    "metric_group_prefix": _OWN_METRICS,
    "kafka_client": _OBJECT,
    "selector": _OBJECT,
    "socket_options": _OBJECT,
    "ssl_context": f"{_OBJECT}: use ssl_cafile, ssl_certfile and ssl_keyfile",
    "sasl_oauth_token_provider": _OBJECT,
}

JAVA_NAMES = {
    "bootstrap.servers": "bootstrap_servers",
    "sasl.jaas.config": "sasl_plain_username and sasl_plain_password",
    "sasl.username": "sasl_plain_username",
    "sasl.password": "sasl_plain_password",
    "sasl.mechanisms": "sasl_mechanism",
    "ssl.ca.location": "ssl_cafile",
    "ssl.certificate.location": "ssl_certfile",
    "ssl.key.location": "ssl_keyfile",
    "ssl.key.password": "ssl_password",
}
"""What other clients call some of them."""
