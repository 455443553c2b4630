"""A join that takes up another's memory is that join: the same records, deltas and books from then on."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from streamsample.errors import InvariantError, LocalStateError
from streamsample.labels import LabelJoin, PayloadSpace, decode_delta
from streamsample.labels.image import Filled, chunks_of, dtype_of, image_of, take_up
from streamsample.labels.tables import reserved
from streamsample.labels.watermark import MIN
from tests.labels import harness
from tests.labels.harness import give_feedback, give_predictions, records_of, settings_of, snapshot
from tests.labels.oracle import Feedback, Prediction, Rule, Target
from tests.properties.test_join import HASHES, STEPS, Player, World, expect, take, worlds

W, G = 60_000, 10


def copied(join: LabelJoin, space: PayloadSpace, directory: Path) -> LabelJoin:
    """Another join with the memory of the first one, which is closed, by way of a directory."""
    directory.mkdir()
    before = chunks_of(join)
    names, places = space.keep(before, directory)
    loaded = {}
    for name, (pieces, room) in image_of(join).items():
        size = sum(map(len, pieces))
        kind = dtype_of(name, pieces[0].dtype.str if pieces else "<i8")
        loaded[name] = Filled(reserved(max(room, size), kind), size)
        loaded[name].array[:size] = np.concatenate([np.empty(0, kind), *pieces])
    fresh = LabelJoin(join.settings, space)
    take_up(fresh, loaded, space.take_over(directory, names, places))
    join.close()
    assert not list(directory.iterdir())
    return fresh


class Copying(Player):
    """A player whose restarts without a crash go through a copy of the memory."""

    def __init__(self, world: World, hash_ids: harness.Hash, directory: Path, limit: int | None) -> None:
        super().__init__(world, hash_ids)
        self.space = PayloadSpace(directory / "rows", limit)
        self.join = LabelJoin(self.settings, self.space)
        self.directory = directory
        self.numbers = itertools.count()
        self.settled_since = False

    def crash(self) -> None:
        """Back to the last commit: from a copy if it stands there, else from deltas."""
        if self.committed[2] == len(self.records) and self.position == self.committed[0] and not self.settled_since:
            self.copy()
            return
        self.join.close()
        super().crash()
        self.join = LabelJoin(self.settings, self.space)
        self.join.restore([decode_delta(delta) for delta in self.deltas])
        self.settled_since = False

    def commit(self, rewrite: int) -> None:
        super().commit(rewrite)
        self.settled_since = False

    def settle(self, watermark: int | None = None) -> None:
        super().settle(watermark)
        self.settled_since = True

    def copy(self) -> None:
        self.join = copied(self.join, self.space, self.directory / f"copy-{next(self.numbers)}")
        self.join.check()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(worlds(), STEPS, HASHES)
def test_a2_restarts_from_copies_and_from_deltas_equal_the_oracle(
    tmp_path_factory: pytest.TempPathFactory, world: World, steps: list[tuple[object, ...]], hash_ids: harness.Hash
) -> None:
    player = Copying(world, hash_ids, tmp_path_factory.mktemp("copies"), 0 if len(steps) % 2 else None)
    take(player, steps)
    player.finish()
    player.commit(0)
    player.copy()
    expect(player, player.watermark())
    player.settle(10**7)
    expect(player, 10**7)
    counts = player.join.counts()
    assert (counts.open_rows, counts.waiting, counts.matches, counts.payload_bytes) == (0, 0, 0, 0)
    player.join.close()
    assert (player.space.memory_bytes, player.space.file_bytes, player.space.table_bytes) == (0, 0, 0)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(worlds(), STEPS, HASHES)
def test_a13_a_copy_goes_on_as_the_join_that_was_not_restarted(
    tmp_path_factory: pytest.TempPathFactory, world: World, steps: list[tuple[object, ...]], hash_ids: harness.Hash
) -> None:
    """Records, in their order, and deltas, byte by byte."""
    joins = []
    for copies in (False, True):
        player = Copying(world, hash_ids, tmp_path_factory.mktemp("copies"), 0)
        for step in steps:
            if step[0] != "crash":
                take(player, [("commit", *step[1:]) if step[0] == "commit and crash" else step])
            if copies and step[0] == "commit and crash":
                player.copy()
        player.commit(0)
        if copies:
            player.copy()
        joins.append(player)
    left, right = joins
    assert left.records == right.records
    assert left.deltas == right.deltas
    for watermark in (left.join.watermark + 3, left.join.watermark + 5000, 10**7):
        if left.join.watermark == MIN:
            watermark = max(watermark, -100)
        assert records_of(left.join.on_watermark(watermark)) == records_of(right.join.on_watermark(watermark))
        assert snapshot(left.join) == snapshot(right.join)


def many(count: int, first: int = 0) -> list[Prediction]:
    return [
        Prediction(n, n % 50 * 1_000, b"prediction %d" % n, b"%d" % n + bytes(1_000))
        for n in range(first, first + count)
    ]


def test_a_copy_takes_new_rows_and_still_knows_the_old_ones(tmp_path: Path) -> None:
    """Tables have room left, and grow; payload that was taken over is not written to."""
    space = PayloadSpace(tmp_path / "rows", 1_000_000)
    one = LabelJoin(settings_of([Target.one(W, 0)], grace=G))
    held = LabelJoin(one.settings, space)
    for join in (one, held):
        give_predictions(join, many(2_000))
        give_feedback(join, [Feedback(0, n, n % 50 * 1_000 + 5, b"prediction %d" % n, n, (n,)) for n in range(2_500)])
        join.snapshot_delta()
    other = copied(held, space, tmp_path / "copy")
    for join in (one, other):
        give_predictions(join, many(3_000, 2_000))
    assert snapshot(one) == snapshot(other)
    assert records_of(one.on_watermark(W + 30_000)) == records_of(other.on_watermark(W + 30_000))
    assert records_of(one.on_watermark(10 * W)) == records_of(other.on_watermark(10 * W))
    assert one.counts() == other.counts()


def test_work_that_is_in_no_delta_is_not_copied() -> None:
    join = LabelJoin(settings_of([Target.one(W, 0)], grace=G))
    give_predictions(join, many(3))
    with pytest.raises(InvariantError, match="in the middle of its work"):
        image_of(join)
    join.snapshot_delta()
    image_of(join)
    give_feedback(join, [Feedback(0, 0, 5, b"prediction 0", 0, (1,))])
    with pytest.raises(InvariantError, match="in the middle of its work"):
        image_of(join)


def test_a_watermark_that_settles_nothing_leaves_no_work_behind() -> None:
    target = Target((Rule(W, 0),), early=True)
    join = LabelJoin(settings_of([target], grace=G, corrections=W))
    give_predictions(join, many(3))
    join.snapshot_delta()
    assert not len(join.on_watermark(W // 2))
    image_of(join)


@pytest.mark.parametrize("damage", ["gone", "short"])
def test_payload_that_is_not_there_is_named(tmp_path: Path, damage: str) -> None:
    space = PayloadSpace(tmp_path / "rows", 0)
    join = LabelJoin(settings_of([Target.one(W, 0)], grace=G), space)
    give_predictions(join, many(100))
    join.snapshot_delta()
    (tmp_path / "copy").mkdir()
    names, places = space.keep(chunks_of(join), tmp_path / "copy")
    path = tmp_path / "copy" / names[-1]
    if damage == "gone":
        path.unlink()
    else:
        with open(path, "r+b") as file:
            file.truncate(5_000)
    with pytest.raises(LocalStateError, match=f"{path}: is (missing|cut short)"):
        space.take_over(tmp_path / "copy", names, places)


def test_all_that_a_join_remembers_is_in_its_image() -> None:
    """Whoever lets it remember more must let `labels.image` know, or a restart would forget it."""
    join = LabelJoin(settings_of([Target.one(W, 0)], grace=G, corrections=W))
    known = {
        join: "settings ledger watermark settled_before released_before _rows _matches _waiting _lost _uses _rules "
        "_agenda _written _times _last_place _rewrites _gaps",
        join._rows: "width_ms _space _counted table buckets open closed kept touched _free_slots _added _read",
        join._matches: "width table",
        join._waiting: "_width _originals _runs _fresh table",
        join._agenda: "_runs _early _closes _certain _closings",
    }
    for part, names in known.items():
        assert set(vars(part)) == set(names.split())
    give_predictions(join, many(1))
    (bucket,) = join._rows.buckets.values()
    assert set(bucket.__slots__) == {"closed", "number", "runs", "saved", "segment", "slot", "sorted"}
    assert set(bucket.segment.__slots__) == {"_chunks", "_space", "bytes_used"}
    assert set(bucket.runs.__slots__) == {"_runs", "touched"}
