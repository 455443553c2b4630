"""Computed columns over Avro: several writer schemas, nested and nullable fields, bad bytes beside good ones."""

from __future__ import annotations

import io
import json
import struct
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest

from streamsample.config import parse_job
from streamsample.errors import ConfigurationError
from streamsample.formats.projection import Field
from streamsample.records import RecordBatch, Spans
from streamsample.runtime.plan import Plan, plan_of
from streamsample.runtime.source import Events

NOW = 1_700_000_100_000
DEVICE = {
    "type": "record",
    "name": "Device",
    "fields": [{"name": "os", "type": "string"}, {"name": "mobile", "type": "boolean"}],
}


def schema(amount: Any, **more: Any) -> dict[str, Any]:
    fields = [
        {"name": "id", "type": "string"},
        {"name": "amount", "type": amount},
        {"name": "device", "type": ["null", DEVICE]},
        {"name": "cost", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        *({"name": name, "type": kind} for name, kind in more.items()),
    ]
    return {"type": "record", "name": "R", "fields": fields}


OLD, NEW = schema("int"), schema(["null", "double"], extra="long")
SAMPLE = {"design": "weighted", "k": 5, "window": "1h", "scope": "partition"}


def plan(directory: Path, where: str, weight: str, **more: Any) -> Plan:
    for name, each in (("old", OLD), ("new", NEW)):
        (directory / f"{name}.avsc").write_text(json.dumps(each))
    source = {"topic": "t", "format": "avro", "schema_files": {"1": "old.avsc", "2": "new.avsc"}, "id": "id"}
    tree = {
        "job": "j",
        "kafka": {"bootstrap_servers": "localhost:1"},
        "input": {**source, "where": where, **more},
        "sample": {**SAMPLE, "weight": {"expression": weight}},
        "output": {"topic": "o", "schema_ids": {"1": 11, "2": 12}},
    }
    return plan_of(parse_job(json.dumps(tree), directory=directory))


def framed(number: int, value: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema({1: OLD, 2: NEW}[number]), value)
    return struct.pack(">bI", 0, number) + out.getvalue()


def read(made: Plan, values: list[bytes | None]) -> Events:
    count = len(values)
    times = np.full(count, NOW - 1_000)
    times[-1] = NOW
    batch = RecordBatch(
        "t", 0, np.arange(count), times, Spans.nulls(count), Spans.of(values), Spans.nulls(count), count
    )  # fmt: skip
    return made.input.read(batch, NOW)


def test_expressions_see_what_all_writer_schemas_have_in_common(tmp_path: Path) -> None:
    made = plan(tmp_path, "amount > 1.0 && (device.mobile || cost > 2.5)", "amount * cost")
    ios, desk = {"os": "ios", "mobile": True}, {"os": "x", "mobile": False}
    values = [
        framed(1, {"id": "a", "amount": 2, "device": ios, "cost": Decimal("0.50")}),
        framed(2, {"id": "b", "amount": 2.5, "device": desk, "cost": Decimal("4.25"), "extra": 9}),
        framed(2, {"id": "c", "amount": 2.5, "device": desk, "cost": Decimal("1.00"), "extra": 9}),
        framed(2, {"id": "d", "amount": None, "device": ios, "cost": Decimal("1.00"), "extra": 9}),
        framed(2, {"id": "e", "amount": 7.5, "device": None, "cost": Decimal("3.00"), "extra": 9}),
        framed(2, {"id": "f", "amount": 7.5, "device": None, "cost": Decimal("1.00"), "extra": 9}),
        b"\x00\x00\x00\x00\x02\x02",
        None,
        framed(1, {"id": "g", "amount": 1, "device": None, "cost": Decimal("0.01")}),
    ]
    events = read(made, values)
    assert events.ids.to_list() == [b"a", b"b", b"e"]
    windows = made.samples[0].windows
    assert windows is not None
    assert windows.weight is not None
    weight = events.projection.number(windows.weight)
    assert weight.values[events.rows].tolist() == [1.0, 10.625, 22.5]
    assert (events.filtered, events.tombstones) == (2, 1)
    # What was left out at the end was read too.
    assert events.span == (NOW - 1_000, NOW)
    refused = [(each.stage, each.reason, each.rows.tolist()) for each in events.rejected]
    assert refused == [("decode", "bad_length", [6]), ("filter", "expression", [3, 5])]
    spliced = made.input.projector.splice(events.batch.values, events.projection, events.rows)
    assert spliced.to_list() == [(values[row] or b"")[5:] for row in events.rows.tolist()]


def test_an_expression_that_one_of_the_schemas_does_not_bear_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"old\.avsc has no field extra"):
        plan(tmp_path, "extra > 1", "amount")
    with pytest.raises(ConfigurationError, match=r"cannot be applied to \(double, int\)"):
        plan(tmp_path, "amount > 1", "amount")


def test_what_is_computed_stands_beside_the_fields_under_its_text(tmp_path: Path) -> None:
    text = {"expression": "id + '/' + device.os"}
    made = plan(tmp_path, "has(amount)", "amount * 2.0", id=text)
    assert {each.field for each in made.input.computed} == {
        Field("=amount * 2.0", "number"),
        Field("=id + '/' + device.os", "text"),
    }
    assert made.input.id_path == "=id + '/' + device.os"
