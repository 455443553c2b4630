"""Is the installed kafka-python the one whose internals the columnar consumer was made for?"""

from __future__ import annotations

import importlib.metadata
import inspect
from functools import cache
from typing import Any

from streamsample.errors import UnsupportedClientError

LEAST, BELOW = (3, 0, 12), (3, 1)


@cache
def check_consumer_seam() -> None:
    """Check kafka-python's version, and that what `fetcher` and `transport` build upon has the shape they expect.

    Raises UnsupportedClientError, which names the version and what differs.
    """
    version = importlib.metadata.version("kafka-python")
    if not LEAST <= _numbers(version) < BELOW:
        raise _unsupported(version, "the version is not supported")
    try:
        found = _differences()
    except (ImportError, AttributeError) as error:
        raise _unsupported(version, str(error)) from error
    if found:
        raise _unsupported(version, "; ".join(found))


def _numbers(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def _unsupported(version: str, why: str) -> UnsupportedClientError:
    least, below = (".".join(map(str, numbers)) for numbers in (LEAST, BELOW))
    return UnsupportedClientError(
        f"kafka-python {version}: {why}", remedy=f'install it with: pip install "kafka-python>={least},<{below}"'
    )


def _differences() -> list[str]:
    """What differs from the expected shape. Parameters may be added behind those that are used."""
    from kafka import KafkaConsumer
    from kafka.consumer.fetcher import CompletedFetch, Fetcher
    from kafka.consumer.subscription_state import SubscriptionState, TopicPartitionState
    from kafka.coordinator.assignors.abstract import AbstractPartitionAssignor
    from kafka.coordinator.base import BaseCoordinator, Generation
    from kafka.coordinator.consumer import ConsumerCoordinator
    from kafka.net.compat import KafkaNetClient
    from kafka.net.manager import KafkaConnectionManager
    from kafka.net.transport import KafkaTCPTransport
    from kafka.protocol.consumer.metadata import ConsumerProtocolSubscription
    from kafka.protocol.frame import KafkaBytes
    from kafka.protocol.parser import KafkaProtocol
    from kafka.record.memory_records import MemoryRecords

    expected: dict[Any, list[str]] = {
        Fetcher.__init__: ["self", "client", "subscriptions", "configs"],
        Fetcher.fetch_records: ["self", "max_records", "update_offsets", "timeout_ms"],
        Fetcher.offsets_by_times: ["self", "timestamps", "timeout_ms"],
        Fetcher.maybe_validate_positions: ["self"],
        Fetcher.validate_offsets_if_needed: ["self", "timeout_ms"],
        Fetcher._handle_fetch_response: ["self", "node_id", "fetch_offsets", "send_time", "response"],
        Fetcher._parse_fetched_data: ["self", "completed_fetch"],
        Fetcher.PartitionRecords.__init__: ["self", "fetch_offset", "tp", "records"],
        Fetcher.PartitionRecords.take: ["self", "n"],
        Fetcher.PartitionRecords.drain: ["self"],
        ConsumerCoordinator.poll: ["self", "timeout_ms"],
        ConsumerCoordinator.need_rejoin: ["self"],
        ConsumerCoordinator.fetch_committed_offsets: ["self", "partitions", "timeout_ms"],
        ConsumerCoordinator._handle_metadata_update: ["self", "cluster"],
        BaseCoordinator.join_group_async: ["self", "timeout_ms"],
        BaseCoordinator.group_metadata: ["self"],
        Generation.is_lost: ["self"],
        SubscriptionState.is_fetchable: ["self", "partition"],
        SubscriptionState.position: ["self", "partition"],
        TopicPartitionState.seek: ["self", "offset"],
        KafkaNetClient.__init__: ["self", "net", "manager", "configs"],
        KafkaConnectionManager._build_transport: ["self", "node", "timeout_at"],
        KafkaConnectionManager._connect: ["self", "node", "conn"],
        KafkaTCPTransport._sock_recv: ["self"],
        KafkaTCPTransport.get_protocol: ["self"],
        KafkaProtocol._process_response: ["self", "read_buffer"],
        KafkaBytes.seek: ["self", "idx"],
        KafkaBytes.tell: ["self"],
        AbstractPartitionAssignor.assign: ["self", "cluster", "members"],
        AbstractPartitionAssignor.metadata: ["self", "topics"],
        AbstractPartitionAssignor.on_assignment: ["self", "assignment", "generation"],
    }
    found = []
    for function, names in expected.items():
        actual = list(inspect.signature(function).parameters)
        if actual[: len(names)] != names:
            found.append(f"{function.__qualname__} takes {', '.join(actual)}")
    lacks = {
        "CompletedFetch": {"topic_partition", "fetched_offset", "partition_data"} - set(CompletedFetch._fields),
        "KafkaProtocol": {"_rbuffer", "_receiving"} - vars(KafkaProtocol(client_id="")).keys(),
        "MemoryRecords": {"_buffer"} - set(MemoryRecords.__slots__),
        "KafkaConsumer": {"group_id", "isolation_level", "max_poll_records"} - KafkaConsumer.DEFAULT_CONFIG.keys(),
        "ConsumerProtocolSubscription": {"generation_id", "owned_partitions", "topics", "user_data"}
        - vars(ConsumerProtocolSubscription(version=2)).keys()
        - set(dir(ConsumerProtocolSubscription(version=2))),
    }
    found.extend(f"{name} lacks {', '.join(sorted(names))}" for name, names in lacks.items() if names)
    return found
