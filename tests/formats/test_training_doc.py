"""docs/training-record.md says what the encoders do."""

from __future__ import annotations

import io
import json
import re
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastavro

from streamsample.formats.training import TargetSpec, training_schema
from streamsample.formats.training_avro import AvroTrainingEncoder
from streamsample.formats.training_json import JsonTrainingEncoder
from streamsample.records import Spans
from tests.formats.training_reference import example

DOC = Path(__file__).parents[2] / "docs" / "training-record.md"
IMPRESSION: dict[str, Any] = {
    "type": "record",
    "name": "Impression",
    "fields": [
        {"name": "impression_id", "type": "string"},
        {"name": "served_at", "type": "long"},
        {"name": "country", "type": "string"},
    ],
}
FEATURES = {"impression_id": "a1", "served_at": 1_767_225_600_000, "country": "DE"}


def json_message() -> bytes:
    spec, columns = example()
    raw = json.dumps(FEATURES, separators=(",", ":")).encode()
    message = JsonTrainingEncoder(spec).encode(replace(columns, features=Spans.of([raw, raw])))[0]
    assert message is not None
    return message


def avro_message() -> bytes:
    spec, columns = example()
    out = io.BytesIO()
    fastavro.schemaless_writer(out, IMPRESSION, FEATURES)
    raw = out.getvalue()
    encoder = AvroTrainingEncoder([IMPRESSION], [42], spec)
    message = encoder.encode(replace(columns, features=Spans.of([raw, raw])))[0]
    assert message is not None
    assert fastavro.schemaless_reader(io.BytesIO(message[5:]), encoder.schemas[0], None) == json.loads(json_message())
    return message


def as_json() -> str:
    """The JSON example as the document shows it."""
    return json.dumps(json.loads(json_message()), indent=2)


def as_hex() -> str:
    """The Avro example as the document shows it."""
    return "\n".join(textwrap.wrap(avro_message().hex(), 96))


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)\n```", DOC.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def names(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return set().union(*map(names, schema))
    if not isinstance(schema, dict):
        return set()
    found = set(schema.get("symbols", []))
    for field in schema.get("fields", []):
        found |= {field["name"]} | names(field["type"])
    return found | names(schema.get("items")) | names(schema.get("type"))


def test_every_field_and_symbol_is_documented() -> None:
    schema = training_schema({"type": "record", "name": "F", "fields": []}, [TargetSpec("<name>", "int")])
    text = DOC.read_text().split("## How to use it")[0]
    missing = {name for name in names(schema) if f"`{name}`" not in text and f".{name}`" not in text}
    assert missing == set()


def test_the_examples_are_the_encoders_own() -> None:
    assert block("json") == as_json()
    assert block("text") == as_hex()
