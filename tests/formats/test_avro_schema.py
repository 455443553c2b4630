"""Schemas: names resolved, and fields taken away."""

from __future__ import annotations

import fastavro
import pytest

from streamsample.errors import ConfigurationError
from streamsample.formats.avro_schema import AvroSchema, features_schema

SCHEMA = {
    "type": "record",
    "name": "Impression",
    "namespace": "shop",
    "doc": "one impression",
    "fields": [
        {"name": "ip", "type": {"type": "record", "name": "Ip", "fields": [
            {"name": "kind", "type": {"type": "enum", "name": "geo.Kind", "symbols": ["V4", "V6"]}},
            {"name": "via", "type": ["null", "Ip"]}]}},
        {"name": "id", "type": "string", "doc": "unique", "pii": True},
        {"name": "proxies", "type": {"type": "array", "items": "Ip"}},
        {"name": "kind", "type": "geo.Kind"},
        {"name": "kinds", "type": {"type": "map", "values": ["null", "geo.Kind"]}, "default": {}},
    ],
}  # fmt: skip


def test_a_type_defined_in_a_dropped_field_is_defined_where_it_is_used_first() -> None:
    features = features_schema(SCHEMA, drop=["ip"])
    fastavro.parse_schema(features)
    assert (features["name"], features["doc"]) == ("shop.Impression", "one impression")
    assert [field["name"] for field in features["fields"]] == ["id", "proxies", "kind", "kinds"]
    assert features["fields"][0] == {"name": "id", "type": "string", "doc": "unique", "pii": True}
    ip = features["fields"][1]["type"]["items"]
    assert ip["name"] == "shop.Ip"
    assert ip["fields"][0]["type"]["symbols"] == ["V4", "V6"]
    assert ip["fields"][1]["type"] == ["null", "shop.Ip"]
    assert features["fields"][2]["type"] == "geo.Kind"


def test_the_kept_fields_keep_the_order_of_the_schema() -> None:
    features = features_schema(SCHEMA, keep=["kinds", "kind"])
    fastavro.parse_schema(features)
    assert [field["name"] for field in features["fields"]] == ["kind", "kinds"]
    assert features["fields"][0]["type"]["name"] == "geo.Kind"
    assert features["fields"][1]["type"] == {"type": "map", "values": ["null", "geo.Kind"]}


def test_nothing_dropped_is_the_schema_with_names_in_full() -> None:
    features = features_schema(SCHEMA)
    assert fastavro.schema.to_parsing_canonical_form(features) == fastavro.schema.to_parsing_canonical_form(SCHEMA)


def test_everything_dropped_is_a_record_without_fields() -> None:
    assert features_schema(SCHEMA, keep=[])["fields"] == []


def test_an_unknown_name_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigurationError, match=r"'knid'.*did you mean 'kind'.*proxies"):
        features_schema(SCHEMA, drop=["knid"])


def test_paths_enter_a_recursive_record_once() -> None:
    assert AvroSchema(SCHEMA).paths() == ["ip.kind", "id", "kind"]


def test_least_is_zero_only_for_what_takes_no_bytes() -> None:
    schema = AvroSchema({
        "type": "record", "name": "R", "fields": [
            {"name": "a", "type": {"type": "record", "name": "Empty", "fields": [{"name": "n", "type": "null"}]}},
            {"name": "b", "type": ["null", "R"]},
            {"name": "c", "type": "double"}]})  # fmt: skip
    assert [schema.least(field["type"]) for field in schema.root["fields"]] == [0, 1, 8]
    assert schema.least("R") == 9
