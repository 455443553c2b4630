"""Training records in JSON, against the plain definition."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsample.errors import InvariantError
from streamsample.formats.training_json import JsonTrainingEncoder
from streamsample.records import Spans
from tests.formats.training_reference import Case, cases, example, plain

FEATURES = st.sampled_from([b"{}", b'{"amount": 1.50, "n":1e2}', b' {"name":"\\u00fc"}\n', '{"ü":[null]}'.encode()])


def no_constant(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


@settings(max_examples=100, deadline=None)
@given(case=cases(FEATURES))
def test_a_json_reader_reads_what_the_definition_says(case: Case) -> None:
    out = JsonTrainingEncoder(case.spec).encode(replace(case.columns, schema=np.zeros_like(case.columns.schema)))
    assert len(out) == len(case.columns)
    for row, message in enumerate(out.to_list()):
        features = case.columns.features[row]
        assert message is not None
        assert features is not None
        assert features in message  # verbatim
        read = json.loads(message.decode(), parse_constant=no_constant)
        assert repr(read) == repr(plain(case.spec, case.columns, row, json.loads(features)))


def test_the_same_columns_give_the_same_bytes() -> None:
    spec, columns = example()
    columns = replace(columns, features=Spans.of([b'{"impression_id":"a1"}', b"{}"]))
    once = JsonTrainingEncoder(spec).encode(columns).to_list()
    assert JsonTrainingEncoder(spec).encode(columns).to_list() == once


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (-0.0, "-0.0"),
        (1.0, "1.0"),
        (1e22, "1e+22"),
        (5e-324, "5e-324"),
        (math.inf, "null"),
        (math.nan, "null"),
    ],
)
def test_floats_are_as_short_as_they_can_be(value: float, text: str) -> None:
    spec, columns = example()
    revenue = replace(columns.targets[1], value=np.array([value, 0.0]))
    columns = replace(columns, features=Spans.of([b"{}", b"{}"]), targets=(columns.targets[0], revenue))
    message = JsonTrainingEncoder(spec).encode(columns)[0]
    assert f'"revenue":{{"value":{text},"kind"'.encode() in (message or b"")


def test_columns_that_do_not_fit_are_refused() -> None:
    spec, columns = example()
    with pytest.raises(InvariantError, match="training columns: features"):
        JsonTrainingEncoder(spec).encode(columns)
