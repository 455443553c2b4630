"""The changelog of a task that lives long: what may be dropped, what is written again, and that a restore is exact."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsample.errors import StateError
from streamsample.kafka.changelog import StoredChunk
from streamsample.labels import Delta, JoinSettings, LabelJoin, Rule, TargetRules, decode_delta, encode_delta
from streamsample.records import TopicPartition
from streamsample.runtime.state import (
    ChunkBody,
    ChunkLog,
    DrawDelta,
    Logged,
    ReceivedState,
    SchemaName,
    check_body,
    decode_body,
    delta_of,
    encode_body,
    needed_until,
)
from tests.labels.harness import give_feedback, give_predictions, records_of
from tests.labels.oracle import Feedback, Prediction

CHANGELOG = TopicPartition("job.changelog", 0)
SLACK = 12
S = 1_000
"""Of ms: the join forgets rows by buckets of a second or more."""
JOIN = JoinSettings(
    feedback=("clicks",),
    targets=(TargetRules("clicked", (Rule(0, 40 * S),), "value", 0),),
    grace_ms=10 * S,
    skew_ms=3 * S,
    late_horizon_ms=20 * S,
)


@dataclass
class Kept:
    """A join with its log, and the log's chunks as a topic would hold them."""

    join: LabelJoin = field(default_factory=lambda: LabelJoin(JOIN))
    log: ChunkLog = field(default_factory=ChunkLog)
    topic: dict[int, bytes] = field(default_factory=dict)
    end: int = 0

    def live(self) -> int:
        counts = self.join.counts()
        return counts.held_rows + counts.waiting + counts.matches

    def log_elements(self) -> int:
        return sum(chunk.holds.elements for chunk in self.log._chunks)

    def commit(self) -> Delta:
        """As `Task.snapshot` and the worker's commit do it."""
        stale = self.log.stale_rows(self.live())
        if stale is not None:
            self.join.rewrite(stale)
        delta = self.join.snapshot_delta()
        sequence = self.log.next_sequence
        self.topic[sequence] = encode_delta(delta)
        self.log.add(sequence, self.end, len(self.topic[sequence]), Logged.of_join(delta))
        self.log.trim(self.join.watermark)
        self.end += 3
        return delta

    def chunks(self) -> list[tuple[int, int, Delta]]:
        """What a restore would read: sequence, offset, delta. What was dropped is gone for good."""
        position = self.log.position()
        assert position.offset == self.log.first_offset
        self.topic = {number: body for number, body in self.topic.items() if number >= position.first}
        assert sorted(self.topic) == list(range(position.first, position.last + 1))
        return [(number, 3 * number, decode_delta(body)) for number, body in sorted(self.topic.items())]

    def restored(self, join: JoinSettings = JOIN) -> Kept:
        """Another worker, that begins from the log."""
        other = Kept(LabelJoin(join), ChunkLog(), dict(self.topic), self.end)
        chunks = self.chunks()
        needed = needed_until(join, [delta for _, _, delta in chunks])
        for (sequence, offset, delta), until in zip(chunks, needed, strict=True):
            other.log.add(sequence, offset, len(self.topic[sequence]), Logged.of_join(delta, until))
        other.join.restore([delta for _, _, delta in chunks])
        return other


@dataclass(frozen=True)
class Turn:
    """One commit's worth of time: predictions and feedback by (age, id), and how much time passes. ahead: of a
    prediction dated far ahead, which keeps its chunk needed.
    """

    predictions: list[tuple[int, int]]
    feedback: list[tuple[int, int]]
    ahead: int
    passes: int
    restart: bool


TURNS = st.lists(
    st.builds(
        Turn,
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), max_size=6),
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), max_size=6),
        st.sampled_from([0, 0, 0, 0, 200, 900]),
        st.integers(0, 30),
        st.booleans(),
    ),
    min_size=5,
    max_size=50,
)


@settings(max_examples=50, deadline=None)
@given(turns=TURNS)
def test_a_log_that_is_trimmed_and_rewritten_restores_right(turns: list[Turn]) -> None:
    """One join goes on undisturbed, the other is restored from its log now and then: they bring out the same, and the
    log stays within twice the live state.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChunkLog, "_SLACK", SLACK)
        whole, parts = LabelJoin(JOIN), Kept()
        now, places = 1_000 * S, [0, 0]
        for turn in turns:
            now += turn.passes * S
            ids = [(now - age * S, f"p{id_}") for age, id_ in turn.predictions]
            ids += [(now + turn.ahead * S, f"ahead{now}")] if turn.ahead else []
            served = [Prediction(places[0] + k, ts, id_.encode(), id_.encode()) for k, (ts, id_) in enumerate(ids)]
            given_ = [
                Feedback(0, places[1] + k, now - age * S, f"p{id_}".encode(), places[1] + k, (places[1] + k,))
                for k, (age, id_) in enumerate(turn.feedback)
            ]
            places = [places[0] + len(served), places[1] + len(given_)]
            found = []
            for join in (whole, parts.join):
                give_predictions(join, served)
                give_feedback(join, given_)
                found.append(records_of(join.on_watermark(now)))
            assert found[0] == found[1]
            before, live = parts.log_elements(), parts.live()
            delta = parts.commit()
            added = len(delta.rows.offset) + len(delta.matches.offset) + len(delta.waiting.offset)
            assert parts.log_elements() <= max(2 * live + SLACK, before / 2) + added
            if turn.restart:
                parts = parts.restored()
                parts.join.check()
        assert (whole.ledger.rows == parts.join.ledger.rows).all()
        assert (whole.ledger.feedback == parts.join.ledger.feedback).all()


def test_a_log_of_rows_that_close_in_order_cleans_itself() -> None:
    kept = Kept()
    sizes = []
    for turn in range(60):
        now = (1_000 + 10 * turn) * S
        give_predictions(kept.join, [Prediction(5 * turn + k, now + k, b"%d" % (5 * turn + k)) for k in range(5)])
        kept.join.on_watermark(now)
        kept.commit()
        sizes.append(len(kept.chunks()))
    assert max(sizes) == sizes[-1] == 8  # turns of 10 ms: 40 + 10 of window and grace, 20 + 3 held after that


def test_long_lived_rows_do_not_keep_it_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChunkLog, "_SLACK", SLACK)
    kept = Kept()
    give_predictions(kept.join, [Prediction(k, 100_000 * S + k, b"long%d" % k) for k in range(20)])
    rewritten, longest = 0, 0
    for turn in range(200):
        now = (1_000 + 10 * turn) * S
        first = 20 + 5 * turn
        give_predictions(kept.join, [Prediction(first + k, now + k, b"%d" % (first + k)) for k in range(5)])
        kept.join.on_watermark(now)
        rewritten += len(kept.commit().rows.offset) - 5
        longest = max(longest, kept.log_elements())
        if turn % 50 == 49:
            kept = kept.restored()
    assert longest <= 2 * 70 + SLACK + 25
    assert kept.join.counts().open_rows > 20
    assert rewritten < 5 * 200  # the work of writing again stays below that of writing


def test_longer_windows_keep_the_chunks_longer() -> None:
    """Deltas that say until when they are needed were made with windows that have been lengthened since."""
    kept = Kept()
    give_predictions(kept.join, [Prediction(0, 1_000 * S, b"long")])
    kept.join.on_watermark(1_000 * S)
    kept.commit()
    longer = replace(JOIN, targets=(replace(JOIN.targets[0], rules=(Rule(0, 400 * S),)),), grace_ms=30 * S)
    kept = kept.restored(longer)
    for turn in range(1, 40):
        kept.join.on_watermark((1_000 + 10 * turn) * S)
        kept.commit()
        assert kept.join.counts().open_rows == 1
        kept = kept.restored(longer)
    give_feedback(kept.join, [Feedback(0, 0, 1_395 * S, b"long", 0, (7,))])
    (record,) = records_of(kept.join.on_watermark(1_431 * S))
    assert record[4][0].value == 7
    kept.join.on_watermark(2_000 * S)
    kept.commit()
    assert len(kept.chunks()) == 1


# -- what a chunk holds ---------------------------------------------------------------------------

BODY = ChunkBody(
    shape="shape",
    parts={"feedback.clicks": "a", "targets.clicked": "b"},
    partitions=3,
    positions={"predictions": 7, "clicks": 9},
    watermark={"value": 5, "value_without_idle": 5, "largest": [("clicks", 0, 5)]},
    covered_from={"clicks": -(2**63)},
    start_ms=None,
    counts={"tombstones": 1},
    schemas=[SchemaName(None, "a"), SchemaName(4, "b")],
    draws={"sample": DrawDelta(7, b"nodes")},
    sent={"value": 5, "value_without_idle": 5, "largest": [("orders", 0, 5)]},
    received=ReceivedState({"orders/0": (7, -(2**63))}, 5, {"orders": 6}),
    step=b"",
)
ENCODED = b"".join(encode_body(BODY, []))


def stored(body: bytes) -> StoredChunk:
    return StoredChunk(11, 20, len(body), body)


def test_a_body_is_what_it_was_written_as() -> None:
    assert decode_body(stored(ENCODED), CHANGELOG) == BODY
    with_join = b"".join(encode_body(BODY, [b"de", memoryview(b"lta")]))
    assert decode_body(stored(with_join), CHANGELOG).step == b"delta"


@pytest.mark.parametrize("body", [b"", b"\xc1", ENCODED[:-1], b"\0\0\0\x02" + ENCODED[4:], b"\0\0\0\x01\x90"])
def test_a_body_that_is_none_is_told(body: bytes) -> None:
    with pytest.raises(StateError, match=r"job.changelog/0@20: chunk 11 cannot be read: .*streamsample reset JOB"):
        decode_body(stored(body), CHANGELOG)


def test_a_body_of_another_job_is_refused() -> None:
    check_body(BODY, "shape", BODY.parts, 3, CHANGELOG)
    check_body(BODY, "shape", {"feedback.clicks": "a", "feedback.orders": "c"}, 3, CHANGELOG)
    with pytest.raises(StateError, match=r"job.changelog/0: .*another shape; .* - take the change back, .*reset JOB"):
        check_body(BODY, "other", BODY.parts, 3, CHANGELOG)
    with pytest.raises(StateError, match=r"another shape; changed since: feedback.clicks - .*reset JOB"):
        check_body(BODY, "shape", {**BODY.parts, "feedback.clicks": "c"}, 3, CHANGELOG)
    with pytest.raises(StateError, match=r"made with 3 partitions, the input has 4 now.* - go back to 3 .*reset JOB"):
        check_body(BODY, "shape", BODY.parts, 4, CHANGELOG)


def test_rows_keep_their_schemas_when_others_come() -> None:
    kept = Kept()
    ids = [Prediction(k, 1_000 + k, b"%d" % k) for k in range(4)]
    give_predictions(kept.join, ids)
    delta = kept.join.snapshot_delta()
    delta = replace(delta, rows=replace(delta.rows, schema=np.array([0, 1, 1, 0], np.int16)))
    body = msgspec_replace(BODY, step=encode_delta(delta))
    now = [SchemaName(9, "new"), SchemaName(4, "b"), SchemaName(None, "a")]
    found = delta_of(body, now, CHANGELOG)
    assert found.rows.schema.tolist() == [2, 1, 1, 2]
    with pytest.raises(
        StateError, match=r"rows are open whose schema \(id 4\) input.schema_files no longer has as it was"
    ):
        delta_of(body, [SchemaName(4, "changed"), SchemaName(None, "a")], CHANGELOG)


def msgspec_replace(body: ChunkBody, **changes: object) -> ChunkBody:
    from msgspec.structs import replace as struct_replace

    return struct_replace(body, **changes)
