"""Everything that streamsample raises on purpose.

    StreamsampleError
    ├── ConfigurationError        the job file or the command line is wrong        exit code 78
    │   └── NotYetError           asks for something this version does not have
    ├── KafkaSideError            what the cluster or the client library did
    │   ├── UnsupportedClientError    kafka-python is not the version the seam was made for
    │   ├── UnreachableError          the brokers do not answer, or are not ready yet       (retriable)
    │   ├── TopicError                a topic is missing, misconfigured, or not co-partitioned
    │   ├── RetentionError            a position that retention has deleted
    │   ├── CorruptRecordError        a stored record batch is damaged
    │   ├── RecordRefusedError        a record that the target topic does not take
    │   │   ├── RecordTooLargeError       it is larger than max.message.bytes
    │   │   └── TimestampRefusedError     its timestamp is too far ahead or behind
    │   └── TransactionFailedError    the transaction did not commit                    (retriable)
    │       └── FencedError               another worker has taken over our tasks       (retriable)
    ├── DeadLetterLimitError      too many records could not be used
    ├── StateError                the state cannot be restored or does not fit the job
    │   ├── ChangelogGapError         the changelog lacks what the committed position needs
    │   └── LocalStateError           what was kept on the local disk is damaged        (retriable)
    └── InvariantError            a law of ours is broken: a bug, or damaged memory

Every message names what it concerns (topic/partition@offset, or file:line:column and key) and, after a dash, the
remedy.
"""

from __future__ import annotations


class StreamsampleError(Exception):
    """The base of all errors raised on purpose. `remedy` says what the reader can do."""

    retriable = False

    def __init__(self, what: str, *, remedy: str | None = None) -> None:
        self.what = what
        self.remedy = remedy
        super().__init__(f"{what} - {remedy}" if remedy else what)


class ConfigurationError(StreamsampleError):
    """The job file, or what it says about the world, is wrong."""


class NotYetError(ConfigurationError):
    """A setting that a later version brings, refused by name rather than ignored."""


class KafkaSideError(StreamsampleError):
    """What the cluster or the client library did."""


class UnsupportedClientError(KafkaSideError):
    """The installed kafka-python is not one whose internals the columnar path knows."""


class UnreachableError(KafkaSideError):
    """The brokers do not answer, or are not ready yet. A worker that runs waits for them; one that starts ends."""

    retriable = True


class TopicError(KafkaSideError):
    """A topic is missing, misconfigured, or not co-partitioned with another."""


class RetentionError(KafkaSideError):
    """A committed position that retention has deleted: records were lost before they were read."""


class CorruptRecordError(KafkaSideError):
    """A stored record batch fails its checksum or its structure."""

    def __init__(self, topic: str, partition: int, offset: int, why: str) -> None:
        self.topic = topic
        self.partition = partition
        self.offset = offset
        super().__init__(
            f"{topic}/{partition}@{offset}: {why}",
            remedy="the stored data is damaged: restore the partition from a replica, or commit a position past the "
            "damaged batch with kafka-consumer-groups --reset-offsets",
        )


class RecordRefusedError(KafkaSideError):
    """A record that the target topic does not take.

    `row`: which of those given to the sink, -1 if the broker did not say.
    """

    def __init__(self, what: str, *, row: int = -1, remedy: str | None = None) -> None:
        self.row = row
        super().__init__(what, remedy=remedy)


class RecordTooLargeError(RecordRefusedError):
    """A record that the target topic's max.message.bytes refuses."""


class TimestampRefusedError(RecordRefusedError):
    """A record whose timestamp the target topic's message.timestamp.after.max.ms or before.max.ms refuses."""


class TransactionFailedError(KafkaSideError):
    """The transaction did not commit. Nothing of it is visible; the worker rolls back and tries again."""

    retriable = True


class FencedError(TransactionFailedError):
    """The group has moved on without this worker: its tasks belong to another."""


class DeadLetterLimitError(StreamsampleError):
    """More records than the configured ratio could not be used."""


class StateError(StreamsampleError):
    """The state cannot be restored, or was made by a job of another shape."""


class LocalStateError(StateError):
    """What was kept on the local disk is damaged. It is only a copy: the worker rolls back, and restores."""

    retriable = True


class ChangelogGapError(StateError):
    """The changelog lacks a sequence that the committed position needs."""


class InvariantError(StreamsampleError):
    """A law that must always hold does not."""
