"""Records that cannot be used, on a real broker: each becomes a dead letter, and costs only itself."""

from __future__ import annotations

import json
import math
import random
import resource
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from streamsample.errors import DeadLetterLimitError
from streamsample.runtime.dead_letters import DeadLetterLimit
from tests.acceptance.cluster import MakeJob, OnBroker, Raw
from tests.acceptance.timelines import IMPRESSION, NOW, T0, Dead, OneTask, avro, later

PREFIX = "streamsample.errors."
GOOD_JSON = json.dumps({"id": "good", "at": T0}).encode()
DEEP = b'{"id": "x", "at": %d, "more": %s%s}' % (T0, b"[" * 100_000, b"]" * 100_000)

BAD_JSON: list[tuple[str, bytes, str, str]] = [
    # what, value, stage, class
    ("empty", b"", "decode", "bad_json"),
    ("no JSON", b"{impression 7}", "decode", "bad_json"),
    ("truncated", GOOD_JSON[:-3], "decode", "bad_json"),
    ("trailing bytes", GOOD_JSON + b"}", "decode", "trailing_bytes"),
    ("two values", GOOD_JSON + GOOD_JSON, "decode", "trailing_bytes"),
    ("an array", b"[" + GOOD_JSON + b"]", "decode", "not_an_object"),
    ("a number", b"7", "decode", "not_an_object"),
    ("the word null", b"null", "decode", "not_an_object"),
    ("invalid UTF-8", b'{"id": "\xff\xfe", "at": %d}' % T0, "decode", "bad_utf8"),
    ("UTF-8 of a surrogate", b'{"id": "\xed\xa0\x80", "at": %d}' % T0, "decode", "bad_utf8"),
    ("invalid UTF-8 in a field nobody asked for", b'{"id": "a", "at": %d, "x": "\xc3"}' % T0, "decode", "bad_utf8"),
    ("a key twice", b'{"id": "a", "at": %d, "id": "b"}' % T0, "decode", "duplicate_key"),
    ("a key twice, deeper", b'{"id": "a", "at": %d, "x": {"y": 1, "y": 1}}' % T0, "decode", "duplicate_key"),
    ("a key twice, once escaped", b'{"id": "a", "at": %d, "i\\u0064": "b"}' % T0, "decode", "duplicate_key"),
    ("NaN", b'{"id": "a", "at": %d, "x": NaN}' % T0, "decode", "bad_json"),
    ("Infinity", b'{"id": "a", "at": %d, "x": -Infinity}' % T0, "decode", "bad_json"),
    ("deep nesting", DEEP, "decode", "too_deep"),
    ("a control character", b'{"id": "a\nb", "at": %d}' % T0, "decode", "bad_json"),
    ("an id of the wrong type", b'{"id": {"x": 1}, "at": %d}' % T0, "decode", "wrong_type"),
    ("a time of the wrong type", b'{"id": "a", "at": "yesterday"}', "decode", "wrong_type"),
    ("a time beyond 64 bits", b'{"id": "a", "at": %d}' % 10**30, "decode", "out_of_range"),
    ("no id", b'{"at": %d}' % T0, "identify", "missing_id"),
    ("a null id", b'{"id": null, "at": %d}' % T0, "identify", "missing_id"),
    ("a long id", b'{"id": "%s", "at": %d}' % (b"x" * 5000, T0), "identify", "long_id"),
    ("no time", b'{"id": "a"}', "time", "missing_time"),
    ("a null time", b'{"id": "a", "at": null}', "time", "missing_time"),
    ("a time in microseconds", b'{"id": "a", "at": %d}' % (T0 * 1000), "time", "implausible_time"),
    ("a time before 1970", b'{"id": "a", "at": -1}', "time", "implausible_time"),
    ("a time in years to come", b'{"id": "a", "at": 9000000000000}', "time", "future"),
]


def bad_avro() -> list[tuple[str, bytes, str, str]]:
    """Damaged records of schema 7, as registries frame them."""
    bare = avro(IMPRESSION, {"id": "good", "at": T0, "user": "u", "country": "DE"})
    frame = b"\x00" + struct.pack(">I", 7)
    good = frame + bare

    def of(**values: Any) -> bytes:
        return frame + avro(IMPRESSION, {"id": "a", "at": T0, "user": None, "country": None, **values})

    return [
        ("empty", b"", "decode", "not_framed"),
        ("no frame", bare, "decode", "not_framed"),
        ("half a frame", good[:4], "decode", "not_framed"),
        ("a wrong schema id", b"\x00" + struct.pack(">I", 8) + bare, "decode", "unknown_schema"),
        ("only the frame", frame, "decode", "truncated"),
        ("truncated", good[:-1], "decode", "bad_length"),
        ("trailing bytes", good + b"\x00", "decode", "trailing_bytes"),
        ("a huge length", frame + b"\x02" + b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", "decode", "bad_length"),
        ("a negative length", frame + b"\x02\x01", "decode", "bad_length"),
        ("an endless varint", frame + b"\x02" + b"\xff" * 11, "decode", "bad_varint"),
        ("a branch that is not there", frame + b"\x06", "decode", "bad_union_index"),
        ("invalid UTF-8", good.replace(b"good", b"g\xff\xfed"), "decode", "bad_utf8"),
        ("a null id", of(id=None), "identify", "missing_id"),
        ("a null time", of(at=None), "time", "missing_time"),
        ("a time in microseconds", of(at=T0 * 1000), "time", "implausible_time"),
    ]


def publish_with_neighbours(job: OnBroker, bad: list[tuple[str, bytes, str, str]], good: Any) -> list[Raw]:
    """A good record before, between and after the bad ones; returns the bad ones as they were sent."""
    sent = [
        Raw(value, what.encode(), 0, T0, [("trace", what.encode()), ("trace", b"\x00\xff")])
        for what, value, _, _ in bad
    ]
    records = [Raw(good("p0"), b"p0", 0, T0)]
    for number, each in enumerate(sent, 1):
        records += [each, Raw(good(f"p{number}"), b"key", 0, T0)]
    job.write("shown", records)
    return sent


def check_letters(job: OnBroker, bad: list[tuple[str, bytes, str, str]], sent: list[Raw]) -> None:
    """Each bad record has its letter: its bytes and headers as they were, and behind them what was wrong and where."""
    letters = {letter.key: letter for letter in job.dead}
    assert len(letters) == len(sent)
    for place, ((what, value, stage, reason), record) in enumerate(zip(bad, sent, strict=True)):
        letter = letters[record.key]
        assert letter.value == value, what
        assert (letter.why("stage"), letter.why("class")) == (stage, reason), what
        assert letter.why("topic") == f"{job.name}.shown"
        assert letter.why("partition") == "0"
        assert letter.why("offset") == str(2 * place + 1)
        assert len(letter.why("message")) > 10
        assert f"{PREFIX}cut" not in letter.headers
    stamps = [record.timestamp for record in job.read(job.job.dead_letters_topic)]
    assert min(stamps) > T0 + 365 * 86_400_000  # wall time: the event's own may be what is wrong
    first = job.read(job.job.dead_letters_topic)[0]
    assert [header for header in first.headers if header[0] == "trace"] == [
        ("trace", first.key),
        ("trace", b"\x00\xff"),
    ]


def test_bad_json_costs_only_itself(make_job: MakeJob) -> None:
    job = make_job(partitions=1)
    sent = publish_with_neighbours(job, BAD_JSON, lambda name: json.dumps({"id": name, "at": T0}).encode())
    job.later(later("1h"))
    progress = job.run()
    assert progress.dead == len(BAD_JSON)
    check_letters(job, BAD_JSON, sent)
    assert job.labels() == {f"p{number}": "0 implicit" for number in range(len(BAD_JSON) + 1)}


def avro_job(name: str, directory: Path) -> Mapping[str, Any]:
    (directory / "impression.avsc").write_text(json.dumps(IMPRESSION))
    source = {
        "topic": f"{name}.shown",
        "format": "avro",
        "schema_files": {"7": "impression.avsc"},
        "id": "id",
        "time": {"field": "at", "unit": "ms"},
    }
    return {"input": source, "output": {"topic": f"{name}.training", "schema_ids": {"7": 70}}}


def test_bad_avro_costs_only_itself(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(lambda name: avro_job(name, tmp_path), partitions=1)
    bad = bad_avro()

    def good(name: str, at: int = T0) -> bytes:
        return b"\x00\x00\x00\x00\x07" + avro(IMPRESSION, {"id": name, "at": at, "user": None, "country": "IS"})

    sent = publish_with_neighbours(job, bad, good)
    job.write("shown", [Raw(good("end", T0 + 3_600_000), b"end", 0, T0)])
    job.later(later("1h", ["clicked"]))
    job.run()
    check_letters(job, bad, sent)
    written = job.read(f"{job.name}.training")
    assert {record.key for record in written} == {f"p{number}".encode() for number in range(len(bad) + 1)}
    assert all(record.value.startswith(b"\x00\x00\x00\x00\x46") for record in written)


def test_random_bytes_are_dead_letters_byte_for_byte(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(lambda name: avro_job(name, tmp_path), partitions=1)
    chance = random.Random(20)
    values = [chance.randbytes(chance.randrange(60)) for _ in range(150)]
    values += [b"\x00\x00\x00\x00\x07" + chance.randbytes(chance.randrange(60)) for _ in range(150)]
    job.write("shown", [Raw(value, b"%d" % number, 0, T0) for number, value in enumerate(values)])
    job.write("clicked", [Raw(value, b"%d" % (300 + number), 0, T0) for number, value in enumerate(values)])
    progress = job.run()
    assert progress.dead == 600
    assert progress.open_rows == 0
    assert {int(letter.key or b""): letter.value for letter in job.dead} == dict(enumerate(values + values))


# -- labels -----------------------------------------------------------------------------------------------

PAYMENT = {
    "type": "record",
    "name": "Payment",
    "fields": [
        {"name": "event", "type": "string"},
        {"name": "id", "type": "string"},
        {"name": "at", "type": "long"},
        {"name": "amount", "type": ["null", "double"]},
    ],
}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_label_that_is_no_number_is_a_dead_letter(bad: float, tmp_path: Path) -> None:
    (tmp_path / "payment.avsc").write_text(json.dumps(PAYMENT))
    feedback = {
        "topic": "job.clicked",
        "format": "avro",
        "schema_file": str(tmp_path / "payment.avsc"),
        "id": "event",
        "refers_to": "id",
        "time": {"field": "at", "unit": "ms"},
    }
    target = {"type": "double", "window": "10s", "rules": [{"from": "clicks", "field": "amount"}], "if_silent": 0}
    task = OneTask({"feedback.clicks": feedback, "targets.clicked": target}).play("0s shown a\n0s shown b\n0s shown c")
    rows: list[tuple[str, float | None]] = [("a", 1.5), ("b", bad), ("c", None), ("a", bad), ("end", 2.0)]
    values: list[bytes | None] = [
        avro(
            PAYMENT, {"event": str(number), "id": identity, "at": T0 + 1000 + (identity == "end") * 10**6, "amount": x}
        )
        for number, (identity, x) in enumerate(rows)
    ]
    task.give("clicked", values)
    task.play(later("1h", ["shown"]))
    assert task.labels() == {"a": "1.5 explicit", "b": "0.0 implicit", "c": "0.0 implicit"}
    assert task.reasons == ["bad_value", "bad_value"]
    assert [letter.value for letter in task.dead] == [values[1], values[3]]
    assert task.dead[0].why("stage") == "label"
    assert "'amount'" in task.dead[0].why("message")
    assert task.feedback() == {"feedback_in": 3, "matched": 1, "no_value": 1, "waiting": 1}


def test_a_null_key_that_is_the_id(make_job: MakeJob) -> None:
    job = make_job({"input.id": None, "feedback.clicks.refers_to": None}, partitions=1)
    value = b'{"id": "of no meaning", "at": %d}' % T0
    job.write("shown", [Raw(value, None, 0), Raw(value, b"", 0), Raw(value, b"a", 0)])
    job.write("clicked", [Raw(b'{"event": 1, "at": %d}' % T0, key, 0) for key in (b"a", None)])
    job.write("clicked", [Raw(b'{"at": %d}' % T0, b"a", 0)])
    for kind in ("shown", "clicked"):
        job.write(kind, [Raw(b'{"id": "", "event": 2, "at": %d}' % (T0 + 3_600_000), b"end", 0)])
    job.run()
    assert {record.key: record.tree["targets"]["clicked"]["value"] for record in job.written} == {b"": 0, b"a": 1}
    said = {(letter.why("topic").rpartition(".")[2], letter.why("message")) for letter in job.dead}
    assert said == {
        ("shown", "the record's key is null, and it is the id (input.id)"),
        ("clicked", "the record's key is null, and it is the id (feedback.clicks.id)"),
        ("clicked", "the field 'event' is null, and it is feedback.clicks.id"),
    }


# -- size ------------------------------------------------------------------------------------------------------


def test_a_record_of_10_mb_is_cut_and_says_so(make_job: MakeJob) -> None:
    job = make_job(partitions=1)
    job.tree["input"]["topic"] = f"{job.name}.large"
    job.make([f"{job.name}.large"], max_message_bytes=str(20 << 20))
    noise = random.Random(1).randbytes(10 << 20)  # which no codec makes smaller
    valid = b'{"id": "large", "at": %d, "x": "%s"}' % (T0, b"y" * (10 << 20))
    good = [Raw(b'{"id": "p%d", "at": %d}' % (number, T0), b"k", 0) for number in range(3)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    job.write("large", [good[0], Raw(noise, b"noise", 0), good[1], Raw(valid, b"valid", 0), good[2]])
    job.publish("1h clicked later-click")
    job.write("large", [Raw(b'{"id": "later-end", "at": %d}' % (T0 + 3_600_000), b"k", 0)])
    job.run()
    assert job.labels() == {"p0": "0 implicit", "p1": "0 implicit", "p2": "0 implicit"}
    letters = {letter.key: letter for letter in job.dead}
    for key, whole, stage in ((b"noise", noise, "decode"), (b"valid", valid, "output")):
        letter = letters[key]
        assert letter.why("stage") == stage
        assert letter.why("cut") == str(len(key) + len(whole))
        assert letter.value is not None
        assert whole.startswith(letter.value)
        assert 490_000 < len(letter.value) <= 500_000
    assert "max.message.bytes" in letters[b"valid"].why("message")
    # In kilobytes: both records, the producer's copies of them, and what reading them takes several times over.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000


def test_a_record_alone_in_its_batch_may_be_too_large() -> None:
    task = OneTask()
    task.give("shown", [b'{"id": "a", "at": %d, "x": "%s"}' % (T0, b"y" * 1_000_000)])
    assert task.reasons == ["too_large"]
    assert task.rows() == {}


@pytest.mark.parametrize("fill", ["DE", "\x01", "é"])
def test_a_long_stratum_counts_in_what_a_record_needs(fill: str) -> None:
    task = OneTask({"sample": {"design": "stratified", "by": "country", "rate": 1.0}})
    for size in (100, 1_000, 10_000, 100_000, 160_000, 300_000, 450_000):
        country = fill * (size // len(fill.encode()))
        value = json.dumps({"id": str(size), "at": T0, "country": country}, ensure_ascii=False)
        task.give("shown", [value.replace("\x01", "\\u0001").encode()])
    task.play("0s shown small country=DE")
    task.play("1h shown later country=DE\n1h clicked later")
    assert max(len(record.value) + len(record.key) for record in task.written) < 1_000_000
    assert "small" in task.labels()
    assert set(task.reasons) == {"too_large"}


# -- too many -----------------------------------------------------------------------------------------------------


def test_above_max_ratio_the_job_stops_and_nothing_is_lost(make_job: MakeJob) -> None:
    job = make_job({"dead_letters": {"max_ratio": 0.1, "min_count": 20}}, partitions=1)
    good = [Raw(b'{"id": "p%d", "at": %d}' % (number, T0), b"k", 0) for number in range(18)]
    job.write("shown", [*good, *[Raw(b"{bad", b"k", 0)] * 3])
    with pytest.raises(DeadLetterLimitError) as stopped:
        job.run()
    words = str(stopped.value)
    assert "3 of the last 21 records could not be used, more than dead_letters.max_ratio (0.1) allows" in words
    assert f"{job.name}.shown/0@18: the value is not valid JSON" in words
    assert "raise dead_letters.max_ratio" in words
    assert job.dead == []  # the transaction is thrown away as a whole
    job.tree["dead_letters"]["max_ratio"] = 0.2
    job.later(later("1h"))
    job.run()
    assert len(job.dead) == 3
    assert len(job.labels()) == 18


def test_below_min_count_nothing_is_judged() -> None:
    task = OneTask()
    rejected = task.plan.input.read(task.batch("shown", [b"{bad"] * 10), NOW).rejected
    limit = DeadLetterLimit(0.5, 30)
    limit.count(10, rejected)
    limit.count(19, rejected)
    with pytest.raises(DeadLetterLimitError, match=r"30 of the last 30 records .* job\.shown/0@0"):
        limit.count(1, rejected)


def test_many_good_records_do_not_hide_that_a_producer_breaks() -> None:
    task = OneTask()
    rejected = task.plan.input.read(task.batch("shown", [b"{bad"] * 10), NOW).rejected
    limit = DeadLetterLimit(0.01, 1_000)
    for _ in range(1_000):
        limit.count(50_000, [])
    with pytest.raises(DeadLetterLimitError):
        for _ in range(2_000):
            limit.count(1_000, rejected * 20)


def test_the_injected_clock_decides_what_lies_ahead() -> None:
    task = OneTask({"max_future": "1m"})
    task.give("shown", [b'{"id": "a", "at": %d}' % (NOW + 60_000), b'{"id": "b", "at": %d}' % (NOW + 60_001)])
    assert task.reasons == ["future"]
    letter: Dead = task.dead[0]
    assert "max_future (60000 ms)" in letter.why("message")
