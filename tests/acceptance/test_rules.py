"""A10 of semantics.md as timelines: several rules, what they take, what undoes them, and the types of labels."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest

from tests.acceptance.timelines import Event, OneTask, events, feedback, later

KINDS = ("shown", "clicked", "bought", "returned")
END = later("9d", KINDS)


def shop(rules: list[dict[str, Any]], **target: Any) -> dict[str, Any]:
    """Changes to the job: feedback of clicks, orders and returns, and one target."""
    return {
        "feedback.clicks": feedback("clicked"),
        "feedback.orders": feedback("bought"),
        "feedback.returns": feedback("returned"),
        "targets": {"worth": {"type": "double", "window": "1h", "if_silent": 0, **target, "rules": rules}},
        "max_future": "1h",
    }


def worth(task: OneTask) -> dict[str, str]:
    return task.labels("worth")


PRECEDENCE = [
    {"from": "returns", "label": -1, "window": "7d"},
    {"from": "orders", "field": "amount", "window": "1d"},
    {"from": "clicks", "label": 0.5, "window": "30m"},
]
SEVERAL = """
    0s    shown     all
    0s    shown     order
    0s    shown     click
    0s    shown     none
    1m    clicked   all
    1m    clicked   order
    2m    clicked   click
    31m   clicked   none          # after the clicks' own window, long before the target's
    2h    bought    all    amount=9
    2h    bought    order  amount=7
    25h   bought    click  amount=7
    6d    returned  all
"""


def test_a10_the_strongest_rule_decides_each_within_its_own_window() -> None:
    task = OneTask(shop(PRECEDENCE)).play(SEVERAL).play(END)
    assert worth(task) == {
        "all": "-1.0 explicit", "order": "7.0 explicit", "click": "0.5 explicit", "none": "0.0 implicit"
    }  # fmt: skip
    kinds = {record["features"]["id"]: record["targets"]["worth"]["kind"] for record in task.records}
    assert [kinds[name] for name in ("all", "order", "click", "none")] == ["returns", "orders", "clicks", None]
    (whole,) = [record for record in task.records if record["features"]["id"] == "all"]
    assert whole["lineage"]["feedback"] == [
        {"target": "worth", "topic": "job.returned", "partition": 0, "offset": 0, "index": 0}
    ]
    assert whole["targets"]["worth"]["delay_ms"] == 6 * 86_400_000


@pytest.mark.parametrize("order", list(itertools.permutations(KINDS)))
def test_a10_precedence_does_not_depend_on_arrival(order: tuple[str, ...]) -> None:
    live = OneTask(shop(PRECEDENCE)).play(SEVERAL).play(END)
    read = sorted(events(SEVERAL) + END, key=lambda event: order.index(event.kind))
    assert OneTask(shop(PRECEDENCE)).play(read).written == live.written


TAKES = """
    0s   shown   a
    3s   bought  a  amount=5
    1s   bought  a  amount=2
    2s   bought  a  amount=8
    2s   bought  a  amount=1
"""


@pytest.mark.parametrize(
    ("take", "value", "at"),
    [("first", 2.0, 1), ("last", 5.0, 3), ("max", 8.0, 2), ("min", 1.0, 2), ("sum", 16.0, 3), ("count", 4.0, 3)],
)
def test_a10_take(take: str, value: float, at: int) -> None:
    rule = {"from": "orders", "take": take} | ({} if take == "count" else {"field": "amount"})
    changes = shop([rule, {"from": "clicks", "label": 1}, {"from": "returns", "label": 1}])
    task = OneTask({**changes, "grace": "3s"}).play(TAKES).restarted().play(END)
    (record,) = [record for record in task.records if record["features"]["id"] == "a"]
    assert record["targets"]["worth"]["value"] == value
    assert record["targets"]["worth"]["delay_ms"] == at * 1000
    used = [each["offset"] for each in record["lineage"]["feedback"]]
    assert used == ([1, 2, 3, 0] if take in ("sum", "count") else [{"first": 1, "last": 0, "max": 2, "min": 3}[take]])


def undoing(refers_to: str | None) -> dict[str, Any]:
    undo = {"from": "returns"} | ({} if refers_to is None else {"refers_to": refers_to})
    orders = {"from": "orders", "field": "amount", "take": "sum", "undone_by": undo}
    return shop([orders, {"from": "clicks", "label": 0.5}])


UNDONE = """
    0s    shown     named
    0s    shown     both
    0s    shown     other
    0s    shown     first
    1s    returned  first  of=f1
    2s    clicked   both
    2s    bought    named  amount=5  event=n1
    3s    bought    named  amount=3  event=n2
    2s    bought    both   amount=5  event=b1
    3s    bought    both   amount=3  event=b2
    2s    bought    other  amount=4  event=o1
    2s    bought    first  amount=6  event=f1
    9s    returned  named  of=n1
    9s    returned  both   of=b1
    9s    returned  both   of=b2
    9s    returned  other  of=x
"""


def test_a10_a_refund_undoes_the_purchase_that_it_names() -> None:
    """Whichever is read or happens first; without a purchase left, a weaker rule decides, or silence."""
    task = OneTask(undoing("of")).play(UNDONE).restarted().play(END)
    assert worth(task) == {
        "named": "3.0 explicit", "both": "0.5 explicit", "other": "4.0 explicit", "first": "0.0 implicit"
    }  # fmt: skip


def test_a10_a_return_that_names_nothing_undoes_all_that_is_not_later() -> None:
    task = OneTask(undoing(None)).play(UNDONE).play(END)
    assert worth(task) == {
        "named": "0.0 implicit", "both": "0.5 explicit", "other": "0.0 implicit", "first": "6.0 explicit"
    }  # fmt: skip


def test_a10_explicit_negatives_and_classes() -> None:
    rules = [
        {"from": "returns", "label": "returned"},
        {"from": "orders", "field": "state"},
        {"from": "clicks", "label": "seen"},
    ]
    classes = {"type": "string", "classes": ["seen", "bought", "returned"], "if_silent": "seen"}
    task = OneTask(shop(rules, **classes)).play(
        """
        0s  shown    a
        0s  shown    b
        0s  shown    c
        0s  shown    d
        1s  clicked  a
        1s  bought   b  state=bought
        1s  bought   c  state=stolen
        1s  returned c
        1s  bought   d  state=null
        """
    )
    task.play(END)
    assert worth(task) == {
        "a": '"seen" explicit', "b": '"bought" explicit', "c": '"returned" explicit', "d": '"seen" implicit'
    }  # fmt: skip
    assert task.reasons == ["bad_value"]
    assert "not one of seen, bought, returned" in task.dead[0].why("message")
    assert task.feedback(1)["no_value"] == 2  # that of d, and of the last order, which has no state


def test_a10_labels_are_true_or_false() -> None:
    rules = [
        {"from": "returns", "label": False},
        {"from": "orders", "field": "paid"},
        {"from": "clicks", "label": True},
    ]
    task = OneTask(shop(rules, type="boolean", if_silent=None)).play(
        "0s shown a\n0s shown b\n0s shown c\n0s shown d\n1s clicked a\n1s returned a\n1s bought b paid=true\n"
        "1s bought c paid=false"
    )
    task.play(END)
    assert worth(task) == {"a": "false explicit", "b": "true explicit", "c": "false explicit", "d": "null implicit"}


def test_a10_one_feedback_from_several_topics() -> None:
    """Ties are broken by the topic's name; places in two topics are not one id."""
    both = feedback("clicked", "bought") | {"id": None}
    rule = {"from": "any", "field": "amount", "take": "last"}
    changes = {
        "feedback": {"any": {key: value for key, value in both.items() if value is not None}},
        "targets": {"worth": {"type": "int", "window": "1h", "rules": [rule], "if_silent": 0}},
    }
    line = "0s shown a\n5s clicked a amount=1\n5s bought a amount=2"
    task = OneTask(changes).play(line).play(later("2h", ("shown", "clicked", "bought")))
    assert worth(task) == {"a": "1 explicit"}
    assert task.feedback()["matched"] == 2
    (record,) = [record for record in task.records if record["features"]["id"] == "a"]
    assert record["lineage"]["feedback"][0]["topic"] == "job.clicked"
    assert record["targets"]["worth"]["kind"] == "any"
    assert json.dumps(record["settled"]) == '["worth"]'


def test_a4_undoing_feedback_holds_the_watermark_back_too() -> None:
    task = OneTask(undoing("of")).play("0s shown a\n1s bought a amount=1").play(later("9d", KINDS[:3]))
    assert task.records == []
    task.play("2s returned a of=bought-1").play(END)
    assert worth(task)["a"] == "0.0 implicit"


# -- expressions, conditions and composite ids in rules ---------------------------------------------


BY_EXPRESSION: dict[str, tuple[dict[str, Any], Any, list[str]]] = {
    "int": ({"expression": "int(amount) * 2", "take": "max"}, 0, ["14", "-10", "2"]),
    "double": ({"expression": "double(amount) / 2.0", "take": "sum"}, 0, ["5.0", "-2.5", "0.5"]),
    "boolean": ({"expression": "amount > 0.0", "take": "last"}, None, ["true", "false", "true"]),
    "string": ({"expression": "amount > 0.0 ? state : 'lost'"}, "none", ['"sold"', '"lost"', '"kept"']),
}


def ending(when: str, kinds: tuple[str, ...], **more: Any) -> list[Event]:
    """`later`, with fields that expressions and composite ids need."""
    return [replace(event, more=more) for event in later(when, kinds)]


def by_expression(type_: str, rule: dict[str, Any], silent: Any) -> dict[str, Any]:
    """Changes to the job: one rule over orders."""
    target = {"type": type_, "window": "1h", "rules": [{"from": "orders", **rule}], "if_silent": silent}
    if type_ == "string":
        target["classes"] = ["sold", "kept", "lost", "none"]
    return {"feedback": {"orders": feedback("bought")}, "targets": {"worth": target}, "max_future": "1h"}


@pytest.mark.parametrize("type_", BY_EXPRESSION)
def test_a10_a_label_of_each_type_by_expression(type_: str) -> None:
    rule, silent, values = BY_EXPRESSION[type_]
    task = OneTask(by_expression(type_, rule, silent)).play(
        """
        0s shown a
        0s shown b
        0s shown c
        1s bought a amount=7   state=sold
        2s bought a amount=3   state=kept
        1s bought b amount=-5  state=sold
        1s bought c amount=1   state=kept
        """
    )
    task.restarted().play(ending("2h", ("shown", "bought"), amount=0, state="kept"))
    assert worth(task) == {name: f"{value} explicit" for name, value in zip("abc", values, strict=True)}


def test_a10_an_expression_that_fails_or_gives_no_class_is_a_dead_letter() -> None:
    task = OneTask(by_expression("string", {"expression": "10 / int(n) > 2 ? state : 'sold'"}, "none")).play(
        "0s shown a\n0s shown b\n1s bought a n=0 state=sold\n1s bought b n=1 state=stolen"
    )
    task.play(ending("2h", ("shown", "bought"), n=5, state="kept"))
    assert worth(task)["a"] == worth(task)["b"] == '"none" implicit'
    assert task.reasons[:2] == ["expression", "bad_value"]
    assert "targets.worth.rules[0]" in task.dead[0].why("message")
    assert "is not one of sold, kept" in task.dead[1].why("message")


def test_a10_a_return_names_by_several_fields_what_it_undoes() -> None:
    """As the `id` of the feedback undone is made: 1 and 23 is not 12 and 3."""
    changes = undoing("of")
    changes["targets"]["worth"]["rules"][0]["undone_by"]["refers_to"] = ["shop", {"expression": "'n' + string(of)"}]
    changes["feedback.orders"] = {**feedback("bought"), "id": ["shop", "number"]}
    task = OneTask(changes).play(
        """
        0s shown    a
        1s bought   a  amount=1  shop=1   number=n23
        1s bought   a  amount=2  shop=12  number=n3
        1s bought   a  amount=4  shop=1   number=n3
        2s returned a  shop=12  of="3"
        """
    )
    task.restarted().play(ending("2h", KINDS, shop="end", number="end", of="end"))
    assert worth(task)["a"] == "5.0 explicit"


def test_a10_conditions_and_composite_ids_of_feedback_from_several_topics() -> None:
    """Two feedbacks that share one of their topics, told apart by `where`; both refer by two fields."""
    likes = feedback("clicked", "bought") | {"where": "act == 'like'", "refers_to": ["session", "item"]}
    buys = feedback("bought") | {"where": "act == 'buy'", "refers_to": ["session", "item"]}
    rules = [{"from": "buys", "field": "amount"}, {"from": "likes", "label": 1, "window": "30m"}]
    changes = {
        "input.id": ["session", "item"],
        "feedback": {"likes": likes, "buys": buys},
        "targets": {"worth": {"type": "int", "window": "1h", "rules": rules, "if_silent": 0}},
    }
    task = OneTask(changes).play(
        """
        0s shown   a   session=s   item=1
        0s shown   b   session=s   item=2
        0s shown   c   session=s   item=3
        0s shown   d   session=s1  item=1
        1s clicked x   session=s   item=1  act=like
        1s clicked x   session=s   item=3  act=view
        2s bought  x   session=s   item=2  act=like
        3s bought  x   session=s   item=1  act=buy   amount=9
        3s bought  x   session=s   item=3  act=view  amount=9
        """
    )
    task.restarted().play(ending("2h", ("shown", "clicked", "bought"), session="e", item=0, act="none"))
    assert worth(task) == {"a": "9 explicit", "b": "1 explicit", "c": "0 implicit", "d": "0 implicit"}
    assert task.dead == []
    assert [task.feedback(use)["matched"] for use in (0, 1)] == [1, 2]
