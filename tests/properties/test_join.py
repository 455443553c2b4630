"""The join against its oracle: any order, batching and restarts give the same records (A2, A8, A9, A13, A15, A18)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsample.labels import JoinSettings, LabelJoin, decode_delta
from streamsample.labels.settings import TAKES
from streamsample.labels.watermark import MIN
from tests.labels import harness, oracle
from tests.labels.oracle import Feedback, Prediction, Rule, Target

IDS = [b"", b"a", b"key", b"key2", b"key\x00", b"0123456789abcdef", b"0123456789abcdeg"]


@dataclass(frozen=True)
class World:
    """What happened, by partition: 0 is the input, 1 + s the feedback source s. sources: the kind of each."""

    targets: list[Target]
    sources: list[int]
    skew: int
    grace: int
    late_horizon: int
    predictions: list[Prediction]
    feedback: list[list[Feedback]]
    covered_from: dict[int, int]
    corrections: int
    each: bool

    @property
    def shape(self) -> JoinSettings:
        return harness.settings_of(
            self.targets, skew=self.skew, grace=self.grace, late_horizon=self.late_horizon, sources=self.sources,
            corrections=self.corrections, each=self.each,
        )  # fmt: skip

    def partition(self, number: int) -> list[Prediction] | list[Feedback]:
        return self.predictions if number == 0 else self.feedback[number - 1]


@st.composite
def times_within_grace(draw: st.DrawFn, grace: int, scale: int) -> list[int]:
    """Event times of one partition whose disorder is within `grace`."""
    steps = draw(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=30))
    now, times = draw(st.integers(-5, 5)) * scale, []
    for step, back in steps:
        now += step * scale
        times.append(now - min(back * scale, grace))
    return times


@st.composite
def worlds(draw: st.DrawFn) -> World:
    scale = draw(st.sampled_from([1, 1, 700]))
    kinds = draw(st.integers(1, 3))
    sources = draw(st.permutations([*range(kinds), *draw(st.lists(st.integers(0, kinds - 1), max_size=1))]))
    targets = [draw(some_target(kinds, scale)) for _ in range(draw(st.integers(1, 3)))]
    skew, grace, horizon = (draw(st.integers(0, top)) * scale for top in (4, 8, 20))
    ids = st.sampled_from(IDS[: draw(st.integers(1, len(IDS)))])
    predictions = [
        Prediction(3 + 2 * number, ts, draw(ids), b"payload %d" % number if number % 4 else b"")
        for number, ts in enumerate(draw(times_within_grace(grace, scale)))
    ]
    feedback = []
    for source, kind in enumerate(sources):
        width = sum(use.feedback == kind for use in oracle.uses_of(targets))
        values = st.tuples(*([st.none() | st.integers(-9, 9)] * width))
        times = draw(times_within_grace(grace, scale))
        feedback.append(
            [Feedback(source, at, ts, draw(ids), draw(st.integers(0, 9)), draw(values)) for at, ts in enumerate(times)]
        )
    covered = draw(st.dictionaries(st.integers(0, kinds - 1), st.integers(-5, 30).map(lambda at: at * scale)))
    corrections = draw(st.sampled_from([0, 0, 4, 20, 60])) * scale
    each = draw(st.booleans())
    return World(targets, sources, skew, grace, horizon, predictions, feedback, covered, corrections, each)


@st.composite
def some_target(draw: st.DrawFn, kinds: int, scale: int) -> Target:
    """One to three rules, strongest first, each with its own window, of any feedback, some of them undone."""
    rules = tuple(
        Rule(
            draw(st.integers(0, 15)) * scale,
            draw(st.integers(0, kinds - 1)),
            draw(st.sampled_from(TAKES)),
            draw(st.none() | st.integers(0, kinds - 1)),
            draw(st.booleans()),
        )
        for _ in range(draw(st.integers(1, 3)))
    )
    return Target(
        rules, draw(st.sampled_from(["value", "null", "drop"])), draw(st.integers(-3, 3)), draw(st.booleans())
    )


class Player:
    """Plays a world's partitions to a join in some order, with commits, crashes and restarts in between."""

    def __init__(self, world: World, hash_ids: harness.Hash) -> None:
        self.world = world
        self.hash_ids = hash_ids
        self.settings = world.shape
        self.join = LabelJoin(self.settings)
        self.records: list[harness.Record] = []
        self.position = [0] * (1 + len(world.feedback))
        self.largest: list[int | None] = [None] * len(self.position)
        self.deltas: list[bytes] = []
        self.committed = (list(self.position), list(self.largest), 0)
        self.duplicates = 0

    def read(self, partition: int, count: int) -> None:
        start = self.position[partition]
        events = self.world.partition(partition)[start : start + count]
        if not events:
            return
        self.position[partition] += len(events)
        self.largest[partition] = max([event.ts for event in events] + [self.largest[partition] or events[0].ts])
        if partition == 0:
            codes = harness.give_predictions(self.join, events, self.hash_ids)  # type: ignore[arg-type]
            assert set(codes) <= {0, 1}, "nothing is late or refused within the grace"
        else:
            harness.give_feedback(self.join, events, self.hash_ids)  # type: ignore[arg-type]
        self.join.check()

    def watermark(self) -> int:
        return min((MIN if largest is None else largest) for largest in self.largest)

    def settle(self, watermark: int | None = None) -> None:
        to = self.watermark() if watermark is None else watermark
        covered = np.full(len(self.world.feedback), MIN, np.int64)
        for source, since in self.world.covered_from.items():
            covered[source] = since
        deadline = self.join.next_deadline()
        open_before, waiting = self.join.counts().open_rows, self.join.counts().waiting
        settled = self.join.on_watermark(to, covered)
        if deadline is None or to <= deadline:
            assert self.join.counts().open_rows == open_before
            assert self.join.counts().waiting == waiting
        self.records += harness.records_of(settled)
        self.join.check()

    def commit(self, rewrite: int) -> None:
        """rewrite 1: everything goes into this delta again, so the older ones can go; 2: those not needed go."""
        if rewrite == 1:
            self.join.rewrite(10**9)
            self.deltas = []
        elif rewrite == 2:
            watermark = self.join.watermark
            self.deltas = [data for data in self.deltas if decode_delta(data).needed_until >= watermark]
        self.deltas.append(harness.snapshot(self.join))
        self.committed = (list(self.position), list(self.largest), len(self.records))

    def crash(self) -> None:
        """Back to the last commit, from its deltas alone."""
        position, largest, records = self.committed
        self.position, self.largest = list(position), list(largest)
        del self.records[records:]
        self.join = harness.restarted(self.settings, self.deltas)
        self.join.check()

    def finish(self) -> None:
        for partition in range(len(self.position)):
            self.read(partition, 10**6)
        self.settle()


_READ = st.tuples(st.just("read"), st.integers(0, 4), st.integers(1, 8))
_COMMIT = st.tuples(st.just("commit"), st.integers(0, 2))
STEPS = st.lists(
    st.one_of(
        _READ,
        st.tuples(st.just("read and settle"), st.integers(0, 4), st.integers(1, 3)),
        _COMMIT,
        st.tuples(st.just("commit and crash"), st.integers(0, 2)),
        st.tuples(st.just("crash")),
    ),
    max_size=40,
)
HASHES = st.sampled_from([harness.real_hash, harness.constant_hash, harness.weak_hash])


def take(player: Player, steps: list[tuple[object, ...]]) -> None:
    for what, *arguments in steps:
        if what in ("read", "read and settle"):
            player.read(int(arguments[0]) % len(player.position), int(arguments[1]))  # type: ignore[call-overload]
        if what == "read and settle":
            player.settle()
        if what in ("commit", "commit and crash"):
            player.commit(int(arguments[0]))  # type: ignore[call-overload]
        if what in ("crash", "commit and crash"):
            player.crash()


def play(world: World, steps: list[tuple[object, ...]], hash_ids: harness.Hash) -> Player:
    player = Player(world, hash_ids)
    take(player, steps)
    player.finish()
    return player


def expect(player: Player, watermark: int) -> None:
    """Hold what came out against the oracle."""
    world = player.world
    wanted = oracle.join(
        world.predictions,
        [event for events in world.feedback for event in events],
        world.targets,
        skew=world.skew,
        grace=world.grace,
        late_horizon=world.late_horizon,
        watermark=watermark,
        covered_from=world.covered_from,
        sources=world.sources,
        corrections=world.corrections,
        each=world.each,
    )
    assert player.records == wanted.records
    assert player.join.ledger.predictions[1] == wanted.duplicates
    for number in range(len(wanted.feedback)):
        assert harness.feedback_counts(player.join, number) == wanted.feedback[number]
    for number in range(len(world.targets)):
        assert harness.row_counts(player.join, number) == wanted.rows[number]


@settings(max_examples=250, deadline=None)
@given(worlds(), STEPS, HASHES)
def test_a2_any_order_any_restart_equals_the_oracle(
    world: World, steps: list[tuple[object, ...]], hash_ids: harness.Hash
) -> None:
    player = play(world, steps, hash_ids)
    expect(player, player.watermark())
    player.settle(10**7)
    expect(player, 10**7)
    counts = player.join.counts()
    assert (counts.open_rows, counts.waiting, counts.matches, counts.payload_bytes) == (0, 0, 0, 0)


@settings(max_examples=60, deadline=None)
@given(worlds(), STEPS, HASHES)
def test_a13_a_restored_join_goes_on_as_if_nothing_had_been(
    world: World, steps: list[tuple[object, ...]], hash_ids: harness.Hash
) -> None:
    """The restored one and the one that went on give the same columns and the same deltas from then on."""
    player = play(world, [step for step in steps if "crash" not in str(step[0])][: len(steps) // 2], hash_ids)
    player.commit(0)
    restored = harness.restarted(player.settings, player.deltas)
    for watermark in (player.join.watermark + 3, player.join.watermark + 5000, 10**7):
        if player.join.watermark == MIN:
            watermark = max(watermark, -100)
        left, right = player.join.on_watermark(watermark), restored.on_watermark(watermark)
        assert harness.records_of(left) == harness.records_of(right)
        assert harness.snapshot(player.join) == harness.snapshot(restored)
        restored.check()


@settings(max_examples=40, deadline=None)
@given(worlds(), STEPS, STEPS)
def test_a8_two_interleavings_give_the_same_bytes(
    world: World, one: list[tuple[object, ...]], other: list[tuple[object, ...]]
) -> None:
    left, right = play(world, one, harness.real_hash), play(world, other, harness.weak_hash)
    left.settle(10**7)
    right.settle(10**7)
    assert left.records == right.records
