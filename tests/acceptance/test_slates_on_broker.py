"""Slates on a real broker: workers, restarts, dead letters, metrics, and `streamsample verify`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamsample.records import Spans
from streamsample.runtime.dead_letters import positions_in
from streamsample.runtime.plan import plan_of
from streamsample.sampling import StratifiedRate
from streamsample.testing.values import record_reader
from tests.acceptance.cluster import MakeJob, OnBroker, Raw
from tests.acceptance.slates import CHANGES, SLATE, Value, clicks, slates
from tests.acceptance.test_backfill import backfill, in_range
from tests.acceptance.test_backfill import written as records_of
from tests.acceptance.test_verify import verdicts
from tests.acceptance.timelines import T0, avro
from tests.acceptance.windows import GLOBAL

END = T0 + 3_600_000
SAMPLE = {"design": "stratified", "by": "items.kind", "rate": 0.4, "rates": {"tent": 0.9}, "seed": 3}


def written(values: list[Value]) -> list[Raw]:
    return [Raw(json.dumps(value).encode(), value["request"].encode(), None, value["at"]) for value in values]


def the_end(job: OnBroker) -> None:
    """Empty slates, and clicks on nothing, in every partition: event time goes on."""
    for kind in ("shown", "clicked") if "feedback" in job.tree else ("shown",):
        values = [{"request": f"end{n}", "item": "none", "at": END, "event": f"end{n}"} for n in range(job.partitions)]
        job.write(kind, [Raw(json.dumps(value).encode(), None, n, END) for n, value in enumerate(values)])


def elements(values: list[Value], keep: Callable[[str, Value], bool]) -> dict[tuple[str, str], tuple[Value, int]]:
    """The predictions that are kept, by their ids, each where it is first in its list."""
    found: dict[tuple[str, str], tuple[Value, int]] = {}
    for value in values:
        for place, item in enumerate(value["items"] or []):
            if item["id"] is not None and keep(value["request"], item):
                found.setdefault((value["request"], item["id"]), (value, place))
    return found


def label(value: Value, item: str, clicked: list[Value]) -> str:
    mine = [each for each in clicked if (each["request"], each["item"]) == (value["request"], item)]
    return "explicit" if any(0 <= each["at"] - value["at"] <= 10_000 for each in mine) else "implicit"


def test_a18_workers_label_the_elements_of_slates_and_verify_derives_their_draws(make_job: MakeJob) -> None:
    job = make_job({**CHANGES, "sample": SAMPLE}, partitions=3)
    values = slates(400, 1)
    clicked = clicks(values, 1)
    job.write("shown", written(values[:200]))
    job.write("clicked", written(clicked[:150]))
    job.run_workers(2)
    job.write("shown", written(values[200:]))
    job.write("clicked", written(clicked[150:]))
    the_end(job)
    registry = job.live_once().registry

    design = StratifiedRate(0.4, {"tent": 0.9}, 3)

    def sampled(request: str, item: Value) -> bool:
        name = f"{len(request)}:{request}{len(item['id'])}:{item['id']}"
        return bool(design.decide(Spans.of([name.encode()]), Spans.of([item["kind"].encode()])).keep[0])

    wanted = {
        (request, item): (place, label(value, item, clicked), 0.9 if value["items"][place]["kind"] == "tent" else 0.4)
        for (request, item), (value, place) in elements(values, sampled).items()
    }
    found = {
        (record["features"]["request"], record["features"]["items"]["id"]): (
            record["lineage"]["prediction"]["index"],
            record["targets"]["clicked"]["source"],
            record["sampling"]["probability"],
        )
        for record in job.records
    }
    assert found == wanted
    assert len(job.records) == len(wanted) > 200
    assert {source for _, source, _ in wanted.values()} == {"explicit", "implicit"}
    bad = {(letter.key or b"").decode(): positions_in(letter.why("positions")) for letter in job.dead}
    missing = {
        value["request"]: places
        for value in values
        if (places := [n for n, item in enumerate(value["items"] or []) if item["id"] is None])
    }
    assert bad == missing
    here = [value["items"] or [] for value in values[200:]]
    for name, count in (("elements", sum(map(len, here))), ("empty_lists", here.count([]) + 3), ("records_in", 203)):
        assert registry.get_sample_value(f"streamsample_{name}_total", {"topic": f"{job.name}.shown"}) == count
    (verdict,) = verdicts(job)
    assert verdict.right, verdict.lines()
    twice = sum(sampled(value["request"], item) for value in values for item in value["items"] or [] if item["id"])
    assert verdict.equal == len(wanted)
    assert verdict.pending == verdict.derived - len(wanted) == twice - len(wanted)  # an item that a list holds twice


def test_a8_a_backfill_of_slates_writes_what_the_live_job_wrote_of_its_range(make_job: MakeJob) -> None:
    split = {"by": "items.kind", "train": 0.5, "test": 0.5}
    job = make_job({**CHANGES, "split": split, "dead_letters": {"max_ratio": 1.0}}, partitions=2)
    values = slates(600, 4, every_ms=300)
    job.write("shown", written(values))
    job.write("clicked", written(clicks(values, 4)))
    the_end(job)
    job.run()
    backfill(job, "again")
    again = records_of(job, "again")
    assert again == in_range(job)
    assert len(again) > 200


def test_b4_windows_of_slates_over_all_partitions_are_derived_again_without_what_came_late(make_job: MakeJob) -> None:
    sample = {**GLOBAL, "by": "items.kind", "strata": ["tent"]}
    changes: dict[str, Any] = {**CHANGES, "feedback": None, "targets": None, "sample": sample}
    job = make_job({**changes, "input.id": ["request", "items.id", "items_position"]}, partitions=2)
    values = [{**value, "at": value["at"] + 10_000} for value in slates(300, 2)]
    job.write("shown", written(values))
    the_end(job)
    job.run_workers(2)
    late = [{**value, "request": f"late-{value['request']}"} for value in values[:20]]
    job.write("shown", written(late))
    job.run()
    (verdict,) = verdicts(job)
    assert verdict.right, "\n".join(verdict.lines())
    assert verdict.equal == verdict.derived == len(job.records) > 30
    elements_late = [item for value in late for item in value["items"] or [] if item["id"] is not None]
    assert verdict.refused == len(elements_late) > 10
    assert {record["lineage"]["prediction"]["index"] for record in job.records} > {0, 1}


def test_a12_a_slate_job_in_avro_takes_up_its_rows_again(make_job: MakeJob, tmp_path: Path) -> None:
    """Rows are in the changelog by their index: another process goes on with them."""
    schema = tmp_path / "slate.avsc"
    schema.write_text(json.dumps(SLATE))
    job = make_job({**CHANGES, "input.format": "avro", "input.schema_file": str(schema)}, partitions=2)
    values = slates(200, 3)
    clicked = clicks(values, 3)
    job.write("shown", [Raw(avro(SLATE, value), value["request"].encode(), None, value["at"]) for value in values])
    job.run()
    job.write("clicked", written(clicked))
    empty = {"request": "end", "items": None, "at": END, "user": ""}
    job.write("shown", [Raw(avro(SLATE, empty), None, n, END) for n in range(2)])
    last = {"request": "end", "item": "none", "at": END, "event": "end"}
    job.write("clicked", [Raw(json.dumps(last).encode(), None, n, END) for n in range(2)])
    job.run()
    read = record_reader(plan_of(job.job))
    records = [read(record.value) for record in job.read(f"{job.name}.training")]
    found = {
        (tree["features"]["request"], tree["features"]["items"]["id"]): (
            tree["features"]["items_position"],
            tree["targets"]["clicked"]["source"],
        )
        for tree in records
    }
    kept = elements(values, lambda request, item: True)
    wanted = {key: (place, label(value, key[1], clicked)) for key, (value, place) in kept.items()}
    assert found == wanted
    assert len(records) == len(wanted)
    assert len(job.dead) == sum(any(item["id"] is None for item in value["items"] or []) for value in values)
