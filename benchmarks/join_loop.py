"""The join as a plain Python program writes it: a dict of rows, kafka-python, fastavro, one transaction a second.

Simpler than the job: one label, no changelog (it forgets its open rows when it is killed), no checks.
"""

from __future__ import annotations

import io
import time
from collections import deque
from typing import Any

from benchmarks.processes import Stopwatch

WINDOW_MS = 600_000
GRACE_MS = 5_000
_COMMIT_SECONDS = 1
_MIN = -(2**62)

OUTPUT: dict[str, Any] = {
    "type": "record",
    "name": "Training",
    "fields": [
        {"name": "features", "type": "bytes"},
        {"name": "label", "type": "long"},
        {"name": "explicit", "type": "boolean"},
        {"name": "delay_ms", "type": ["null", "long"]},
    ],
}


class Join:
    """Of one partition number. Rows lie in the order of their time, as predictions come."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Any]] = {}
        self.order: deque[tuple[int, str]] = deque()
        self.early: dict[str, int] = {}
        self.levels = {"impressions": _MIN, "clicks": _MIN}

    def prediction(self, key: str, served_ms: int, value: bytes) -> None:
        if key in self.rows:
            return
        clicked_ms = self.early.pop(key, None)
        self.rows[key] = [served_ms, value, clicked_ms]
        self.order.append((served_ms, key))
        self.levels["impressions"] = max(self.levels["impressions"], served_ms)

    def click(self, key: str, clicked_ms: int) -> None:
        row = self.rows.get(key)
        if row is None:
            self.early.setdefault(key, clicked_ms)
        elif row[2] is None and 0 <= clicked_ms - row[0] <= WINDOW_MS:
            row[2] = clicked_ms
        self.levels["clicks"] = max(self.levels["clicks"], clicked_ms)

    def closed(self) -> list[tuple[str, list[Any]]]:
        """The rows whose windows have closed."""
        before = min(self.levels.values()) - WINDOW_MS - GRACE_MS
        found = []
        while self.order and self.order[0][0] < before:
            _, key = self.order.popleft()
            found.append((key, self.rows.pop(key)))
        return found


def run(servers: str, prefix: str, output: str, group: str, records: int, expected: int) -> dict[str, float]:
    """Join `<prefix>.impressions` and `<prefix>.clicks` until `records` were read; `expected` must be written."""
    import fastavro
    from kafka import KafkaConsumer, KafkaProducer
    from kafka.structs import OffsetAndMetadata

    from benchmarks.data import CLICK, IMPRESSION

    shown, clicked = fastavro.parse_schema(IMPRESSION), fastavro.parse_schema(CLICK)
    written = fastavro.parse_schema(OUTPUT)
    consumer: Any = KafkaConsumer(
        f"{prefix}.impressions",
        f"{prefix}.clicks",
        bootstrap_servers=servers,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    producer: Any = KafkaProducer(
        bootstrap_servers=servers, transactional_id=group, compression_type="lz4", linger_ms=20, batch_size=64 * 1024
    )
    producer.init_transactions()
    while not consumer.assignment():
        consumer.poll(timeout_ms=100, max_records=1)
    consumer.seek_to_beginning()
    joins: dict[int, Join] = {}
    watch, read, wrote = Stopwatch(), 0, 0
    positions: dict[Any, Any] = {}
    producer.begin_transaction()
    committed = time.monotonic()
    while read < records:
        for partition, found in consumer.poll(timeout_ms=1000, max_records=2000).items():
            join = joins.setdefault(partition.partition, Join())
            for record in found:
                if partition.topic.endswith("impressions"):
                    event: Any = fastavro.schemaless_reader(io.BytesIO(record.value), shown)
                    join.prediction(event["impression_id"], _ms(event["served_at"]), record.value)
                else:
                    event = fastavro.schemaless_reader(io.BytesIO(record.value), clicked)
                    join.click(event["impression_id"], _ms(event["clicked_at"]))
            read += len(found)
            positions[partition] = OffsetAndMetadata(found[-1].offset + 1, "", -1)
            for key, (served_ms, value, clicked_ms) in join.closed():
                body = io.BytesIO()
                label = {"features": value, "label": int(clicked_ms is not None), "explicit": clicked_ms is not None}
                label["delay_ms"] = None if clicked_ms is None else clicked_ms - served_ms
                fastavro.schemaless_writer(body, written, label)
                producer.send(output, key=key.encode(), value=body.getvalue(), timestamp_ms=served_ms + WINDOW_MS)
                wrote += 1
        if time.monotonic() - committed > _COMMIT_SECONDS or read >= records:
            producer.send_offsets_to_transaction(positions, consumer.group_metadata())
            producer.commit_transaction()
            producer.begin_transaction()
            committed = time.monotonic()
    figures = watch.figures(read)
    producer.abort_transaction()
    producer.close()
    consumer.close(autocommit=False)
    assert wrote == expected, f"wrote {wrote} of {expected}"
    return figures


def _ms(moment: Any) -> int:
    return int(moment.timestamp() * 1000 + 0.5)


def replay(servers: str, topic: str, records: int) -> dict[str, float]:
    """What the loop does instead of a restore: read its open window again."""
    import fastavro
    from kafka import KafkaConsumer, TopicPartition

    from benchmarks.data import IMPRESSION, PARTITIONS

    schema = fastavro.parse_schema(IMPRESSION)
    consumer: Any = KafkaConsumer(
        bootstrap_servers=servers,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    consumer.assign([TopicPartition(topic, number) for number in range(PARTITIONS)])
    joins = [Join() for _ in range(PARTITIONS)]
    watch, read = Stopwatch(), 0
    while read < records:
        for partition, found in consumer.poll(timeout_ms=1000, max_records=2000).items():
            for record in found:
                event: Any = fastavro.schemaless_reader(io.BytesIO(record.value), schema)
                joins[partition.partition].prediction(event["impression_id"], _ms(event["served_at"]), record.value)
            read += len(found)
    figures = watch.figures(read)
    consumer.close()
    return figures
