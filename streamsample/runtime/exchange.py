"""What the tasks of a job tell each other through its internal topic: what they held of windows that have closed.

A window belongs to the task whose number is the window's, modulo the tasks. When the watermark of a task passes
windows, it sends their owners what it held of them, and how far it has come: also where it held nothing, for an owner
closes a window only when all tasks have passed it. The messages are part of the transaction in which the windows close,
so that each comes once.

A message: the size of its head (uint32, big-endian), the head as MessagePack, and a `WindowDelta` whose watermark is
the sender's; of a part that is too large for one message, all but the last say nothing of the watermark.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec

from streamsample.errors import StateError
from streamsample.records import RecordBatch, TopicPartition
from streamsample.runtime.state import RESET, SchemaName, framed, renumbered, unframed
from streamsample.sampling.window_columns import WindowPart
from streamsample.sampling.window_delta import WindowDelta, decode_window_delta, encode_window_delta

NEVER = -(2**62)
"""A watermark before all windows."""


class _Head(msgspec.Struct, frozen=True, array_like=True):
    """Of a message: the sender's job (`Job.state_shape`) and number, of which sample it is, from when on the sender
    could read its input, and what its rows' schema numbers mean.
    """

    shape: str
    task: int
    sample: int
    watermark_without_idle: int
    covered_from: int
    schemas: list[SchemaName]


@dataclass(frozen=True, slots=True)
class Told:
    """What a task says: what it held of windows of a sample, and how far its watermark has come, with idle advances and
    without; and from which event time on its partition was readable.
    """

    task: int
    sample: int
    watermark: int
    watermark_without_idle: int
    covered_from: int
    part: WindowPart


@dataclass(frozen=True, slots=True)
class Message:
    """What is to be sent to the task of number `to`. topic: None for that of windows."""

    to: int
    value: bytes
    topic: str | None = None


@dataclass(frozen=True, slots=True)
class Mail:
    """Writes and reads messages. shape: `Job.state_shape`; schemas: of the rows; bytes_max: the topic's."""

    shape: str
    schemas: Sequence[SchemaName]
    bytes_max: int

    def messages(self, told: Told, to: int) -> Iterator[Message]:
        """`told` in messages that the topic takes."""
        numbers = (told.task, told.sample, told.watermark_without_idle, told.covered_from)
        head = framed(_Head(self.shape, *numbers, list(self.schemas)))
        pieces = told.part.pieces(max(self.bytes_max // 2 - len(head), 1))
        for number, piece in enumerate(pieces, 1):
            watermark = told.watermark if number == len(pieces) else NEVER
            yield Message(to, head + encode_window_delta(WindowDelta(watermark, NEVER, piece)))

    def read(self, batch: RecordBatch) -> Iterator[Told]:
        """What the messages of a batch say. Raises StateError if one is damaged, or of another job."""
        topic = TopicPartition(batch.topic, batch.partition)
        for row in range(len(batch)):
            where = f"{topic}@{int(batch.offsets[row])}"
            try:
                head, rest = unframed(batch.values[row] or b"", _Head)
                delta = decode_window_delta(rest)
            except (msgspec.MsgspecError, struct.error, StateError) as error:
                raise StateError(
                    f"{where}: this message of another task cannot be read: {error}",
                    remedy=f"nothing but streamsample may write to this topic; {RESET}",
                ) from error
            if head.shape != self.shape:
                raise StateError(
                    f"{where}: this message is of a job of another shape (its sample, ids or times have changed)",
                    remedy=f"run all workers with the same job file, or {RESET}",
                )
            schema = renumbered(delta.part.rows.schema, head.schemas, self.schemas, topic)
            part = replace(delta.part, rows=replace(delta.part.rows, schema=schema))
            without_idle = head.watermark_without_idle
            yield Told(head.task, head.sample, delta.watermark, without_idle, head.covered_from, part)
