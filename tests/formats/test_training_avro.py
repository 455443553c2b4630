"""Training records in Avro, against fastavro's reading and the plain definition."""

from __future__ import annotations

import copy
import io
import json
from dataclasses import replace
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsample.errors import ConfigurationError, InvariantError
from streamsample.formats.training import SamplingSpec, TargetSpec, TrainingColumns, TrainingSpec, training_schema
from streamsample.formats.training_avro import AvroTrainingEncoder
from streamsample.formats.training_kernel import PADDING
from streamsample.records import Spans
from tests.formats.training_reference import Case, cases, example, plain

IMPRESSION: dict[str, Any] = {
    "type": "record",
    "name": "Impression",
    "fields": [{"name": "impression_id", "type": "string"}, {"name": "served_at", "type": "long"}],
}


def body(schema: dict[str, Any], value: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, value)
    return out.getvalue()


def read(schema: dict[str, Any], message: bytes | None, reader: dict[str, Any] | None = None) -> Any:
    """The value, and a proof that nothing is left behind it."""
    assert message is not None
    source = io.BytesIO(message)
    value = fastavro.schemaless_reader(source, schema, reader)
    assert source.read() == b""
    return value


def bodies() -> st.SearchStrategy[Any]:
    each = st.builds(
        lambda name, at: {"impression_id": name, "served_at": at}, st.text(), st.integers(-(2**63), 2**63 - 1)
    )
    return each.map(lambda value: body(IMPRESSION, value))


def same(left: Any, right: Any) -> bool:
    """Equal, and of equal sign where zero."""
    return repr(left) == repr(right)


@settings(max_examples=100, deadline=None)
@given(case=cases(bodies()), framed=st.booleans())
def test_fastavro_reads_what_the_definition_says(case: Case, framed: bool) -> None:
    ids = [2**32 - 1 - number for number in range(case.schemas)] if framed else None
    encoder = AvroTrainingEncoder([IMPRESSION] * case.schemas, ids, case.spec)
    out = encoder.encode(case.columns)
    assert len(out) == len(case.columns)
    assert int(out.size.sum()) == len(out.buffer)
    for row, message in enumerate(out.to_list()):
        assert message is not None
        if ids is not None:
            assert message[:5] == b"\x00" + ids[case.columns.schema[row]].to_bytes(4, "big")
            message = message[5:]
        features = read(IMPRESSION, case.columns.features[row])
        assert same(read(encoder.schemas[0], message), plain(case.spec, case.columns, row, features))


def shop(columns: TrainingColumns) -> TrainingColumns:
    values = [{"impression_id": f"a{row}", "served_at": 1_767_225_600_000} for row in range(2)]
    return replace(columns, features=Spans.of([body(IMPRESSION, value) for value in values]))


def test_the_bound_holds_for_the_longest_of_everything() -> None:
    spec, columns = example()
    columns = shop(columns)
    assert columns.sampling is not None
    low64, low32 = np.full(2, -(2**63)), np.full(2, -(2**31), np.int32)
    targets = tuple(
        replace(
            target,
            value=low64 if target.value.dtype == np.int64 else low64.astype(np.float64),
            explicit=np.ones(2, np.bool_),
            event_time=low64,
            delay_ms=low64,
        )
        for target in columns.targets
    )
    big = np.full(2, 2**63 - 1)
    columns = replace(
        columns,
        revision=low32,
        supersedes=np.full(2, 2**31 - 1, np.int32),
        targets=tuple(replace(target, kind=np.ones(2, np.int16)) for target in targets),
        sampling=replace(columns.sampling, n=big, k=big),
        split=np.ones(2, np.int8),
        partition=low32,
        offset=low64,
        index=low32,
        feedback_partition=low32[:1],
        feedback_offset=low64[:1],
        feedback_index=low32[:1],
    )
    spec = replace(spec, sampling=SamplingSpec("stratified", 2**63 - 1))
    encoder = AvroTrainingEncoder([IMPRESSION], [1], spec)
    out = encoder.encode(columns)
    assert len(out.buffer) + PADDING <= encoder._bound(columns)
    record = read(encoder.schemas[0], (out[0] or b"")[5:])
    assert record["targets"]["clicked"]["event_time"] == -(2**63)
    assert record["sampling"]["seed"] == 2**63 - 1


def test_each_writer_schema_has_its_own_output_schema_and_id() -> None:
    wider = copy.deepcopy(IMPRESSION)
    wider["fields"].append({"name": "country", "type": ["null", "string"], "default": None})
    spec, columns = example()
    values = [
        body(IMPRESSION, {"impression_id": "a", "served_at": 1}),
        body(wider, {"impression_id": "b", "served_at": 2, "country": "IS"}),
    ]
    columns = replace(columns, features=Spans.of(values), schema=np.array([0, 1], np.int16))
    encoder = AvroTrainingEncoder([IMPRESSION, wider], [17, 18], spec)
    for row, message in enumerate(encoder.encode(columns).to_list()):
        assert message is not None
        assert int.from_bytes(message[1:5], "big") == 17 + row
        assert values[row] in message  # verbatim
        record = read(encoder.schemas[row], message[5:])
        assert record["features"].get("country") == (None if row == 0 else "IS")


def test_no_schema_name_of_the_features_meets_one_of_the_envelope() -> None:
    inner = {"type": "record", "name": "Weights", "fields": [{"name": "sampling", "type": "int"}]}
    features = {
        "type": "record",
        "name": "TrainingRecord",
        "fields": [
            {"name": "source", "type": {"type": "enum", "name": "Source", "symbols": ["A"]}},
            {"name": "w", "type": inner},
        ],
    }
    schema = fastavro.parse_schema(
        training_schema(features, [TargetSpec("Weights", "int"), TargetSpec("Source", "double")])
    )
    assert schema["name"] == "streamsample.TrainingRecord"
    fields = {field["name"]: field["type"] for field in schema["fields"]}
    assert fields["features"]["name"] == "TrainingRecord"
    assert [field["type"]["name"] for field in fields["features"]["fields"]] == ["Source", "Weights"]
    assert [field["type"]["name"] for field in fields["targets"]["fields"]] == [
        "streamsample.targets.Weights",
        "streamsample.targets.Source",
    ]


def test_training_records_can_be_the_input_of_another_job() -> None:
    first = training_schema(IMPRESSION, [TargetSpec("clicked", "int")])
    second = training_schema(first, [TargetSpec("clicked", "int")])
    third = training_schema(second, [TargetSpec("clicked", "int")])
    names = [fastavro.parse_schema(schema)["name"] for schema in (first, second, third)]
    assert len(set(names)) == 3


def test_a_parsed_schema_can_be_the_features_schema() -> None:
    parsed = fastavro.parse_schema({**IMPRESSION, "namespace": "shop.web"})
    fastavro.parse_schema(training_schema(parsed, []))
    assert training_schema(parsed, [])["fields"][4]["type"]["name"] == "shop.web.Impression"


def test_a_target_can_be_added_and_taken_away() -> None:
    spec, columns = example()
    columns = shop(columns)
    encoder = AvroTrainingEncoder([IMPRESSION], None, spec)
    message = encoder.encode(columns)[0]
    fewer = training_schema(IMPRESSION, spec.targets[:1])
    more = training_schema(IMPRESSION, [*spec.targets, TargetSpec("returned", "int")])
    assert set(read(encoder.schemas[0], message, fewer)["targets"]) == {"clicked"}
    unknown = read(encoder.schemas[0], message, more)["targets"]["returned"]
    assert unknown == dict.fromkeys(("value", "kind", "source", "event_time", "delay_ms"))


def test_every_field_has_a_doc_and_every_union_a_null_default() -> None:
    def visit(schema: Any) -> int:
        if isinstance(schema, list):
            return sum(visit(part) for part in schema)
        if not isinstance(schema, dict):
            return 0
        fields = schema.get("fields", [])
        for field in fields:
            assert field["doc"].endswith((".", ")")), field
            if isinstance(field["type"], list):
                assert field["type"][0] == "null", field
                assert field["default"] is None, field
        return (
            len(fields)
            + sum(visit(field["type"]) for field in fields)
            + visit(schema.get("items"))
            + visit(schema.get("type"))
        )

    schema = training_schema(IMPRESSION, [TargetSpec("clicked", "int")])
    schema["fields"][4]["type"] = "null"  # the features are the user's
    assert visit(schema) > 30
    json.dumps(schema)


@pytest.mark.parametrize("name", ["", "1st", "a-b", "a.b", "naïve", "a b", "a\n"])
def test_a_target_that_avro_cannot_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="targets"):
        TrainingSpec("job", "v", "topic", targets=(TargetSpec(name, "int"),))


def test_what_a_spec_or_an_encoder_cannot_be_is_refused() -> None:
    twice = (TargetSpec("a", "int"), TargetSpec("a", "double"))
    with pytest.raises(ConfigurationError, match="named twice"):
        TrainingSpec("job", "v", "topic", targets=twice)
    spec, _ = example()
    assert spec.sampling is not None
    for seed in (-1, 2**63):
        with pytest.raises(ConfigurationError, match="seed"):
            replace(spec, sampling=replace(spec.sampling, seed=seed))
    with pytest.raises(ConfigurationError, match="does not fit"):
        AvroTrainingEncoder([IMPRESSION], [2**32], spec)
    with pytest.raises(ConfigurationError, match="2 output schema ids for 1"):
        AvroTrainingEncoder([IMPRESSION], [1, 2], spec)


def broken() -> list[Any]:
    _, columns = example()
    columns = shop(columns)
    outside = Spans(columns.features.buffer, columns.features.start + 1, columns.features.size)
    clicked, revenue = columns.targets
    return [
        replace(columns, features=Spans.nulls(2)),
        replace(columns, features=outside),
        replace(columns, state=np.array([0, 4], np.int8)),
        replace(columns, schema=np.array([0, 1], np.int16)),
        replace(columns, split=np.array([-2, 0], np.int8)),
        replace(columns, split=np.array([0, 3], np.int8)),
        replace(columns, closed_by=np.array([0, 2], np.int8)),
        replace(columns, revision=np.zeros(2, np.int64)),
        replace(columns, offset=np.zeros(3, np.int64)),
        replace(columns, record_id=np.zeros((2, 8), np.uint8)),
        replace(columns, targets=(clicked,)),
        replace(columns, targets=(revenue, clicked)),
        replace(columns, targets=(replace(clicked, kind=np.array([2, 0], np.int16)), revenue)),
        replace(columns, sampling=None),
        replace(columns, feedback_start=np.array([0, 2, 1])),
        replace(columns, feedback_start=np.array([0, 1, 2])),
        replace(columns, feedback_target=np.array([2], np.int16)),
        replace(columns, feedback_topic=np.array([-1], np.int16)),
    ]


@pytest.mark.parametrize("columns", broken())
def test_columns_that_do_not_fit_never_reach_the_kernel(columns: TrainingColumns) -> None:
    spec, _ = example()
    with pytest.raises(InvariantError, match="training columns: "):
        AvroTrainingEncoder([IMPRESSION], None, spec).encode(columns)


def test_columns_may_have_gaps_in_memory() -> None:
    spec, columns = example()
    columns = shop(columns)
    expected = AvroTrainingEncoder([IMPRESSION], None, spec).encode(columns).to_list()
    doubled: dict[str, Any] = {
        name: np.repeat(getattr(columns, name), 2, axis=0)[::2]
        for name in ("record_id", "revision", "state", "offset", "split", "partition", "closed_by", "feedback_offset")
    }
    clicked = replace(columns.targets[0], event_time=np.repeat(columns.targets[0].event_time, 2)[::2])
    columns = replace(columns, **doubled, targets=(clicked, columns.targets[1]))
    assert AvroTrainingEncoder([IMPRESSION], None, spec).encode(columns).to_list() == expected
