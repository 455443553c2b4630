"""Payload of open rows in files: the same rows as in memory, and damage is never silent."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamsample.errors import LocalStateError, StateError
from streamsample.labels import LabelJoin, PayloadSpace, decode_delta
from streamsample.labels import segments as segments_module
from streamsample.labels import space as space_module
from tests.labels.harness import (
    feedback_counts,
    give_feedback,
    give_predictions,
    records_of,
    row_counts,
    settings_of,
    snapshot,
)
from tests.labels.oracle import Feedback, Prediction, Rule, Target

W, G = 60_000, 10
SETTINGS = settings_of([Target.one(W, 0)], grace=G)
REVISED = settings_of([Target((Rule(W, 0),), early=True)], grace=G, corrections=3 * W)
ROWS = st.lists(st.tuples(st.integers(0, 3 * W), st.integers(0, 3_000)), min_size=1, max_size=60)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments_module, "_CHUNK_MIN", 4_096)
    monkeypatch.setattr(segments_module, "_CHUNK_AT_ONCE", 4_096)
    monkeypatch.setattr(space_module, "_FILE_BYTES", 20_000)


def predictions(rows: list[tuple[int, int]]) -> list[Prediction]:
    return [Prediction(n, ts, b"p%d" % n, bytes([n % 251]) * size) for n, (ts, size) in enumerate(rows)]


def fill(join: LabelJoin, rows: list[tuple[int, int]]) -> None:
    """And commit."""
    give_predictions(join, predictions(rows))
    join.snapshot_delta()


def many(count: int = 100) -> list[tuple[int, int]]:
    return [(number % 50, 1_000) for number in range(count)]


@given(ROWS, st.integers(0, 20_000), st.lists(st.integers(0, 5 * W), max_size=4), st.booleans())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_in_files_are_those_in_memory(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int]], limit: int, steps: list[int], again: bool
) -> None:
    directory = tmp_path_factory.mktemp("rows") / "one"
    space = PayloadSpace(directory, limit)
    joins = [LabelJoin(SETTINGS), LabelJoin(SETTINGS, space)]
    for join in joins:
        give_predictions(join, predictions(rows))
    deltas = [[snapshot(join)] for join in joins]
    assert deltas[0] == deltas[1]
    for step in sorted(steps):
        first, second = (records_of(join.on_watermark(step)) for join in joins)
        assert first == second
        if again:
            for join in joins:
                join.rewrite(len(rows) // 2)
        assert snapshot(joins[0]) == snapshot(joins[1])
    restored = LabelJoin(SETTINGS, space)
    restored.restore([decode_delta(deltas[1][0])])
    first, second = (records_of(join.on_watermark(10 * W)) for join in (*joins[:1], joins[1]))
    assert first == second
    assert len(records_of(restored.on_watermark(10 * W))) == len(rows)
    assert row_counts(joins[0], 0) == row_counts(joins[1], 0)
    assert feedback_counts(joins[0], 0) == feedback_counts(joins[1], 0)
    for join in (*joins, restored):
        join.close()
    assert (space.memory_bytes, space.file_bytes) == (0, 0)
    space.close()
    assert not directory.exists()


@given(
    ROWS,
    st.lists(st.tuples(st.integers(0, 59), st.integers(0, 4 * W), st.integers(0, 2)), min_size=1, max_size=40),
    st.integers(0, 20_000),
    st.booleans(),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_early_and_corrected_records_of_rows_in_files_are_those_in_memory(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[int, int]],
    given_: list[tuple[int, int, int]],
    limit: int,
    again: bool,
) -> None:
    space = PayloadSpace(tmp_path_factory.mktemp("rows") / "one", limit)
    joins = [LabelJoin(REVISED), LabelJoin(REVISED, space)]
    held = predictions(rows)
    feedback = [
        Feedback(0, number, held[at % len(held)].ts + after, held[at % len(held)].id, number, (value,))
        for number, (at, after, value) in enumerate(given_)
    ]
    for join in joins:
        give_predictions(join, held)
    deltas = [snapshot(joins[0])]
    assert deltas == [snapshot(joins[1])]
    for step in range(0, 9 * W, W // 2):
        found = []
        for join in joins:
            give_feedback(join, [event for event in feedback if step - W // 2 <= event.ts < step])
            found.append(records_of(join.on_watermark(step)))
            if again and step % (3 * W) == 0:
                join.rewrite(len(rows) // 2)
        assert found[0] == found[1]
        deltas.append(snapshot(joins[0]))
        assert deltas[-1] == snapshot(joins[1])
        if step == 2 * W:
            joins[1].close()
            joins[1] = LabelJoin(REVISED, space)
            joins[1].restore([decode_delta(delta) for delta in deltas])
    assert (space.memory_bytes, space.file_bytes) == (0, 0)  # nothing can be corrected any more
    joins[1].close()
    space.close()


def test_memory_stays_within_the_limit_and_what_still_fills(tmp_path: Path) -> None:
    space = PayloadSpace(tmp_path / "rows", 400_000)
    join = LabelJoin(SETTINGS, space)
    fill(join, many(1_000))
    assert space.table_bytes > 1_000 * 90
    assert space.memory_bytes + space.table_bytes <= 400_000
    assert space.file_bytes >= 600_000
    assert len(list((tmp_path / "rows").iterdir())) > 10
    assert len(join.on_watermark(10 * W)) == 1_000
    assert space.file_bytes == 0
    assert len(list((tmp_path / "rows").iterdir())) == 1  # the one that is written to


def damaged(tmp_path: Path, change: object) -> str:
    space = PayloadSpace(tmp_path / "rows", 0)
    join = LabelJoin(SETTINGS, space)
    fill(join, many())
    path = sorted((tmp_path / "rows").iterdir())[0]
    with open(path, "r+b") as file:
        if isinstance(change, int):
            file.truncate(change)
        else:
            file.seek(5_000)
            file.write(b"?")
    with pytest.raises(LocalStateError) as caught:
        join.on_watermark(10 * W)
    assert caught.value.retriable
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_file_that_was_changed_is_named(tmp_path: Path) -> None:
    assert "fails its checksum" in damaged(tmp_path, "a byte")


def test_a_file_that_is_cut_short_is_named(tmp_path: Path) -> None:
    assert "is cut short" in damaged(tmp_path, 4_100)


def test_a_file_is_looked_at_though_its_rows_were_read_before_they_lay_in_it(tmp_path: Path) -> None:
    in_memory = LabelJoin(REVISED, probe := PayloadSpace())
    fill(in_memory, many())
    space = PayloadSpace(tmp_path / "rows", probe.memory_bytes + probe.table_bytes)
    join = LabelJoin(REVISED, space)
    fill(join, many())
    assert len(join.on_watermark(2 * W)) == 100
    assert space.file_bytes == 0
    later = [Prediction(1_000 + number, 2 * W + number, b"l%d" % number, bytes(1_000)) for number in range(2_000)]
    give_predictions(join, later)
    join.snapshot_delta()
    for path in (tmp_path / "rows").iterdir():
        with open(path, "r+b") as file:
            for at in range(0, path.stat().st_size, 1_000):
                file.seek(at)
                file.write(b"?")
    give_feedback(join, [Feedback(0, number, 2 * W, b"p%d" % number, number, (1,)) for number in range(100)])
    with pytest.raises(LocalStateError, match="fails its checksum"):
        join.on_watermark(2 * W + 2 * G)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_no_more_is_named(tmp_path: Path) -> None:
    join = LabelJoin(SETTINGS, PayloadSpace(tmp_path / "rows", 0))
    with (
        files_of_at_most(10_000),
        pytest.raises(StateError, match=r"payload-000001: cannot be written: File too"),
    ):
        fill(join, many())


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text("a file")
    join = LabelJoin(SETTINGS, PayloadSpace(tmp_path / "rows" / "one", 0))
    with pytest.raises(StateError, match=r"cannot be written: Not a directory.*raise state\.memory_limit"):
        fill(join, many())
