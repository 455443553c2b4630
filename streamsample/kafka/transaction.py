"""kafka-python's producer as one thread uses it: a transaction is begun, filled with batches, and ended.

kafka-python 3.0.12 lets a transaction commit without a batch that was lost on the way, resets itself quietly after the
coordinator's time-out, and waits without limit. So here each batch is followed to its end, a commit happens only when
all have arrived, and every wait has a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import kafka.errors as kafka_errors
from kafka import KafkaProducer
from kafka.structs import OffsetAndMetadata
from kafka.structs import TopicPartition as KafkaTopicPartition

from streamsample.errors import KafkaSideError, TransactionFailedError, UnreachableError
from streamsample.kafka import producer_seam as seam
from streamsample.kafka.crash import crash_point
from streamsample.kafka.foreign_errors import translate_producing
from streamsample.kafka.producer_seam import Deadline, Delivered, HandedOver
from streamsample.kafka.transport import FewCopiesClient
from streamsample.kafka.wire_encode import BatchEncoder, Codec, Columns
from streamsample.records import TopicPartition

Positions: TypeAlias = Mapping[TopicPartition, tuple[int, str]]
"""The group's next position in each partition, and the metadata committed with it."""
Rows: TypeAlias = tuple[Columns, int, int, int]
"""A batch to be: columns, its first row, the one behind its last, and its bytes before compression."""

REQUEST_BYTES_MAX = 8 * 1024 * 1024
ROLL_BACK = "the worker rolls back to the last committed position and tries again"
_MARGIN_MS = 1_000
_HELD_BYTES = 16 * 1024 * 1024
"""Encoded batches are kept back until there are so many bytes, or a commit asks for them. A request of the library
takes one batch of each partition, and costs it more than a thousand calls, whatever its size.
"""


@dataclass(frozen=True, slots=True)
class ProducerSettings:
    """Limits of one producer. Times in ms; request <= delivery < transaction timeout, else ValueError.

    transaction_timeout_ms bounds how long a killed worker blocks readers of read_committed. in_flight_bytes_max: handed
    over and not yet acknowledged, compressed. waiting_bytes_max: taken, not yet compressed. batch_bytes: of one batch
    before compression (a larger record goes alone); if it does not get small enough for its topic, the topic's batches
    are cut to what it takes.
    """

    codec: Codec = "lz4"
    batch_bytes: int = 1_800_000
    in_flight_bytes_max: int = 64 * 1024 * 1024
    waiting_bytes_max: int = 32 * 1024 * 1024
    transaction_timeout_ms: int = 12_000
    delivery_timeout_ms: int = 8_000
    request_timeout_ms: int = 4_000
    commit_timeout_ms: int = 5_000
    abort_timeout_ms: int = 2_000
    start_timeout_ms: int = 20_000

    def __post_init__(self) -> None:
        if not 0 < self.request_timeout_ms <= self.delivery_timeout_ms < self.transaction_timeout_ms:
            raise ValueError(
                f"request timeout {self.request_timeout_ms} ms <= delivery timeout {self.delivery_timeout_ms} ms "
                f"< transaction timeout {self.transaction_timeout_ms} ms does not hold"
            )

    @property
    def arrival_ms(self) -> int:
        """How long to wait for batches that the library was given: it must have given them up before."""
        return self.delivery_timeout_ms + _MARGIN_MS

    @property
    def work_ms(self) -> int:
        """How long all that was given to the writing thread may take, a commit and its waits included."""
        return 2 * self.arrival_ms + 2 * self.commit_timeout_ms


@dataclass(frozen=True, slots=True)
class CommitResult:
    """What a transaction wrote, in the order of handing over."""

    delivered: tuple[Delivered, ...]

    def base_offsets(self, source: TopicPartition) -> list[int]:
        """The offset of the first record of each batch written to `source`."""
        return [batch.base_offset for batch in self.delivered if batch.source == source]


class Transactions:
    """One transaction after another, from one thread; `roll_back` and `stop` may be called from another when that one
    rests.

    Raises TransactionFailedError, FencedError, KafkaSideError and errors of kafka-python; after any, only `roll_back`
    and `stop` may be called.
    """

    def __init__(self, client: Mapping[str, Any], transactional_id: str, settings: ProducerSettings) -> None:
        self._settings = settings
        self._handed = HandedOver()
        self._held: list[tuple[TopicPartition, bytearray, int]] = []
        self._held_bytes = 0
        self._identity: tuple[int, int] | None = None
        """Producer id and epoch of the open transaction."""
        self.library = self._start(client, transactional_id)
        """The KafkaProducer."""

    def _start(self, client: Mapping[str, Any], transactional_id: str) -> Any:
        settings = self._settings
        options = {
            "kafka_client": FewCopiesClient,
            "reconnect_backoff_max_ms": 1_000,
            "bootstrap_timeout_ms": settings.start_timeout_ms,
            **client,
        }
        # A user's request time-out is for reading: here all times must fit into the transaction's.
        options.pop("request_timeout_ms", None)
        try:
            producer = KafkaProducer(
                **options,
                transactional_id=transactional_id,
                acks="all",
                linger_ms=0,
                retry_backoff_ms=5,
                transaction_timeout_ms=settings.transaction_timeout_ms,
                delivery_timeout_ms=settings.delivery_timeout_ms,
                request_timeout_ms=settings.request_timeout_ms,
                max_block_ms=settings.start_timeout_ms,
                max_request_size=REQUEST_BYTES_MAX,
                allow_auto_create_topics=False,
                metrics_enabled=False,
            )
        except kafka_errors.KafkaError as error:
            kind = UnreachableError if isinstance(error, kafka_errors.RetriableError) else KafkaSideError
            raise kind(
                f"no producer for {options.get('bootstrap_servers')}: {error!r}",
                remedy="check that the brokers can be reached and the kafka section of the job file",
            ) from error
        seam.forbid_recovery(producer)
        try:
            producer.init_transactions()
        except kafka_errors.KafkaError as error:
            seam.stop(producer, settings.abort_timeout_ms)
            raise translate_producing(error, f"transactional.id {transactional_id}: no producer id") from error
        return producer

    def begin(self) -> None:
        """Open a transaction. Sends nothing."""
        self.library.begin_transaction()
        self._identity = seam.identity_of(self.library)
        self._handed = HandedOver()
        self._drop_held()

    def write(self, encoder: BatchEncoder, source: TopicPartition, rows: Rows, limit: int) -> bool:
        """Encode one batch once there is room. It is sent together with others, at the latest by `delivered`. False if
        it is larger than `limit` after compression: then it is not written.
        """
        columns, begin, end, size = rows
        self._wait_for_room(size)
        encoded = encoder.encode(columns, begin, end, size)
        if len(encoded) > limit:
            return False
        self._held.append((source, encoded, end - begin))
        self._held_bytes += len(encoded)
        if self._held_bytes >= min(_HELD_BYTES, self._settings.in_flight_bytes_max // 2):
            self._hand_over()
        return True

    def delivered(self) -> CommitResult:
        """Wait until the broker has all that was written."""
        self._hand_over()
        limit = Deadline(self._settings.arrival_ms)
        if not self._handed.wait_for_all(limit):
            raise TransactionFailedError(f"batches were not acknowledged within {limit.limit_ms} ms", remedy=ROLL_BACK)
        self._raise_if_batch_failed()
        delivered = self._handed.delivered()
        if delivered is None:
            raise TransactionFailedError("a batch has no known offset", remedy=ROLL_BACK)
        return CommitResult(tuple(delivered))

    def commit(self, offsets: Callable[[CommitResult], Positions], group_metadata: Any) -> CommitResult:
        """Wait until the broker has all, then commit it with the group's offsets, fenced by `group_metadata`."""
        result = self.delivered()
        crash_point("after_flush")
        positions = offsets(result)
        if positions:
            self._send_offsets(positions, group_metadata)
        crash_point("after_offsets")
        if self._identity is None or not seam.in_transaction(self.library, self._identity):
            self._raise_library_error("the transaction was lost")
        crash_point("before_commit")
        ending = self.library._transaction_manager.begin_commit()
        self._wait_for(ending, "the commit was not answered and may or may not have happened")
        crash_point("after_commit")
        self._identity = None
        return result

    def roll_back(self, limit_ms: int) -> bool:
        """Abort the transaction, if one is open. Whether all its batches were well: if not, the library must go."""
        if self._identity is None:
            return True
        self._identity = None
        self._drop_held()
        ending = self.library._transaction_manager.begin_abort()
        self.library._sender.wakeup()
        if not ending.wait(timeout_ms=limit_ms):
            raise TransactionFailedError(f"the abort was not answered within {limit_ms} ms", remedy=ROLL_BACK)
        return not self._handed.any_failed()

    def stop(self, limit_ms: int) -> None:
        """End the library's thread; nothing more is sent."""
        seam.stop(self.library, limit_ms)

    def translated(self, error: BaseException, what: str) -> BaseException:
        """An error of the library as one of ours; the first error of the transaction is what it remembers as such."""
        return translate_producing(self.library._transaction_manager.last_error or error, what)

    def _hand_over(self) -> None:
        """Give the library what is held."""
        for source, encoded, count in self._held:
            seam.hand_over(self.library, source, encoded, count, self._handed)
        self._drop_held()
        seam.wake_sender(self.library)

    def _drop_held(self) -> None:
        self._held = []
        self._held_bytes = 0

    def _wait_for_room(self, size: int) -> None:
        size += self._held_bytes
        if self._held and self._handed.waiting_bytes + size > self._settings.in_flight_bytes_max:
            size -= self._held_bytes
            self._hand_over()
        limit = Deadline(self._settings.arrival_ms)
        if not self._handed.wait_for_room(size, self._settings.in_flight_bytes_max, limit):
            waiting = self._handed.waiting_bytes
            raise TransactionFailedError(
                f"{waiting} bytes were not acknowledged within {limit.limit_ms} ms", remedy=ROLL_BACK
            )
        self._raise_if_batch_failed()

    def _send_offsets(self, offsets: Positions, group_metadata: Any) -> None:
        if group_metadata is None:
            raise ValueError("offsets need the group's metadata, or a zombie could commit them")
        positions = {KafkaTopicPartition(*source): OffsetAndMetadata(*at, -1) for source, at in offsets.items()}
        sending = self.library._transaction_manager.send_offsets_to_transaction(positions, group_metadata)
        names = ", ".join(str(source) for source in offsets)
        self._wait_for(sending, f"the group's offsets of {names} were not taken into the transaction")

    def _wait_for(self, result: Any, otherwise: str) -> None:
        """Wait for the library's result, within our limit."""
        self.library._sender.wakeup()
        if not result.wait(timeout_ms=self._settings.commit_timeout_ms):
            raise TransactionFailedError(f"{otherwise} within {self._settings.commit_timeout_ms} ms", remedy=ROLL_BACK)

    def _raise_if_batch_failed(self) -> None:
        failure = self._handed.failure()
        if failure is not None:
            what, cause = failure
            self._raise_library_error(f"{what} did not arrive", cause)

    def _raise_library_error(self, what: str, cause: BaseException | None = None) -> NoReturn:
        """Raise what the library remembers as the first error of the transaction, else `cause`."""
        first = self.library._transaction_manager.last_error or cause
        raise translate_producing(first, what) from first
