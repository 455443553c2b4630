"""Tests of jobs: timelines in files, played to the real task, and what is said when something else came of them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import fastavro
import pytest

from streamsample.config import load_job, parse_job
from streamsample.config.problems import Wrong
from streamsample.config.timeline import EPOCH_MS, Step, When, beside, parse_line, parse_when, said
from streamsample.errors import ConfigurationError
from streamsample.runtime.plan import plan_of
from streamsample.testing.compare import aligned
from streamsample.testing.suite import Result, Suite
from streamsample.testing.tell import lines_of
from streamsample.testing.values import Values, record_reader
from tests.acceptance.timelines import job_tree

HERE = Path(__file__).parent
CONFIGS = HERE.parents[1] / "configs"


DEAD = "dead letter {topic: job.clicked, id: c, class: not_an_object, stage: decode}"


def told(results: list[Result]) -> str:
    return "\n".join(words for result in results for _, words in lines_of(result, "it.tests.yaml"))


@pytest.mark.parametrize("restarts", [False, True], ids=["straight", "restarts"])
@pytest.mark.parametrize("job_file", [HERE / "labels.yaml", CONFIGS / "flights.yaml"], ids=["labels", "flights"])
def test_a13_the_timelines_of_these_jobs_pass_with_and_without_restarts(job_file: Path, restarts: bool) -> None:
    suite = Suite(plan_of(load_job(job_file)), beside(job_file))
    results = list(suite.run(restarts=restarts))
    assert len(results) == len(suite) > 5
    assert all(result.passed for result in results), told(results)


def run(tmp_path: Path, timeline: str, changes: dict[str, Any] | None = None) -> list[Result]:
    """Tests of the job of `tests.acceptance.timelines`."""
    path = tmp_path / "it.tests.yaml"
    path.write_text(timeline)
    return list(Suite(plan_of(parse_job(json.dumps(job_tree("job", changes)), "job.yaml", tmp_path)), path).run())


def test_what_differs_is_said_with_the_lines_of_both(tmp_path: Path) -> None:
    results = run(
        tmp_path,
        """\
tests:
  - name: several things are wrong
    events:
      - 0s input a country=DE user=u1
      - 1s clicks a
      - 2s input b
      - {at: 0s, topic: clicks, id: c, value: "x"}
    expect:
      - {id: a, clicked: 0 implicit, at: 11s, features: {country: DE, user: u2}, closed_by: event}
      - {id: d, clicked: 1 explicit, state: final}
    dead_letters: [{topic: input, class: late}]
    counts: {clicked: {explicit: 2, clicks: {matched: 1}}, predictions: {missing: 1}}
  - {name: fine, events: [0s input a], expect: [{id: a, clicked: 0 implicit}]}
""",
    )
    assert [result.passed for result in results] == [False, True]
    assert told(results).splitlines() == [
        "  FAIL  several things are wrong  (it.tests.yaml:2)",
        "    - {id: a, features: {user: u2}, clicked: 0 implicit}      # expected in line 9",
        "    + {id: a, features: {user: u1}, clicked: 1 explicit}      # came of the event in line 4",
        "    - {id: d, clicked: 1 explicit, state: final}              # expected in line 10",
        "      did not come",
        "    + {id: b, clicked: 0 implicit}                            # came of the event in line 6",
        "    - dead letter {topic: input, class: late}                 # expected in line 11",
        "      did not come",
        f"    + {DEAD}: the value is not a JSON object  # came of the event in line 7",
        "    - counts.clicked.explicit: 2                              # expected in line 12",
        "    + counts.clicked.explicit: 1                              # came",
        "    - counts.predictions.missing: 1                           # expected in line 12",
        "    + counts.predictions has duplicate, late                  # came",
        "  ok    fine",
    ]


def test_records_of_an_id_are_compared_in_their_order(tmp_path: Path) -> None:
    results = run(
        tmp_path,
        """\
tests:
  - name: twice
    events: [0s input a, advance 1m, 2m input a, 2m clicks a]
    expect:
      - {id: a, clicked: 1 explicit}
      - {id: a, clicked: 0 implicit}
""",
    )
    assert told(results).count("    - ") == told(results).count("    + ") == 1
    assert aligned("abcd", "bxd", lambda one, other: one == other) == [
        *(("a", None), ("b", "b"), ("c", "x"), ("d", "d")),
    ]


def test_b7_a_windowed_sample_of_all_partitions(tmp_path: Path) -> None:
    sample = {"design": "reservoir", "k": 2, "window": "10s", "seed": 1}
    lines = "".join(f"      - {number}s input p{number}\n" for number in range(9))
    text = "tests:\n  - name: a window\n    partitions: {}\n    events:\n" + lines + "    expect:\n{}"
    changes = {"feedback": None, "targets": None, "sample": sample}
    came = told(run(tmp_path, text.format(1, "      - {id: none}\n"), changes))
    chosen = [line.split("{id: ")[1].split("}")[0] for line in came.splitlines() if "    + " in line]
    assert len(chosen) == 2
    expected = "".join(f"      - {{id: {each}, at: 11s, sampling: {{n: 9, k: 2}}}}\n" for each in chosen)
    for partitions in (1, 2, 5):
        results = run(tmp_path, text.format(partitions, expected), changes)
        assert results[0].passed, told(results)


COMPOSITE = {
    "input.id": ["session", "item.id"],
    "input.time": {"field": "at", "unit": "iso8601"},
    "feedback.clicks.refers_to": ["session", "item"],
    "feedback.clicks.time": {"expression": "int(seconds) * 1000 + 5", "unit": "ms"},
    "feedback.clicks.id": ["session", "seconds"],
}


def test_ids_of_several_fields_and_times_by_text_and_expression(tmp_path: Path) -> None:
    timeline = """\
tests:
  - name: composite
    events:
      - 0s input s1/i1
      - 0s input s1/i2
      - {{at: 2s, topic: clicks, id: {id}, with: {{seconds: 1767225602}}}}
    expect:
      - {{id: s1/i1, clicked: {{value: 1, delay_ms: 2005}}, features: {{session: s1, item: {{id: i1}}}}}}
      - {{id: s1/i2, clicked: 0 implicit}}
"""
    results = run(tmp_path, timeline.format(id="s1/i1"), COMPOSITE)
    assert results[0].passed, told(results)
    with pytest.raises(ConfigurationError, match="the id s1 has 1 parts, and the job's has 2 - write a/b"):
        run(tmp_path, timeline.format(id="s1"), COMPOSITE)


# -- what is wrong with a file ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timeline", "said"),
    [
        ("tests: []", "it.tests.yaml:1:8: tests: is an empty list - write a timeline"),
        ("", "it.tests.yaml: is empty - it needs tests: a list of timelines"),
        ("- a", 'it.tests.yaml:1:1: is not a mapping of keys to values - start with "tests:", a list'),
        ("tests: [{name: a, evnts: [], expect: []}]", "it.tests.yaml:1:19: tests[0].evnts: unknown key - did you mean"),
        ("tests: [{name: a, events: [], expect: []}]\nstart: soon", "it.tests.yaml:2:8: start: is not a time"),
        ("{events}: 0s inptu a", 'events[0]: there is no topic "inptu" - did you mean input?'),
        ("{events}: 0s", 'events[0]: is not an event, found "0s" - an event is "10s input a"'),
        ("{events}: 0s input a b", 'b is not a field, found "0s input a b" - fields are "name=value"'),
        ("{events}: 0s input@x a", 'x is not a partition, found "0s input@x a" - "input@1"'),
        ("{events}: 0s input@1 a", "events[0]: there is no partition 1 - set partitions: 2 or more"),
        ("{events}: 3y input a", 'events[0].at: has an unknown unit, found "3y" - ms, s, m, h, d or w'),
        ("{events}: wait", 'wait needs one duration, found "wait" - "wait 5s"'),
        ("{events}: caught_up nobody", 'events[0]: there is no topic "nobody" - there is input and clicks'),
        ("{events}: {at: 0s, topic: input}", "events[0]: has no id - give id, or the whole value"),
        ("{events}: {at: 0s, id: a}", "events[0]: names no topic - topic: input, or the name of a feedback"),
        ("{events}: {id: a}", "events[0]: says neither when an event happens nor what is done"),
        ("{events}: {at: 0s, topic: input, id: a, wait: 5s}", "events[0].wait: is given beside an event"),
        ("{events}: {wait: 5s, id: a}", "events[0]: wait has no topic and no id - make two steps of it"),
        ("{events}: {at: 0s, topic: input, value: 7}", "value must be text or null, found 7 - quote it"),
        ("{events}: 0s input a at.b=1", "events[0]: at.b reaches into a field that is no record"),
        ("{expect}: {id: a, clickd: 1}", "expect[0].clickd: is no target of the job and no part of a training record"),
        ("{expect}: {id: a, clicked: {valu: 1}}", "expect[0].clicked: a label has no valu - it has value, kind"),
        ("{expect}: {id: a, targets: {x: 1}}", "expect[0].targets.x: is no target of the job"),
        ("{expect}: {id: [a]}", "expect[0].id: is not an id, found a list"),
        ("{dead_letters}: {topic: clikcs}", 'dead_letters[0].topic: there is no topic "clikcs" - did you mean clicks?'),
    ],
)  # fmt: skip
def test_each_problem_is_said_with_its_place_and_remedy(tmp_path: Path, timeline: str, said: str) -> None:
    key, colon, rest = timeline.partition("}: ")
    if colon and key.startswith("{"):
        kinds = {"events": "0s input a", "expect": "{id: a}", "dead_letters": "{topic: input}", key[1:]: rest}
        lists = "".join(f"    {kind}:\n      - {item}\n" for kind, item in kinds.items())
        timeline, said = f"tests:\n  - name: a\n{lists}", f"tests[0].{said}" if said.startswith(key[1:]) else said
    with pytest.raises(ConfigurationError) as error:
        run(tmp_path, timeline)
    assert said in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "it.tests.yaml"))


def test_a_file_of_tests_that_is_not_there(tmp_path: Path) -> None:
    plan = plan_of(load_job(HERE / "labels.yaml"))
    with pytest.raises(ConfigurationError, match="no such file - give the path of a file of tests"):
        Suite(plan, tmp_path / "none.yaml")


# -- lines and times -------------------------------------------------------------------------------------


def test_lines_say_what_mappings_say() -> None:
    assert parse_line('10s  clicks@3 "a b"  n=7 x=1.5 s="7" t=true l=[1] word=abc user.name="J D" e=""') == {
        "at": "10s",
        "topic": "clicks",
        "partition": 3,
        "id": "a b",
        "with": {"n": 7, "x": 1.5, "s": "7", "t": True, "l": [1], "word": "abc", "user.name": "J D", "e": ""},
    }
    assert parse_line("caught_up input clicks") == {"caught_up": ["input", "clicks"]}
    assert parse_line("restart") == {"restart": True}
    assert parse_line("advance 1h") == {"advance": "1h"}


@pytest.mark.parametrize(
    ("text", "ms"), [("0s", 0), ("-1ms", -1), ("1h+1ms", 3_600_001), ("1h-1ms", 3_599_999), ("-1m30s", -90_000)]
)
def test_times_since_the_start(text: str, ms: int) -> None:
    assert parse_when(text) == When(ms)
    assert parse_when(said(ms)) == When(ms)
    assert When(ms).since(1000) == 1000 + ms


def test_times() -> None:
    assert parse_when("2026-01-01T00:00:00Z") == When(EPOCH_MS, True)
    assert parse_when("2026-01-01").since(5) == EPOCH_MS
    for wrong in ("", "soon", "1", 1, "s", "10"):
        with pytest.raises(Wrong):
            parse_when(wrong)


# -- values ----------------------------------------------------------------------------------------------

NESTED = {
    "type": "record",
    "name": "Shown",
    "namespace": "x.y",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}},
        {"name": "second", "type": ["null", "Kind"], "default": None},
        {"name": "code", "type": {"type": "fixed", "name": "Code", "size": 2}},
        {"name": "name", "type": ["string", "null"], "default": "nobody"},
        {"name": "geo", "type": {"type": "record", "name": "Geo", "fields": [{"name": "city", "type": "string"}]}},
        {"name": "back", "type": ["null", "x.y.Geo", "double"], "default": None},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "more", "type": {"type": "map", "values": "int"}},
        {"name": "yes", "type": "boolean"},
    ],
}


def avro_job(tmp_path: Path, **changes: Any) -> Any:
    (tmp_path / "a.avsc").write_text(json.dumps(NESTED))
    (tmp_path / "b.avsc").write_text(json.dumps({**NESTED, "fields": NESTED["fields"][:2]}))
    avro = {"input.format": "avro", **changes}
    return parse_job(json.dumps(job_tree("job", avro)), "job.yaml", tmp_path)


def test_avro_values_are_filled_by_the_schema(tmp_path: Path) -> None:
    values = Values(avro_job(tmp_path, **{"input.schema_file": "a.avsc"}))

    def made(line: str) -> dict[str, Any]:
        raw = values.raw(Step.model_validate(line), EPOCH_MS, 0)
        assert (raw.topic, raw.key, raw.timestamp) == ("job.shown", b"17", EPOCH_MS + 1000)
        return dict(fastavro.schemaless_reader(io.BytesIO(raw.value or b""), fastavro.parse_schema(NESTED), None))  # type: ignore[arg-type]

    empty = made("1s input 17")
    assert (empty["id"], empty["kind"], empty["code"], empty["name"]) == (17, "A", b"\0\0", "nobody")
    assert (empty["geo"], empty["back"], empty["tags"], empty["more"], empty["yes"]) == (
        {"city": ""},
        None,
        [],
        {},
        False,
    )
    line = '1s input 17 kind=B second=A code="ab" name=null geo.city=Oslo back.city=5 tags=["x"] more={"a":1} yes=true'
    full = made(line)
    assert (full["kind"], full["second"], full["code"], full["name"]) == ("B", "A", b"ab", None)
    assert (full["geo"], full["back"], full["tags"], full["more"]) == ({"city": "Oslo"}, {"city": "5"}, ["x"], {"a": 1})
    assert made("1s input 17 back=2.5")["back"] == 2.5
    for line, words in (
        ("1s input 17 geo.town=Oslo", "the Avro schema has no field geo.town"),
        ("1s input 17 yes=null", "yes is null, and the Avro schema has no null there"),
        ("1s input 17 back=[1]", "back: no type of the Avro union takes a list"),
        ("1s input 17 geo=1", "geo must be a mapping, found 1"),
        ("1s input seventeen", "does not fit the Avro schema"),
    ):
        with pytest.raises(Wrong, match=words):
            values.raw(Step.model_validate(line), EPOCH_MS, 0)


def test_records_with_schema_ids_in_and_out(tmp_path: Path) -> None:
    schemas = {"input.schema_files": {"7": "a.avsc", "9": "b.avsc"}, "output.schema_ids": {"7": 70, "9": 90}}
    plan = plan_of(avro_job(tmp_path, **schemas))
    path = tmp_path / "it.tests.yaml"
    path.write_text(
        """\
tests:
  - name: two writers
    events:
      - {at: 0s, topic: input, id: 17, schema_id: 7, with: {geo.city: Oslo}}
      - 0s input 18
      - 1s clicks 17
    expect:
      - {id: 17, clicked: 1 explicit, features: {id: 17, geo: {city: Oslo}, at: 1767225600000}}
      - {id: 18, clicked: 0 implicit, features: {id: 18}}
"""
    )
    results = list(Suite(plan, path).run())
    assert results[0].passed, told(results)
    read = record_reader(plan)
    with pytest.raises(ValueError):
        read(b"\0\0\0\0\x05")
    path.write_text("tests: [{name: a, events: [{at: 0s, topic: input, id: 1, schema_id: 8}], expect: []}]")
    with pytest.raises(ConfigurationError, match="there is no schema 8 - there is 7 and 9"):
        Suite(plan, path)
