"""What kafka-python raises, as errors of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import kafka.errors as kafka_errors

from streamsample.errors import (
    ConfigurationError,
    FencedError,
    KafkaSideError,
    RecordTooLargeError,
    RetentionError,
    StreamsampleError,
    TimestampRefusedError,
    TopicError,
    TransactionFailedError,
    UnreachableError,
    UnsupportedClientError,
)

_FENCED = (
    kafka_errors.CommitFailedError,
    kafka_errors.FencedInstanceIdError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.RebalanceInProgressError,
    kafka_errors.UnknownMemberIdError,
)
_TOPIC = (
    kafka_errors.InvalidTopicError,
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.UnknownTopicIdError,
    kafka_errors.UnknownTopicOrPartitionError,
)
_CREDENTIALS = (
    kafka_errors.AuthorizationError,
    kafka_errors.IllegalSaslStateError,
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedSaslMechanismError,
)


_PRODUCER_FENCED = (
    kafka_errors.ProducerFencedError,
    kafka_errors.InvalidProducerEpochError,
    kafka_errors.FencedInstanceIdError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.UnknownMemberIdError,
    kafka_errors.CommitFailedError,
)
_TOO_LARGE = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)
_ROLL_BACK = "the worker rolls back to the last committed position and tries again"


def translate(error: Exception, doing: str) -> StreamsampleError:
    """The error of ours that says the same. `doing` is what failed: "fetching", "asking for committed offsets"."""
    what = f"{doing}: {type(error).__name__}: {error}"
    if isinstance(error, StreamsampleError):
        return error
    if isinstance(error, _FENCED):
        return FencedError(what, remedy="the worker starts again from the last commit")
    if isinstance(error, _TOPIC):
        return TopicError(what, remedy="check that the topic exists and that the principal may read it")
    if isinstance(error, kafka_errors.LogTruncationError):
        return RetentionError(
            what, remedy="an unclean leader election lost records that were read; see the broker's log"
        )
    if isinstance(error, _CREDENTIALS):
        return KafkaSideError(what, remedy="check the credentials under `kafka:` and the principal's ACLs")
    if isinstance(error, kafka_errors.KafkaConfigurationError):
        return ConfigurationError(what, remedy="check the options under `kafka:`")
    if isinstance(error, kafka_errors.UnsupportedVersionError):
        return UnsupportedClientError(what, remedy="the broker is too old for this client: brokers from 2.5 on work")
    if isinstance(error, kafka_errors.KafkaTimeoutError):
        return UnreachableError(
            f"{doing}: no answer in time (KafkaTimeoutError)",
            remedy="check that the brokers run and are reachable at `bootstrap_servers`; if they do, a transaction may "
            "hang: kafka-transactions.sh find-hanging tells",
        )
    if isinstance(error, kafka_errors.RetriableError):
        return UnreachableError(what, remedy="check that the brokers run and are reachable at `bootstrap_servers`")
    return KafkaSideError(what)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Whatever kafka-python raises inside leaves as an error of ours."""
    try:
        yield
    except kafka_errors.KafkaError as error:
        raise translate(error, doing) from error


def translate_producing(error: BaseException | None, what: str) -> KafkaSideError:
    """`translate` for a transaction that failed. The library often wraps the error that matters."""
    inner = [part for part in getattr(error, "args", ()) if isinstance(part, BaseException)]
    cause = inner[0] if inner else error
    message = f"{what}: {cause!r}"
    if isinstance(cause, _PRODUCER_FENCED):
        return FencedError(
            message, remedy="another worker owns the tasks, or the transaction took too long; " + _ROLL_BACK
        )
    if isinstance(cause, _TOO_LARGE):
        return RecordTooLargeError(message, remedy="the topic's max.message.bytes has changed: restart the job")
    if isinstance(cause, kafka_errors.InvalidTimestampError):
        return TimestampRefusedError(
            message, remedy="compare the topic's message.timestamp limits and this machine's clock"
        )
    if isinstance(cause, kafka_errors.AuthorizationError):
        return TopicError(message, remedy="grant this user Write on the topic, the group and the transactional.id")
    return TransactionFailedError(message, remedy=_ROLL_BACK)
