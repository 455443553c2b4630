"""The reference of jobs that sample: a loop over kafka-python and fastavro, record by record, exactly once."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.processes import Stopwatch

Decide = Callable[[dict[str, Any], bytes, bytes], Iterable[tuple[bytes, bytes]]]
"""From an event, its key and its value to the keys and values to be written."""


def run_loop(servers: str, topic: str, name: str, records: int, decide: Decide) -> dict[str, float]:
    """Read impressions, write what `decide` says to `<name>.out`, commit once a second with the group's positions."""
    import fastavro
    from kafka import KafkaConsumer, KafkaProducer
    from kafka.structs import OffsetAndMetadata

    from benchmarks.data import IMPRESSION

    schema = fastavro.parse_schema(IMPRESSION)
    consumer: Any = KafkaConsumer(
        topic, bootstrap_servers=servers, group_id=name, auto_offset_reset="earliest", enable_auto_commit=False,
        isolation_level="read_committed",
    )  # fmt: skip
    producer: Any = KafkaProducer(
        bootstrap_servers=servers, transactional_id=name, compression_type="lz4", linger_ms=20
    )
    producer.init_transactions()
    while not consumer.assignment():
        consumer.poll(timeout_ms=100, max_records=1)
    consumer.seek_to_beginning()
    watch, read = Stopwatch(), 0
    producer.begin_transaction()
    committed = time.monotonic()
    while read < records:
        positions = {}
        for partition, found in consumer.poll(timeout_ms=1000, max_records=2000).items():
            for record in found:
                event = fastavro.schemaless_reader(io.BytesIO(record.value), schema)
                for key, value in decide(event, record.key, record.value):
                    producer.send(f"{name}.out", key=key, value=value)
            read += len(found)
            positions[partition] = OffsetAndMetadata(found[-1].offset + 1, "", -1)
        producer.send_offsets_to_transaction(positions, consumer.group_metadata())
        if time.monotonic() - committed > 1 or read >= records:
            producer.commit_transaction()
            producer.begin_transaction()
            committed = time.monotonic()
    figures = watch.figures(read)
    producer.abort_transaction()
    producer.close()
    consumer.close(autocommit=False)
    return figures
