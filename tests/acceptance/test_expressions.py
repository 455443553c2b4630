"""Expressions in the job file, played to a task: conditions, weights, strata, ids, times and labels."""

from __future__ import annotations

import collections
from typing import Any

import pytest

from streamsample.errors import ConfigurationError
from streamsample.runtime.report import totals_of
from tests.acceptance.timelines import T0, Event, OneTask, later

ONLY_SAMPLING: dict[str, Any] = {"feedback": None, "targets": None}


def shown(count: int, **more: Any) -> list[Event]:
    return [
        Event("shown", T0 + number, f"p{number}", {key: value(number) for key, value in more.items()})
        for number in range(count)
    ]


def ids(task: OneTask) -> list[str]:
    return [record["features"]["id"] for record in task.records]


def test_where_leaves_records_out_and_counts_them_without_a_dead_letter() -> None:
    task = OneTask({**ONLY_SAMPLING, "input.where": "amount > 10.0 && country == 'IS'"})
    task.play(shown(40, amount=lambda n: n, country=lambda n: ["IS", "DK"][n % 2]))
    assert ids(task) == [f"p{n}" for n in range(12, 40, 2)]
    assert task.dead == []
    assert totals_of(task.task)["filtered", "input"] == 26


def test_a_condition_that_fails_on_one_record_costs_only_that_record() -> None:
    task = OneTask({**ONLY_SAMPLING, "input.where": "10 / int(n) > 2"})
    task.play(shown(5, n=lambda n: [1, 0, 2, None, 9][n]))
    assert ids(task) == ["p0", "p2"]
    assert [(dead.why("stage"), dead.why("class"), dead.why("offset")) for dead in task.dead] == [
        ("filter", "expression", "3"),
        ("filter", "expression", "1"),
    ]
    assert task.dead[1].why("message") == ("input.where: 10 / int(n) > 2: a whole number is divided by zero")
    assert totals_of(task.task)["filtered", "input"] == 1


def test_an_error_beside_what_decides_does_no_harm() -> None:
    task = OneTask({**ONLY_SAMPLING, "input.where": "has(amount) && amount > 1.0"})
    task.play(shown(3, amount=lambda n: [None, 2, 0.5][n]))
    assert ids(task) == ["p1"]
    assert task.dead == []


def test_a4_what_where_leaves_out_was_read_and_moves_the_watermark() -> None:
    task = OneTask({"feedback.clicks.where": "kind == 'click'"})
    task.play([Event("shown", T0, "a", {}), Event("clicked", T0 + 1_000, "a", {"kind": "view"})])
    task.play([*later("1h", ["shown"]), Event("clicked", T0 + 3_600_000, "b", {"kind": "view"})])
    assert task.labels() == {"a": "0 implicit"}
    assert task.feedback() == {}
    assert totals_of(task.task)["filtered", "clicks"] == 2


TWO_IN_ONE: dict[str, Any] = {
    "feedback.clicks.where": "kind == 'click'",
    "feedback.buys": {
        "topic": "job.clicked",
        "format": "json",
        "id": "event",
        "refers_to": "id",
        "where": "kind == 'buy'",
        "time": {"field": "at", "unit": "ms"},
    },
    "targets.revenue": {
        "type": "double",
        "window": "10s",
        "rules": [{"from": "buys", "expression": "double(price) * double(count)"}],
        "if_silent": 0,
    },
}


def test_a18_several_feedbacks_in_one_topic_are_told_apart_and_all_accounted_for() -> None:
    task = OneTask(TWO_IN_ONE)
    task.play([Event("shown", T0, name, {}) for name in "abc"])
    task.play(
        [
            Event("clicked", T0 + 1_000, "a", {"kind": "click"}),
            Event("clicked", T0 + 2_000, "b", {"kind": "buy", "price": 2.5, "count": 4}),
            Event("clicked", T0 + 3_000, "a", {"kind": "buy", "price": 1, "count": 3}),
            Event("clicked", T0 + 3_500, "c", {"kind": "view"}),
        ]
    )
    task.restarted().play(later("1h"))
    assert task.labels() == {"a": "1 explicit", "b": "0 implicit", "c": "0 implicit"}
    assert task.labels("revenue") == {"a": "3.0 explicit", "b": "10.0 explicit", "c": "0.0 implicit"}
    assert task.dead == []
    totals = totals_of(task.task)
    assert (totals["filtered", "clicks"], totals["filtered", "buys"]) == (4, 3)
    assert task.feedback(0)["matched"] == 1
    assert task.feedback(1)["matched"] == 2


def test_what_cannot_be_read_of_a_shared_topic_is_one_dead_letter() -> None:
    task = OneTask(TWO_IN_ONE)
    task.give("clicked", [b"{", b'{"kind": "click"}'])
    assert task.reasons == ["bad_json", "missing_id"]


def test_strata_by_expression_bins_and_field() -> None:
    by = [{"expression": "new ? 'new' : 'known'"}, {"field": "amount", "bins": [10, 100]}, "country"]
    design = {"design": "stratified", "rate": 1.0, "by": by, "seed": 3}
    task = OneTask({**ONLY_SAMPLING, "sample": design})
    task.play(shown(4, new=lambda n: n == 0, amount=lambda n: [9.5, 10, 99, 100][n], country=lambda n: "IS"))
    strata = [record["sampling"]["stratum"] for record in task.records]
    assert strata == ["new/<10/IS", "known/10..100/IS", "known/10..100/IS", "known/>=100/IS"]


def test_rates_of_bins_are_named_as_the_bins() -> None:
    rates = {"<10": 0.0, ">=100": 1.0}
    design = {"design": "stratified", "rate": 0.5, "by": {"field": "amount", "bins": [10, 100]}, "rates": rates}
    task = OneTask({**ONLY_SAMPLING, "sample": design}).play(shown(3_000, amount=lambda n: [1, 50, 500][n % 3]))
    found = collections.Counter(record["sampling"]["stratum"] for record in task.records)
    assert found[">=100"] == 1_000
    assert set(found) == {"10..100", ">=100"}
    assert 400 < found["10..100"] < 600


def test_b11_a_weight_by_expression_that_fails_is_a_dead_letter_with_its_offset() -> None:
    weight = {"expression": "price * (items > 0.0 ? items : 1.0 / 0.0 - 1.0 / 0.0)"}
    design = {"design": "weighted", "k": 2, "window": "1h", "scope": "partition", "weight": weight}
    task = OneTask({**ONLY_SAMPLING, "sample": design})
    task.play(shown(5, price=lambda n: [1, 2, None, 3, 4][n], items=lambda n: [1, 0, 1, 2, 3][n]))
    why = [(dead.why("class"), dead.why("offset")) for dead in task.dead]
    assert sorted(why) == [("bad_weight", "1"), ("expression", "2")]


def test_a15_composite_ids_and_units_never_mix() -> None:
    changes = {"input.id": ["session", "item"], "feedback.clicks.refers_to": ["session", "item"]}
    task = OneTask(changes)
    pairs = [("s1", "2"), ("s", "12"), ("s1:", "2"), ("s1", ":2"), ("", "s12")]
    for session, item in pairs:
        task.play([Event("shown", T0, session + "/" + item, {"session": session, "item": item})])
    for session, item in pairs[:3:2]:
        task.play([Event("clicked", T0 + 5, "x", {"session": session, "item": item})])
    task.play([Event(kind, T0 + 3_600_000, "later-", {"session": "z", "item": 9}) for kind in ("shown", "clicked")])
    assert task.labels() == {
        "s1/2": "1 explicit",
        "s/12": "0 implicit",
        "s1:/2": "1 explicit",
        "s1/:2": "0 implicit",
        "/s12": "0 implicit",
    }
    assert task.written[0].key == b"2:s11:2"


@pytest.mark.parametrize(
    ("time", "at"),
    [
        ({"field": "when", "unit": "iso8601"}, "2023-11-14T23:13:20.5+01:00"),
        ({"field": "when", "unit": "s"}, 1_700_000_000),
        ({"expression": "int(when) * 60 + 20", "unit": "s"}, 28_333_333),
        ({"field": "when", "unit": "ns"}, 1_700_000_000_000_000_001),
    ],
)
def test_times_in_every_unit_by_field_and_by_expression(time: dict[str, Any], at: Any) -> None:
    task = OneTask({**ONLY_SAMPLING, "input.time": time}).play([Event("shown", T0, "a", {"when": at})])
    assert task.dead == []
    assert task.written[0].timestamp == T0 + (500 if isinstance(at, str) else 0)


@pytest.mark.parametrize(
    ("unit", "at", "hint"),
    [
        ("ms", 1_700_000_000, "in s it would be: set unit: s"),
        ("s", 1_700_000_000_000, "in ms it would be: set unit: ms"),
        ("ms", 1_700_000_000_000_000, "in us it would be: set unit: us"),
        ("us", 1_700_000_000_000, "in ms it would be: set unit: ms"),
        ("ns", 1_700_000_000_000_000, "in us it would be: set unit: us"),
        ("iso8601", "2023-11-14 23:13", "is not a time with its offset"),
        ("iso8601", "2023-02-29T00:00:00Z", "is not a time with its offset"),
    ],
)
def test_a_unit_that_is_off_by_1000_is_refused_with_the_one_that_fits(unit: str, at: Any, hint: str) -> None:
    task = OneTask({**ONLY_SAMPLING, "input.time": {"field": "when", "unit": unit}})
    task.play([Event("shown", T0, "a", {"when": at})])
    assert task.records == []
    assert (task.reasons, hint in task.dead[0].why("message")) == (["implausible_time"], True)


def test_a_split_by_several_fields_and_by_expression() -> None:
    for by in (["user", "country"], {"expression": "user + country"}):
        split = {"by": by, "train": 0.5, "test": 0.5}
        task = OneTask({**ONLY_SAMPLING, "split": split})
        task.play(shown(200, user=lambda n: f"u{n % 10}", country=lambda n: "IS"))
        parts: dict[str, set[str]] = {}
        for record in task.records:
            parts.setdefault(record["features"]["user"], set()).add(record["split"])
        assert all(len(each) == 1 for each in parts.values())
        assert {part for each in parts.values() for part in each} == {"train", "test"}


def test_feedbacks_that_share_a_topic_without_a_condition_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="nothing tells them apart"):
        OneTask({**TWO_IN_ONE, "feedback.clicks.where": None})
    other = {**TWO_IN_ONE["feedback.buys"], "time": {"field": "at", "unit": "s"}}
    with pytest.raises(ConfigurationError, match="differs from that of clicks"):
        OneTask({**TWO_IN_ONE, "feedback.buys": other})


def test_b10_a_record_in_several_strata_is_drawn_once_with_the_largest_of_their_rates() -> None:
    rates = {"rare": 1.0, "some": 0.5, "none": 0.0}
    design = {"design": "stratified", "rate": 0.1, "by": {"each": "genres"}, "rates": rates, "seed": 4}
    genres = [["some"], ["none", "rare"], ["other", "some"], ["none"], [], ["other", "another"]]
    events = shown(3_000, genres=lambda n: genres[n % 6])
    task = OneTask({**ONLY_SAMPLING, "sample": design}).play(events)
    assert task.dead == []
    kept: dict[int, list[dict[str, Any]]] = {number: [] for number in range(6)}
    for record in task.records:
        kept[int(record["features"]["id"][1:]) % 6].append(record["sampling"])
    assert [len(each) for each in (kept[1], kept[3])] == [500, 0]
    assert 200 < len(kept[0]) < 300
    assert 20 < len(kept[4]) < 90
    said = {number: {(each["stratum"], each["probability"]) for each in some} for number, some in kept.items()}
    assert said[1] == {("rare", 1.0)}
    assert said[0] == said[2] == {("some", 0.5)}
    assert said[4] == {("", 0.1)}
    assert len(said[5]) == 1
    # All strata share u: what is kept among the others is kept at 0.5 too.
    by_one = OneTask({**ONLY_SAMPLING, "sample": {**design, "by": "genre"}})
    by_one.play(shown(3_000, genre=lambda n: "some"))
    assert set(ids(task)) - {f"p{n}" for n in range(1, 3_000, 6)} < set(ids(by_one))


def test_b10_lists_beside_fields_and_without_a_list() -> None:
    by = ["country", {"each": "genres"}]
    rates = {"IS": {"a": 1.0, "b": 0.0}, "DK": {"a": 0.0, "b": 1.0}}
    task = OneTask({**ONLY_SAMPLING, "sample": {"design": "stratified", "rate": 1e-9, "by": by, "rates": rates}})
    lists = [["a", "b"], ["b"], None, "a", [1.5], ["b", 7, True, None, "\u00e9\n"]]
    task.play(shown(12, genres=lambda n: lists[n % 6], country=lambda n: ["IS", "DK"][n // 6]))
    assert [(record["features"]["id"], record["sampling"]["stratum"]) for record in task.records] == [
        ("p0", "IS/a"), ("p6", "DK/b"), ("p7", "DK/b"), ("p11", "DK/b"),
    ]  # fmt: skip
    assert sorted(task.reasons) == ["missing_stratum_or_unit"] * 2 + ["wrong_type"] * 4


@pytest.mark.parametrize(
    "more",
    [
        {"design": "weighted", "weight": "amount", "replacement": True, "k": 2, "window": "1h"},
        {"design": "importance", "target": "p", "proposal": "q", "k": 2, "window": "1h"},
        {"design": "judgment", "rule": "true", "version": "1"},
        {"design": "snowball", "from": "a", "to": "b", "seeds": ["x"], "hops": 1, "frontier_max": 9},
    ],
    ids=["replacement", "importance", "judgment", "snowball"],
)
def test_b10_several_strata_per_record_are_refused_by_name_where_they_have_no_thresholds(more: dict[str, Any]) -> None:
    design = {"by": {"each": "genres"}, **more}
    with pytest.raises(ConfigurationError, match="not yet: several strata per record"):
        OneTask({**ONLY_SAMPLING, "sample": design})


def test_a18_a_label_that_cannot_be_computed_is_a_dead_letter_and_no_feedback() -> None:
    rule = {"from": "clicks", "expression": "10 / int(stars)"}
    task = OneTask({"targets.clicked.rules": [rule]})
    task.play([Event("shown", T0, name, {}) for name in "abc"])
    task.play([Event("clicked", T0 + 1, name, {"stars": stars}) for name, stars in (("a", 5), ("b", 0), ("c", None))])
    task.play([*later("1h", ["shown"]), Event("clicked", T0 + 3_600_000, "later-", {"stars": 1})])
    assert task.labels() == {"a": "2 explicit", "b": "0 implicit", "c": "0 implicit"}
    assert sorted((dead.why("stage"), dead.why("class"), dead.why("offset")) for dead in task.dead) == [
        ("label", "expression", "1"),
        ("label", "expression", "2"),
    ]
    assert task.feedback()["feedback_in"] == 2  # that of a, and the one that came later


def test_a_composite_id_with_a_part_missing_is_a_dead_letter_that_names_the_fields() -> None:
    task = OneTask({**ONLY_SAMPLING, "input.id": ["session", {"expression": "item"}]})
    task.play([Event("shown", T0, "a", {"session": "s"}), Event("shown", T0, "b", {"session": "s", "item": "i"})])
    assert ids(task) == ["b"]
    assert task.dead[0].why("message") == (
        'one of the fields ["session", {"expression": "item"}] is null, and it is the id (input.id)'
    )


def test_an_expression_of_one_of_several_samples_that_fails_says_whose_it_is() -> None:
    weighted = {
        "design": "weighted",
        "k": 2,
        "window": "1h",
        "scope": "partition",
        "weight": {"expression": "price * 2.0"},
    }
    samples = {"heavy": weighted, "some": {"design": "reservoir", "k": 2, "window": "1h", "scope": "partition"}}
    task = OneTask({**ONLY_SAMPLING, "samples": samples}).play(shown(2, price=lambda n: [1, None][n]))
    assert [(dead.why("stage"), dead.why("class"), dead.why("offset")) for dead in task.dead] == [
        ("sample", "expression", "1")
    ]
    assert task.dead[0].why("message").startswith("samples.heavy.weight: price * 2.0: a field is null")
