"""Slates: a list of predictions in one record gives what as many records would (A1, A4, A6, A9, A18, B7, B13, B16)."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamsample.records import Spans
from streamsample.runtime.dead_letters import positions_in
from streamsample.sampling.design import unit_hash
from tests.acceptance.slates import CHANGES, Two, one_each, slates
from tests.acceptance.timelines import T0, OneTask

SEED = 5
FRONTIER = {"frontier_max": 1_000}
BY_KIND = {"by": "items.kind", "strata": ["tent", "boot"], "seed": SEED, "k": 3, "window": "10s"}
FOLLOWED = {"seeds": ["tent", "u1"], "hops": 2, "frontier_max": 5}
BEFORE_LABELS: list[dict[str, Any]] = [
    {},
    {"sample": {"design": "simple", "rate": 0.4, "unit": "request", "seed": SEED}},
    {"sample": {"design": "stratified", "by": "items.kind", "rate": 0.3, "rates": {"tent": 0.9}, "seed": SEED}},
    {"sample": {"design": "stratified", "by": {"each": "items.tags"}, "rate": 0.3, "rates": {"x": 0.7}}},
    {"sample": {"design": "stratified", "by": ["items_position"], "rate": 0.2, "rates": {"0": 1.0}}},
    {"sample": {"design": "judgment", "rule": "items.price > 2.0 && items.kind != 'rope'", "version": "1"}},
    {"sample": {"design": "snowball", "from": "user", "to": "items.kind", **FOLLOWED}},
    {"thin": {"by": "clicked", "rates": {"0": 0.3}}, "corrections": "30s"},
    {"input.where": "items.price < 4.0", "split": {"by": "items.id", "train": 0.7, "test": 0.3}},
    {"features": {"keep": ["user", "items_position"]}, "emit": "each", "targets.clicked.early": True},
]
WITHOUT_LABELS: list[dict[str, Any]] = [
    {"sample": {"design": "reservoir", **BY_KIND}},
    {"sample": {"design": "reservoir", "scope": "partition", **BY_KIND}},
    {"sample": {"design": "reservoir", **BY_KIND, "unit": "request"}},
    {"sample": {"design": "reservoir", **BY_KIND, "by": {"each": "items.tags"}, "strata": ["x"]}},
    {"sample": {"design": "weighted", "weight": "items.price", **BY_KIND}},
    {"sample": {"design": "weighted", "weight": "items.price", "replacement": True, "k": 5, "window": "10s"}},
    {"sample": {"design": "stratified", **BY_KIND, "k": 20, "allocation": "neyman", "of": "items.price"}},
    {"sample": {"design": "reservoir", "k": 7, "records": 50}},
    {"sample": {"design": "convenience", "k": 6, "window": "10s"}},
    {"sample": {"design": "quota", "k": 3, "window": "10s", "by": "items.kind", "strata": ["tent"]}},
    {"sample": {"design": "quota", "k": 2, "window": "10s", "by": {"each": "items.tags"}}},
    {"sample": {"design": "reservoir", "k": 7, "records": 50, "by": {"each": "items.tags"}}},
    {"sample": {"design": "snowball", "from": "items.kind", "to": "user", **FOLLOWED}},
    {"sample": [{"design": "simple", "rate": 0.5, "unit": "request"}, {"design": "reservoir", **BY_KIND}]},
    {"sample": {"design": "snowball", "from": "user", "to": "items.id", "seeds": ["u1", "u2"], "hops": 2, **FRONTIER}},
    {"sample": {"design": "simple", "count": 20, "window": "5s", "first_rate": 0.5}},
    {"samples": {"all": {"design": "simple", "rate": 0.5}, "few": {"design": "reservoir", **BY_KIND}}},
]


def names(changes: dict[str, Any]) -> str:
    return json.dumps(changes)[:60]


@pytest.mark.parametrize("changes", BEFORE_LABELS, ids=names)
def test_a1_a9_a18_b16_a_slate_is_labelled_as_its_elements_one_by_one(changes: dict[str, Any], tmp_path: Path) -> None:
    two = Two(changes, tmp_path).play(300, SEED)
    records = two.records(two.slates)
    assert records == two.records(two.plain)
    assert len(records) > 40
    one, other = two.slates.task.join, two.plain.task.join
    assert one is not None
    assert other is not None
    for mine, theirs in ((one.ledger.rows, other.ledger.rows), (one.ledger.feedback, other.ledger.feedback)):
        assert mine.tolist() == theirs.tolist()
    assert one.ledger.predictions.tolist() == other.ledger.predictions.tolist()
    assert one.ledger.predictions[1] > 0  # duplicates within a list
    bad, alone = two.bad()
    assert bad == alone
    assert len(bad) > 10
    counted(two)


@pytest.mark.parametrize("changes", WITHOUT_LABELS, ids=names)
def test_b7_b13_a_slate_is_sampled_as_its_elements_one_by_one(changes: dict[str, Any], tmp_path: Path) -> None:
    two = Two({"feedback": None, "targets": None, **changes}, tmp_path).play(200, SEED)
    records = two.records(two.slates)
    assert records == two.records(two.plain)
    assert len(records) > 20
    bad, alone = two.bad()
    assert bad == alone
    sampled = [
        {name: count for name, count in task.task.counts.items() if name.startswith("sampled")}
        for task in (two.slates, two.plain)
    ]
    assert sampled[0] == sampled[1]
    counted(two)


def counted(two: Two) -> None:
    """Each record and each element is somewhere, and lineage finds it."""
    counts = two.slates.task.counts
    assert counts["elements"] == len(two.shown)
    assert counts["empty_lists"] == sum(not value["items"] for value in two.values) > 10
    for record, (request, index) in zip(two.records(two.slates), two.places, strict=True):
        assert record["features"].get("request", request) == request
        assert record["features"]["items_position"] == index


@pytest.mark.parametrize("changes", [BEFORE_LABELS[0], BEFORE_LABELS[1], BEFORE_LABELS[-1]], ids=names)
def test_a18_slates_in_avro_give_what_their_elements_do(changes: dict[str, Any], tmp_path: Path) -> None:
    two = Two(changes, tmp_path, "avro").play(150, SEED + 1)
    assert two.records(two.slates) == two.records(two.plain)
    bad, alone = two.bad()
    assert bad == alone
    counted(two)


def test_b13_a_sample_by_the_request_keeps_whole_slates(tmp_path: Path) -> None:
    two = Two({"feedback": None, "targets": None, **BEFORE_LABELS[1]}, tmp_path)
    values = [value for value in slates(200, 1) if all(item["id"] for item in value["items"] or [])]
    two.show(values)
    kept = unit_hash(Spans.of([value["request"].encode() for value in values]), SEED) < 0.4
    wanted = [
        (value["request"], place)
        for value, yes in zip(values, kept.tolist(), strict=True)
        if yes
        for place in range(len(value["items"] or []))
    ]
    assert two.places == wanted
    assert 50 < len(wanted) < 300


def slate(request: str, at: int, *ids: str | None) -> bytes:
    return json.dumps({"request": request, "at": at, "items": [{"id": name} for name in ids]}).encode()


def click(request: str, item: str, at: int) -> bytes:
    return json.dumps({"request": request, "item": item, "at": at, "event": f"{request}/{item}"}).encode()


def test_a4_event_time_goes_on_with_slates_that_show_nothing() -> None:
    task = OneTask(
        {**CHANGES, "feedback": None, "targets": None, "sample": {"design": "reservoir", "k": 9, "window": "10s"}}
    )
    task.give("shown", [slate("r1", T0, "a", "b")])
    assert task.records == []
    task.give("shown", [json.dumps({"request": "r2", "at": T0 + 60_000}).encode()])
    assert sorted(record["features"]["items"]["id"] for record in task.records) == ["a", "b"]
    assert task.task.counts["empty_lists"] == 1


def test_a6_a_slate_that_is_late_is_one_dead_letter_that_names_its_elements() -> None:
    task = OneTask(CHANGES)
    task.give("shown", [slate("r0", T0 + 3_600_000)])
    task.give("clicked", [click("r0", "a", T0 + 3_600_000)])
    task.give("shown", [slate("r1", T0, "a", "b", "c"), slate("r2", T0 + 3_600_000, "a")])
    (letter,) = task.dead
    assert (letter.why("class"), letter.why("offset"), letter.why("positions")) == ("late", "1", "0-2")
    assert letter.value == slate("r1", T0, "a", "b", "c")
    assert task.rows() == {"rows_in": 1, "open": 1}


def test_a18_what_is_wrong_with_elements_or_slates_is_said_once_for_each_reason() -> None:
    task = OneTask({**CHANGES, "input.where": "items.price > 1.0", "limits": {"elements_max": 6}})
    mixed = [{"id": "a", "price": 2}, {"price": 2}, {"price": 3}, {"id": "b"}, {"price": 2}, {"id": "c", "price": 0.5}]
    bad: list[bytes | None] = [
        json.dumps({"request": "r", "at": T0, "items": mixed}).encode(),
        b'{"request": "r", "at": 1700000000000, "items": [' + b'{"id": "a"},' * 6 + b'{"id": "a"}]}',
        b'{"request": "r", "items": [{"id": "a", "price": 2}, {"id": "b", "price": 2}]}',
        b'{"request": "r", "at": 1700000000000, "items": [{"id": "d", "price": 2}, 7, {"id": 1.5}]}',
        b'{"request": "r", "at": 17000000',
        None,
        slate("r", T0),
    ]
    task.give("shown", bad)
    said = sorted(
        (int(letter.why("offset")), letter.why("class"), letter.why("positions") if len(letter.headers) > 6 else "")
        for letter in task.dead
    )
    assert said == [
        (0, "expression", "3"),
        (0, "missing_id", "1-2, 4"),
        (1, "long_list", ""),
        (2, "missing_time", "0-1"),
        (3, "wrong_type", "1-2"),
        (4, "bad_json", ""),
    ]
    counts = task.task.counts
    assert (counts["elements"], counts["empty_lists"], counts["tombstones\x1fjob.shown"]) == (11, 1, 1)
    assert counts["filtered\x1finput"] == 1
    refused = sum(len(positions_in(text)) for _, _, text in said if text)
    assert task.rows() == {"rows_in": 2, "open": 2}
    assert counts["elements"] == 2 + counts["filtered\x1finput"] + refused
    assert all(letter.value == bad[int(letter.why("offset"))] for letter in task.dead)


def test_positions_are_written_in_runs() -> None:
    assert positions_in("0, 4-7, 9") == [0, 4, 5, 6, 7, 9]
    assert positions_in("") == []


def test_b7_batches_of_megabytes_are_read_in_pieces_and_nothing_depends_on_it() -> None:
    wide = [
        json.dumps(
            {"request": f"r{n}", "at": T0 + n, "text": "x" * 60_000, "items": [{"id": "a"}, {"id": "b"}]}
        ).encode()
        for n in range(90)
    ]
    whole, single = (OneTask({**CHANGES, "features": {"drop": ["text"]}}) for _ in range(2))
    whole.give("shown", list(wide))
    for value in wide:
        single.give("shown", [value])
    for task in (whole, single):
        task.give("shown", [slate("end", T0 + 3_600_000, "a")])
        task.give("clicked", [click("end", "b", T0 + 3_600_000)])
    assert whole.written == single.written
    assert len(whole.written) == 180
    assert whole.task.positions == single.task.positions
    places = [record["lineage"]["prediction"] for record in whole.records]
    assert [(place["offset"], place["index"]) for place in places] == list(itertools.product(range(90), range(2)))


def test_a_large_request_of_small_elements_is_not_refused_for_its_own_size() -> None:
    """Its rows are small: what is left of the list is one element."""
    task = OneTask({**CHANGES, "feedback": None, "targets": None})
    items = [{"id": f"i{n}", "text": "x" * 990} for n in range(1_000)]
    task.give("shown", [json.dumps({"request": "r", "at": T0, "items": items}).encode()])
    assert task.dead == []
    assert len(task.written) == 1_000
    assert max(len(each.value) for each in task.written) < 2_500
    assert [one_each({"items": items})[n]["items_position"] for n in (0, 999)] == [0, 999]
    assert np.unique([record["record_id"] for record in task.records]).size == 1_000
