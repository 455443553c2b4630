"""The events that are measured with: 100-byte Avro values, keyed by id, written to the broker as columns.

All values of a topic have one size, so that millions of them are built by a few numpy operations; what they hold is as
random as ids, users, prices and sessions are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamsample.clock import SystemClock
from streamsample.kafka.producer import TransactionalProducer
from streamsample.kafka.topics import TopicAdmin, TopicSpec
from streamsample.kafka.transaction import ProducerSettings
from streamsample.kafka.wire_encode import Codec
from streamsample.records import Bytes, Int64s, Spans

PARTITIONS = 4
VALUE_BYTES = 100
ID_BYTES = 16
FIRST_MS = 1_700_000_000_000
BATCH_BYTES = 64 * 1024
"""Of one record batch before compression: what a Java producer with batch.size=64k writes."""
FOR_EVER = {"retention.ms": "-1", "retention.bytes": "-1"}
COUNTRIES = ("DE", "FR", "US", "IN", "BR", "JP", "GB", "IT", "ES", "IS")
_CHUNK = 200_000
_SEED = 20131


def _record(name: str, *fields: tuple[str, Any]) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": key, "type": kind} for key, kind in fields]}


IMPRESSION = _record(
    "Impression",
    ("impression_id", "string"),
    ("served_at", {"type": "long", "logicalType": "timestamp-millis"}),
    ("user_id", "long"),
    ("country", "string"),
    ("session", "string"),
    ("item", "long"),
    ("position", "int"),
    ("price", "double"),
    ("device", {"type": "enum", "name": "Device", "symbols": ["phone", "tablet", "desktop", "tv"]}),
    ("score", "float"),
    ("model", "string"),
    ("placement", "string"),
    ("consent", "boolean"),
)
CLICK = _record(
    "Click",
    ("click_id", "string"),
    ("impression_id", "string"),
    ("clicked_at", {"type": "long", "logicalType": "timestamp-millis"}),
    ("user_id", "long"),
    ("session", "string"),
    ("amount", "double"),
    ("page", "string"),
    ("agent", ["null", "string"]),
)


def write_schemas(folder: str) -> dict[str, int]:
    """impression.avsc and click.avsc, for a job file beside them."""
    schemas = {"impression": IMPRESSION, "click": CLICK}
    for name, schema in schemas.items():
        Path(folder, f"{name}.avsc").write_text(json.dumps(schema))
    return {"schemas": len(schemas)}


# -- Avro's encoding, by columns: each function gives uint8[n, bytes] ------------------------------


def _mixed(numbers: Int64s, salt: int) -> NDArray[np.uint64]:
    """A bijection of 64 bits that scatters (the finaliser of SplitMix64)."""
    z = numbers.astype(np.uint64) + np.uint64(salt * 0x9E3779B97F4A7C15 % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _hex(words: NDArray[np.uint64]) -> Bytes:
    """16 hexadecimal digits of each."""
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    raw = words.astype(">u8").view(np.uint8)
    out = np.empty((len(raw), 2), np.uint8)
    out[:, 0], out[:, 1] = digits[raw >> 4], digits[raw & 15]
    return out.reshape(len(words), 16)


def _varint(values: Int64s, size: int) -> Bytes:
    """Zigzag varints that all take `size` bytes. Raises ValueError if one does not."""
    rest = values.astype(np.uint64) << np.uint64(1)
    if len(rest) and (int(rest.max()) >> (7 * size) or (size > 1 and not int(rest.min()) >> (7 * (size - 1)))):
        raise ValueError(f"not all varints take {size} bytes")
    shifts = np.arange(0, 7 * size, 7, dtype=np.uint64)
    out = ((rest[:, None] >> shifts) & np.uint64(0x7F)).astype(np.uint8)
    out[:, :-1] |= 0x80
    return out


def _text(characters: Bytes) -> Bytes:
    """Strings of one length, with it in front."""
    length = np.full((len(characters), 1), 2 * characters.shape[1], np.uint8)
    return np.hstack([length, characters])


def _constant(count: int, text: str) -> Bytes:
    return np.tile(np.frombuffer(text.encode(), np.uint8), (count, 1))


def _floats(values: NDArray[Any]) -> Bytes:
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)


def impression_ids(numbers: Int64s) -> Bytes:
    """The ids of predictions number `numbers`: uint8[n, 16]."""
    return _hex(_mixed(numbers, 1))


def impressions(numbers: Int64s, times: Int64s) -> Bytes:
    """The Avro values of predictions number `numbers`, served at `times` (ms): uint8[n, 100]."""
    random = _mixed(numbers, 2)
    n = len(numbers)
    shares = np.array([30, 20, 15, 10, 8, 6, 5, 3, 2, 1]).cumsum()
    country = np.searchsorted(shares, (random % np.uint64(100)).astype(np.int64), side="right")
    codes = np.frombuffer("".join(COUNTRIES).encode(), np.uint8).reshape(-1, 2)
    values = np.hstack([
        _text(impression_ids(numbers)),
        _varint(times, 6),
        _varint(2**27 + ((random >> np.uint64(8)) % np.uint64(10**7)).astype(np.int64), 5),
        _text(codes[country]),
        _text(np.hstack([_hex(_mixed(numbers // 8, 3)), _hex(random)[:, :8]])),
        _varint(2**20 + ((random >> np.uint64(20)) % np.uint64(10**6)).astype(np.int64), 4),
        _varint(((random >> np.uint64(40)) % np.uint64(60)).astype(np.int64), 1),
        _floats((random >> np.uint64(44)).astype(np.float64) / 100),
        _varint((random >> np.uint64(62)).astype(np.int64), 1),
        _floats(((random >> np.uint64(24)) % np.uint64(10**6)).astype(np.float32) / np.float32(1e6)),
        _text(_constant(n, "ranker-2024-05")),
        _text(_constant(n, "home-feed")),
        ((random >> np.uint64(50)) % np.uint64(10) > 0).astype(np.uint8)[:, None],
    ])  # fmt: skip
    assert values.shape[1] == VALUE_BYTES
    return values


def clicks(numbers: Int64s, times: Int64s) -> Bytes:
    """The Avro values of the clicks on predictions number `numbers`, at `times` (ms): uint8[n, 100]."""
    random = _mixed(numbers, 4)
    n = len(numbers)
    values = np.hstack([
        _text(_hex(random)),
        _text(impression_ids(numbers)),
        _varint(times, 6),
        _varint(2**27 + ((_mixed(numbers, 2) >> np.uint64(8)) % np.uint64(10**7)).astype(np.int64), 5),
        _text(np.hstack([_hex(_mixed(numbers // 8, 3)), _hex(_mixed(numbers, 2))[:, :8]])),
        _floats((random >> np.uint64(44)).astype(np.float64) / 100),
        _text(_constant(n, "/cart")),
        _varint(np.ones(n, np.int64), 1),
        _text(_constant(n, "browser/128 (linux)"[:14])),
    ])  # fmt: skip
    assert values.shape[1] == VALUE_BYTES, values.shape
    return values


def spans(rows: Bytes) -> Spans:
    """uint8[n, k] as n byte strings of k bytes."""
    n, size = rows.shape
    return Spans(np.ascontiguousarray(rows).reshape(-1), np.arange(n) * size, np.full(n, size, np.int32))


# -- into topics -----------------------------------------------------------------------------------


def serving_times(numbers: Int64s, records: int, span_ms: int) -> Int64s:
    """When predictions are served: evenly over `span_ms`, in order."""
    return FIRST_MS + numbers * span_ms // records


class Writer:
    """Writes columns to topics that it makes; commits often enough for the transaction's time limit."""

    def __init__(self, servers: str, codec: Codec) -> None:
        self._admin = TopicAdmin({"bootstrap_servers": servers})
        self._producer = TransactionalProducer(
            {"bootstrap_servers": servers},
            "benchmark-data",
            limits=self._admin.limits,
            clock=SystemClock(),
            settings=ProducerSettings(codec=codec, batch_bytes=BATCH_BYTES),
        )

    def make(self, topic: str) -> None:
        self._admin.ensure(TopicSpec(topic, PARTITIONS, FOR_EVER))

    def write(self, topic: str, times: Int64s, keys: Bytes, values: Bytes) -> None:
        self._producer.begin()
        self._producer.send_partitioned(topic, times, spans(keys), spans(values))
        self._producer.commit()

    def write_everywhere(self, topic: str, time_ms: int, key: Bytes, value: Bytes) -> None:
        """One record to each partition."""
        self._producer.begin()
        for partition in range(PARTITIONS):
            row = slice(partition, partition + 1)
            self._producer.send(topic, partition, np.array([time_ms]), spans(key[row]), spans(value[row]))
        self._producer.commit()

    def close(self) -> None:
        self._producer.close()
        self._admin.close()


def hexadecimal(numbers: Int64s, salt: int) -> Bytes:
    """16 random characters for each: uint8[n, 16]."""
    return _hex(_mixed(numbers, salt))


class LiveWriter(Writer):
    """Writes predictions and clicks of one moment to `<prefix>.impressions` and `<prefix>.clicks`, which exist."""

    def __init__(self, servers: str, prefix: str) -> None:
        super().__init__(servers, "lz4")
        self._prefix = prefix

    def write_moment(self, time_ms: int, shown: Int64s, clicked: Int64s) -> None:
        """One transaction. shown: numbers of predictions; clicked: of those that are clicked."""
        self._producer.begin()
        for kind, numbers, make in (("impressions", shown, impressions), ("clicks", clicked, clicks)):
            times = np.full(len(numbers), time_ms)
            values = spans(make(numbers, times))
            self._producer.send_partitioned(f"{self._prefix}.{kind}", times, spans(impression_ids(numbers)), values)
        self._producer.commit()


def chunks(count: int) -> Iterator[Int64s]:
    for begin in range(0, count, _CHUNK):
        yield np.arange(begin, min(begin + _CHUNK, count))


def write_impressions(servers: str, topic: str, records: int, codec: Codec, span_ms: int = 600_000) -> dict[str, int]:
    """Make `topic` with that many predictions, spread over `span_ms` of event time."""
    writer = Writer(servers, codec)
    writer.make(topic)
    for numbers in chunks(records):
        times = serving_times(numbers, records, span_ms)
        writer.write(topic, times, impression_ids(numbers), impressions(numbers, times))
    writer.close()
    return {"records": records}


def make_outputs(servers: str, topics: list[str]) -> dict[str, int]:
    """Make topics whose records never go: training records are stamped with event time, which is long ago here."""
    admin = TopicAdmin({"bootstrap_servers": servers})
    for topic in topics:
        admin.ensure(TopicSpec(topic, PARTITIONS, FOR_EVER))
    admin.close()
    return {"topics": len(topics)}


def click_plan(
    records: int, span_ms: int, share: float, mean_delay_ms: int, seed: int = _SEED
) -> tuple[Int64s, Int64s]:
    """Which predictions are clicked, and when (ms), in the order of the clicks."""
    random = np.random.default_rng(seed)
    numbers = np.flatnonzero(random.random(records) < share)
    delays = random.exponential(mean_delay_ms, len(numbers)).astype(np.int64)
    times = serving_times(numbers, records, span_ms) + delays
    order = np.argsort(times, kind="stable")
    return numbers[order], times[order]


def write_join_input(
    servers: str,
    prefix: str,
    records: int,
    span_ms: int,
    window_ms: int,
    share: float,
    mean_delay_ms: int,
    close: bool = True,
    kinds: Sequence[str] = ("clicks",),
) -> dict[str, int]:
    """Make `<prefix>.impressions` and `<prefix>.clicks`, and unless told not to, close all windows by one last event
    per partition. kinds: of feedback, each like the clicks and with as many.

    Returns how many records there are of each, how many predictions were clicked inside their window (the first kind),
    how many close.
    """
    writer = Writer(servers, "lz4")
    shown, told = f"{prefix}.impressions", {"clicks": 0}
    writer.make(shown)
    for numbers in chunks(records):
        times = serving_times(numbers, records, span_ms)
        writer.write(shown, times, impression_ids(numbers), impressions(numbers, times))
    last_ms = FIRST_MS + span_ms
    for place, kind in enumerate(kinds):
        writer.make(f"{prefix}.{kind}")
        numbers, times = click_plan(records, span_ms, share, mean_delay_ms, _SEED + place)
        for rows in chunks(len(numbers)):
            ids = impression_ids(numbers[rows])
            writer.write(f"{prefix}.{kind}", times[rows], ids, clicks(numbers[rows], times[rows]))
        inside = int((times - serving_times(numbers, records, span_ms) <= window_ms).sum())
        told = {"explicit": inside, **told, "clicks": told["clicks"] + len(numbers) + PARTITIONS * close}
        last_ms = max(last_ms, int(times.max(initial=0)))
    if close:
        last_ms += 2 * window_ms
        last = records + np.arange(PARTITIONS)
        at = np.full(PARTITIONS, last_ms)
        writer.write_everywhere(shown, last_ms, impression_ids(last), impressions(last, at))
        for kind in kinds:
            writer.write_everywhere(f"{prefix}.{kind}", last_ms, impression_ids(last), clicks(last, at))
    writer.close()
    return {"predictions": records + PARTITIONS * close, "closing": records, **told}
