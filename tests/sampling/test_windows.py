"""The windowed sample of a task against its definition: all records of a window, sorted by rank, the first k units."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsample.errors import StateError
from streamsample.hashing import hash64, unit_interval
from streamsample.records import Spans
from streamsample.sampling import StratifiedReservoir
from streamsample.sampling.kept_rows import KeptRows
from streamsample.sampling.ranks import Law
from streamsample.sampling.window_columns import Details, Drawn, Offered, WindowPart, WindowSettings
from streamsample.sampling.window_delta import WindowDelta, decode_window_delta, encode_window_delta
from streamsample.sampling.window_samples import samples_of
from streamsample.sampling.windows import WindowedSample

WINDOW, GRACE, K = 1_000, 50, 3
DECLARED = ("A", "B")


@dataclass(frozen=True)
class Event:
    offset: int
    ts: int
    id: str
    stratum: str
    weight: float


@dataclass
class Written:
    """What came out, by record: everything that the sample says of it."""

    law: Law = "uniform"
    records: dict[int, tuple[object, ...]] = field(default_factory=dict)

    def take(self, part: WindowPart | None) -> None:
        if part is None:
            return
        drawn = samples_of(settings_of(self.law), part)
        rows = drawn.rows
        columns = (
            rows.ts, rows.schema, rows.split, rows.ids.to_list(), rows.stratum.to_list(),
            rows.payload.to_list(), drawn.probability, drawn.threshold, drawn.n, drawn.k, drawn.settled_at,
        )  # fmt: skip
        for offset, *rest in zip(rows.offset.tolist(), *columns, strict=True):
            assert offset not in self.records
            self.records[offset] = tuple(repr(value) for value in rest)


def settings_of(law: Law, others: int = 2) -> WindowSettings:
    return WindowSettings(K, law, WINDOW, GRACE, strata=DECLARED, others=others)


def unit_of(events: list[Event], seed: int = 7) -> np.ndarray:
    return hash64(Spans.of([event.id.encode() for event in events]), seed)


def offered(events: list[Event], source: int = 0) -> Offered:
    return Offered(
        source=source,
        offset=np.array([event.offset for event in events], np.int64),
        index=np.zeros(len(events), np.int16),
        ts=np.array([event.ts for event in events], np.int64),
        unit=unit_of(events),
        weight=np.array([event.weight for event in events], np.float64),
        stratum=Spans.of([event.stratum.encode() for event in events]),
        ids=Spans.of([event.id.encode() for event in events]),
    )


def closed(sample: WindowedSample, watermark: int) -> Drawn:
    part = sample.on_watermark(watermark)
    assert part is not None
    return samples_of(sample.settings, part)


def show(sample: WindowedSample, events: list[Event], source: int = 0) -> list[bool]:
    def details(rows: np.ndarray) -> Details:
        offset = np.array([events[row].offset for row in rows.tolist()])
        payload = Spans.of([f"payload {each}".encode() for each in offset.tolist()])
        return Details((offset % 3).astype(np.int16), (offset % 2).astype(np.int8), payload)

    return sample.on_records(offered(events, source), details).tolist()


def oracle(events: list[Event], law: Law, closed_before: int, others: int = 2) -> dict[int, tuple[object, ...]]:
    """By definition, in Python."""
    groups: dict[tuple[int, object], list[tuple[float, Event]]] = defaultdict(list)
    for event, u in zip(events, unit_interval(unit_of(events)).tolist() if events else [], strict=True):
        name = event.stratum.encode()
        place = event.stratum if event.stratum in DECLARED else int(hash64(Spans.of([name]), 0)[0] % np.uint64(others))
        rank = u if law == "uniform" else -np.log1p(-u) / event.weight if event.weight else np.inf
        groups[event.ts // WINDOW, place].append((float(rank), event))
    out: dict[int, tuple[object, ...]] = {}
    for (window, _), members in groups.items():
        end = (window + 1) * WINDOW + GRACE
        if end >= closed_before:
            continue
        ranks = sorted({rank for rank, event in members if rank < np.inf})
        threshold = ranks[K] if len(ranks) > K else np.inf
        for rank, event in members:
            if rank < threshold and event.weight > 0:
                pi = 1.0 if threshold == np.inf else threshold
                if law == "exponential" and threshold < np.inf:
                    pi = -np.expm1(-event.weight * threshold)
                said = (
                    event.ts, np.int16(event.offset % 3), np.int8(event.offset % 2), event.id.encode(),
                    event.stratum.encode(), f"payload {event.offset}".encode(), np.float64(pi),
                    np.float64(np.nan if threshold == np.inf else threshold), np.int64(len(members)), np.int64(K),
                    np.int64(end),
                )  # fmt: skip
                out[event.offset] = tuple(repr(np.int64(v) if type(v) is int else v) for v in said)
    return out


EVENT = st.tuples(
    st.integers(0, 3_500), st.integers(0, 200), st.sampled_from(["A", "B", "C", "D", "E"]), st.sampled_from([0, 0.5, 3])
)


def made(raw: list[tuple[int, int, str, float]], law: Law) -> list[Event]:
    """Ids are unique: a unit is a record. Without weights there is none that is never sampled."""
    return [
        Event(offset, ts, f"{offset}/{number}", stratum, float(weight) if law == "exponential" else 1.0)
        for offset, (ts, number, stratum, weight) in enumerate(raw)
    ]


@given(
    st.lists(EVENT, max_size=120),
    st.lists(st.integers(1, 40), min_size=1),
    st.lists(st.booleans(), min_size=1),
    st.sampled_from(["uniform", "exponential"]),
)
@settings(deadline=None)
def test_b7_b8_any_batches_and_restores_give_the_sample_of_the_definition(
    raw: list[tuple[int, int, str, float]], sizes: list[int], restored: list[bool], law: Law
) -> None:
    events, written = made(raw, law), Written(law)
    sample, deltas = WindowedSample(settings_of(law)), list[WindowDelta]()
    at = turn = 0
    while at < len(events):
        batch = events[at : at + sizes[turn % len(sizes)]]
        assert not any(show(sample, batch))
        at += len(batch)
        deltas.append(decode_window_delta(encode_window_delta(sample.snapshot_delta())))
        if restored[turn % len(restored)]:
            sample = WindowedSample(settings_of(law))
            sample.restore(deltas)
        turn += 1
    written.take(sample.on_watermark(3_000))
    assert written.records == oracle(events, law, 3_000)
    written.take(sample.on_watermark(10_000))
    assert written.records == oracle(events, law, 10_000)
    assert (sample.open_windows, sample.held) == (0, 0)


@given(st.lists(EVENT, max_size=120), st.integers(1, 4), st.randoms(), st.booleans())
@settings(deadline=None)
def test_b4_b7_what_partitions_hold_unites_to_the_sample_of_all_in_any_order(
    raw: list[tuple[int, int, str, float]], partitions: int, order: Random, restored: bool
) -> None:
    events, law = made(raw, "exponential"), "exponential"
    parts = []
    for number in range(partitions):
        sample = WindowedSample(settings_of(law))
        show(sample, events[number::partitions], number)
        parts.append(sample.on_watermark(3_000))
    whole, written, deltas = WindowedSample(settings_of(law)), Written(law), list[WindowDelta]()
    order.shuffle(parts)
    for part in parts:
        if part is not None:
            whole.on_part(part)
        deltas.append(decode_window_delta(encode_window_delta(whole.snapshot_delta())))
        if restored:
            whole = WindowedSample(settings_of(law))
            whole.restore(deltas)
    written.take(whole.on_watermark(3_000))
    assert written.records == oracle(events, law, 3_000)


@given(st.lists(EVENT, max_size=120), st.integers(1, 4), st.randoms(), st.booleans())
@settings(deadline=None)
def test_b7_b10_sizes_are_allocated_by_what_all_partitions_counted(
    raw: list[tuple[int, int, str, float]], partitions: int, order: Random, restored: bool
) -> None:
    """Exact sums, and ties by name: Neyman's allocation is the same in whatever parts the records were seen."""
    events, wanted = made(raw, "uniform"), dict[int, tuple[object, ...]]()
    rule = WindowSettings(
        6, "uniform", WINDOW, GRACE, strata=DECLARED, others=2, allocation="neyman", minimum=1, k_max=4
    )
    value = {event.offset: float(hash64_of(event)) for event in events}

    def show_some(sample: WindowedSample, some: list[Event], source: int) -> None:
        x = np.array([value[event.offset] for event in some])
        sample.on_records(
            replace(offered(some, source), values=(x, x * x)),
            lambda rows: Details(np.zeros(len(rows), np.int16), np.zeros(len(rows), np.int8), Spans.nulls(len(rows))),
        )

    for window in {event.ts // WINDOW for event in events}:
        members = [event for event in events if event.ts // WINDOW == window]
        library = StratifiedReservoir(6, 7, allocation="neyman", minimum=1, strata=DECLARED, others=2, k_max=4)
        library.update(
            [event.id for event in members],
            [event.stratum for event in members],
            [value[event.offset] for event in members],
        )
        sample = library.sample()
        for row, at in enumerate(sample.position.tolist()):
            of = sample.strata[int(sample.stratum[row])]
            wanted[members[at].offset] = (sample.probability[row], of.n, of.k, of.threshold)

    parts, whole = [], WindowedSample(rule)
    for number in range(partitions):
        one = WindowedSample(rule)
        show_some(one, events[number::partitions], number)
        parts.append(one.on_watermark(10_000))
    order.shuffle(parts)
    deltas = []
    for part in filter(None, parts):
        whole.on_part(part)
        deltas.append(decode_window_delta(encode_window_delta(whole.snapshot_delta())))
        if restored:
            whole = WindowedSample(rule)
            whole.restore(deltas)
    closing = whole.on_watermark(10_000)
    assert (closing is None) == (not events)
    if closing is None:
        return
    drawn = samples_of(rule, closing)
    threshold = np.where(np.isnan(drawn.threshold), np.inf, drawn.threshold)
    said = zip(drawn.probability, drawn.n, drawn.k, threshold, strict=True)
    assert dict(zip(drawn.rows.offset.tolist(), said, strict=True)) == wanted


@given(st.lists(EVENT, max_size=120), st.integers(1, 4), st.randoms(), st.booleans())
@settings(deadline=None)
def test_b7_b12_the_first_that_come_are_the_first_of_all_partitions(
    raw: list[tuple[int, int, str, float]], partitions: int, order: Random, restored: bool
) -> None:
    """By event time, then partition and offset, whatever order the parts are united in; k may be 1."""
    events = made([(ts // 400 * 400, *rest) for ts, *rest in raw], "first")
    for k in (1, 3):
        rule = WindowSettings(k, "first", WINDOW, GRACE, strata=DECLARED, others=2)
        parts, whole, deltas = [], WindowedSample(rule), []
        for number in range(partitions):
            one = WindowedSample(rule)
            show(one, events[number::partitions], number)
            parts.append(one.on_watermark(10_000))
        order.shuffle(parts)
        for part in filter(None, parts):
            whole.on_part(part)
            deltas.append(decode_window_delta(encode_window_delta(whole.snapshot_delta())))
            if restored:
                whole = WindowedSample(rule)
                whole.restore(deltas)
        closing = whole.on_watermark(10_000)
        found = [] if closing is None else samples_of(rule, closing).rows.offset.tolist()
        groups = defaultdict(list)
        for event in events:
            name = event.stratum.encode()
            place = event.stratum if event.stratum in DECLARED else int(hash64(Spans.of([name]), 0)[0] % np.uint64(2))
            groups[event.ts // WINDOW, place].append((event.ts, event.offset % partitions, event.offset))
        assert sorted(found) == sorted(offset for some in groups.values() for _, _, offset in sorted(some)[:k])


def hash64_of(event: Event) -> float:
    """A number between -1,000 and 1,000 that the event alone decides."""
    return float(hash64(Spans.of([event.id.encode()]), 3)[0] % np.uint64(20_001)) / 10 - 1_000


def many(count: int, seed: int = 1) -> list[Event]:
    random = np.random.default_rng(seed)
    strata = np.array(["A", "B", "C", "D"])
    times = np.sort(random.integers(0, 5_000, count))
    return [
        Event(offset, int(ts), f"id {offset}", str(strata[random.integers(4)]), float(random.integers(1, 9)))
        for offset, ts in enumerate(times)
    ]


def test_b8_deltas_add_up_and_older_ones_can_go_after_a_rewrite() -> None:
    events = many(3_000)
    sample, deltas, written = WindowedSample(settings_of("exponential")), list[WindowDelta](), Written("exponential")
    for at in range(0, 3_000, 100):
        show(sample, events[at : at + 100])
        written.take(sample.on_watermark(events[at].ts))
        if at == 1_500:
            sample.rewrite()
            deltas = []
        deltas.append(sample.snapshot_delta())
        deltas = [delta for delta in deltas[:-1] if delta.needed_until >= sample.watermark] + deltas[-1:]
        if at % 700 == 0:
            again = WindowedSample(settings_of("exponential"))
            again.restore(deltas)
            assert (again.open_windows, again.held) == (sample.open_windows, sample.held)
            sample = again
    written.take(sample.on_watermark(100_000))
    assert written.records == oracle(events, "exponential", 100_000)
    assert len(deltas) < 12


def test_a_unit_is_kept_with_all_its_records() -> None:
    """The events of a user stand and fall together, and k counts users."""
    events = [Event(offset, 10, f"user {offset % 10}", "A", 1.0) for offset in range(40)]
    sample = WindowedSample(settings_of("uniform"))
    show(sample, events)
    drawn = closed(sample, 5_000)
    users = drawn.rows.ids.to_list()
    assert len(set(users)) == K
    assert len(users) == 4 * K
    assert set(drawn.n.tolist()) == {40}


def test_a6_what_comes_after_the_close_is_late_and_not_counted() -> None:
    sample = WindowedSample(settings_of("uniform"))
    show(sample, [Event(0, 100, "a", "A", 1.0)])
    assert sample.on_watermark(WINDOW + GRACE) is None
    assert sample.next_deadline() == WINDOW + GRACE
    drawn = closed(sample, WINDOW + GRACE + 1)
    assert (len(drawn), drawn.n.tolist(), drawn.settled_at.tolist()) == (1, [1], [WINDOW + GRACE])
    assert show(sample, [Event(1, 999, "b", "A", 1.0), Event(2, 1_000, "c", "A", 1.0)]) == [True, False]
    assert sample.next_deadline() == 2 * WINDOW + GRACE


def test_b14_memory_is_that_of_the_candidates_not_of_the_stream() -> None:
    sample = WindowedSample(settings_of("uniform"))
    sizes = []
    for begin in range(0, 200_000, 10_000):
        events = [Event(offset, 10, f"id {offset}", "ABCD"[offset % 4], 1.0) for offset in range(begin, begin + 10_000)]
        show(sample, events)
        sample.snapshot_delta()
        sizes.append(sample.bytes_used())
    assert sample.held == 4 * K or sample.held == 3 * K  # C and D may share a place
    assert max(sizes) < 600_000  # some 4,000 rows of what was displaced; the stream had 200,000


def test_b14_too_many_windows_are_refused() -> None:
    sample = WindowedSample(WindowSettings(K, "uniform", WINDOW, GRACE, windows_max=5))
    with pytest.raises(StateError, match=r"6 windows are open, limits\.windows_max is 5"):
        show(sample, [Event(number, number * WINDOW, f"id {number}", "A", 1.0) for number in range(6)])


def test_far_apart_windows_need_no_table_of_what_lies_between() -> None:
    events = [Event(number, number * 10**12, f"id {number}", "A", 1.0) for number in range(50)]
    sample, written = WindowedSample(settings_of("uniform")), Written()
    show(sample, events)
    written.take(sample.on_watermark(10**15))
    assert len(written.records) == 50


def test_damaged_deltas_are_refused() -> None:
    sample = WindowedSample(settings_of("uniform"))
    show(sample, many(50))
    data = encode_window_delta(sample.snapshot_delta())
    for damaged in (data[:-1], data[:10], b"", bytes([data[0] ^ 1]) + data[1:], data[:99] + b"?" + data[100:]):
        with pytest.raises(StateError):
            decode_window_delta(damaged)


def test_kept_rows_start_empty() -> None:
    kept = KeptRows()
    assert len(kept.get(np.empty(0, np.int64))) == 0
    kept.shrink(np.empty(0, np.int64))
    assert kept.end == 0
