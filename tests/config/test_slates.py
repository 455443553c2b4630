"""Job files whose input explodes a list."""

from pathlib import Path

import pytest

from streamsample.config import Job, parse_job
from streamsample.config.slates import exploded
from streamsample.errors import ConfigurationError, NotYetError
from tests.config.jobs import ROOT

SLATES = (ROOT / "configs/slates.yaml").read_text(encoding="utf-8")
SAMPLE = "{design: simple, rate: 0.5, unit: request_id, seed: 7}"
LABELS = SLATES[SLATES.index("feedback:") : SLATES.index("grace:")]


def slates(old: str = "", new: str = "", text: str = SLATES) -> Job:
    assert old in text
    return parse_job(text.replace(old, new, 1) if old else text, "slates.yaml", ROOT / "configs")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("items.item_id]", "items_position]"),
        ("unit: request_id", "unit: items.item_id"),
        (SAMPLE, "{design: stratified, by: [items_position], rate: 0.1}"),
        (SAMPLE, "{design: stratified, by: {field: items.price, bins: [10, 100]}, rate: 0.1}"),
        ("by: user_id", "by: items.item_id"),
        ("drop: [ip]", "drop: [ip, items_position]"),
        ("drop: [ip]", "keep: [user_id, items]"),
        ("  id: [request_id", '  where: "items.price > 1.0 && items_position < 3"\n  id: [request_id'),
        ("time: {field: served_at, unit: ms}", 'time: {expression: "served_at + items_position", unit: ms}'),
    ],
)
def test_an_element_and_its_position_can_stand_wherever_a_field_can(old: str, new: str) -> None:
    assert slates(old, new).input.explode == "items"


CASES = [
    ("explode: items ", "explode: itms ", "10:12: input.explode: slate.avsc has no field itms - did you mean items?"),
    ("explode: items ", "explode: query ", "10:12: input.explode: slate.avsc: query is string, must be an array"),
    ("explode: items ", "explode: items.price ", "input.explode: not yet: a list below another field"),
    ("items.item_id]", "items.item]", "11:20: input.id[1]: slate.avsc has no field items.item - did you mean"),
    ("items.item_id]", "items]", "input.id[1]: slate.avsc: items is record, must be a string"),
    ("items.item_id]", "item_id]", "input.id[1]: slate.avsc has no field item_id"),
    ("by: user_id", "by: items.price", "split.by: slate.avsc: items.price is double, must be a string"),
    ("drop: [ip]", "drop: [items.price]", "features.drop"),
    ("drop: [ip]", "drop: [item_position]", "slate.avsc has no field item_position - did you mean items_position?"),
    ("explode: items ", "explode: items\n  rekey: true ", "input.explode: not yet: slates of a rekeyed input"),
    (
        "    format: json",
        "    rekey: true\n    format: json",
        "feedback.clicks.rekey: not yet: rekeyed feedback of slates",
    ),
    ("grace: 5s", "limits: {elements_max: 40000}", "limits.elements_max: must be at most 32,767, found 40000"),
]


@pytest.mark.parametrize(("old", "new", "words"), CASES)
def test_what_does_not_fit_a_slate_is_named_with_its_place(old: str, new: str, words: str) -> None:
    with pytest.raises((ConfigurationError, NotYetError)) as caught:
        slates(old, new)
    assert words in str(caught.value)
    assert str(caught.value).startswith("slates.yaml:")


def test_a_record_of_its_own_type_and_a_name_that_is_taken_are_refused() -> None:
    own = {"type": "record", "name": "R", "fields": [{"name": "below", "type": {"type": "array", "items": "R"}}]}
    taken = {
        "type": "record",
        "name": "R",
        "fields": [
            {"name": "below", "type": {"type": "array", "items": "int"}},
            {"name": "below_position", "type": "int"},
        ],
    }
    with pytest.raises(ValueError, match=r"not yet: r\.avsc holds records of its own type"):
        exploded(own, "below", Path("r.avsc").name)
    with pytest.raises(ValueError, match="has a field below_position, which is what the position"):
        exploded(taken, "below", "r.avsc")


def test_json_has_no_schema_to_check_against() -> None:
    text = SLATES.replace("  format: avro\n  schema_file: slates/slate.avsc\n", "  format: json\n")
    assert slates("items.item_id", "items.whatever", text).input.id == ("request_id", "items.whatever")
    where = '  where: "items_position < 3 && items.price < 3.0"\n'  # the position is a whole number there too
    assert slates("  id: [request_id", f"{where}  id: [request_id", text).input.where
