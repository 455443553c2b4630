"""Topics read from their beginning to their end, as any consumer would read them: committed records only."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import fastavro
import msgspec

from streamsample.clock import Clock
from streamsample.config import Job
from streamsample.errors import UnreachableError
from streamsample.kafka.consumer import ColumnarConsumer
from streamsample.kafka.topics import TopicAdmin
from streamsample.records import RecordBatch, TopicPartition

_SILENCE_MS = 60_000
_POLL_MS = 100
_FRAME_BYTES = 5


def batches_of(job: Job, admin: TopicAdmin, topic: str, clock: Clock) -> Iterator[RecordBatch]:
    """Every batch of `topic` up to its ends as they are now, by partition in order.

    Raises UnreachableError if nothing comes for a minute, TopicError if the topic is missing.
    """
    partitions = [TopicPartition(topic, number) for number in range(admin.describe([topic])[topic].partitions)]
    begins, ends = admin.earliest(partitions), admin.latest(partitions)
    heard = clock.elapsed_ms()
    with ColumnarConsumer(job.kafka.options("consumer"), client_id=f"{job.name}-reader") as consumer:
        consumer.assign(partitions)
        for partition in partitions:
            consumer.seek(partition, begins[partition])
        consumer.resume(partitions)
        while any((consumer.position(partition) or 0) < ends[partition] for partition in partitions):
            found = consumer.poll(_POLL_MS)
            yield from found
            if found:
                heard = clock.elapsed_ms()
            elif clock.elapsed_ms() - heard > _SILENCE_MS:
                raise UnreachableError(
                    f"{topic} could not be read to its end: nothing came for {_SILENCE_MS // 1000} s",
                    remedy="look for a transaction that is open on it (kafka-transactions.sh list)",
                )


class TrainingReader:
    """Decodes training records of one job, by a library, not by the code that writes them.

    schemas: the Avro schemas of the records, none for JSON; ids: their ids where messages are framed.
    """

    def __init__(self, schemas: Sequence[Mapping[str, Any]], ids: Sequence[int]) -> None:
        self._schemas = [fastavro.parse_schema(dict(schema)) for schema in schemas]
        self._by_id = dict(zip(ids, self._schemas, strict=True)) if ids else {}

    def decode(self, value: bytes) -> dict[str, Any]:
        """One record. Raises ValueError if it is none of this job."""
        if not self._schemas:
            found: dict[str, Any] = msgspec.json.decode(value)
            return found
        if not self._by_id:
            return self._read(value, self._schemas[0])
        number = int.from_bytes(value[1:_FRAME_BYTES], "big")
        if value[:1] != b"\0" or number not in self._by_id:
            raise ValueError(f"schema id {number} is none of output.schema_ids")
        return self._read(value[_FRAME_BYTES:], self._by_id[number])

    @staticmethod
    def _read(value: bytes, schema: Any) -> dict[str, Any]:
        try:
            found: dict[str, Any] = fastavro.schemaless_reader(io.BytesIO(value), schema, None)
        except (EOFError, IndexError, KeyError, UnicodeDecodeError) as error:
            raise ValueError(f"not of the job's schema: {error!r}") from error
        return found
