"""What is generated from the models is up to date, and says everything."""

import json
import subprocess
import sys

from streamsample.config import json_schema, walk
from streamsample.config.kafka_options import OPTIONS, OWNED
from streamsample.config.not_yet import settings
from streamsample.config.reference import (
    DOCUMENT_FILE,
    SCHEMA_FILE,
    TESTS_DOCUMENT_FILE,
    TESTS_SCHEMA_FILE,
    filled,
    json_schema_of_tests,
    schema_text,
)
from streamsample.config.timeline import Timelines
from tests.config.jobs import ROOT

STALE = "run `python -m streamsample.config`"


def test_the_json_schema_is_up_to_date() -> None:
    assert (ROOT / SCHEMA_FILE).read_text(encoding="utf-8") == schema_text(), STALE
    assert json.loads(schema_text()) == json_schema()


def test_the_document_is_up_to_date_and_complete() -> None:
    text = (ROOT / DOCUMENT_FILE).read_text(encoding="utf-8")
    assert filled(text) == text, STALE
    for key in walk():
        assert f"| `{key.path}` |" in text
        assert key.field.description, key.path
    for name in (*OPTIONS, *OWNED, *settings()):
        assert f"`{name}`" in text


def test_what_is_derived_for_tests_of_jobs_is_up_to_date_and_complete() -> None:
    assert (ROOT / TESTS_SCHEMA_FILE).read_text(encoding="utf-8") == schema_text(json_schema_of_tests()), STALE
    text = (ROOT / TESTS_DOCUMENT_FILE).read_text(encoding="utf-8")
    assert filled(text) == text, STALE
    for key in walk(Timelines):
        assert f"| `{key.path}` |" in text
        assert key.field.description, key.path


def test_the_json_schema_describes_every_key_and_shows_defaults_as_written() -> None:
    schema = json_schema()
    assert schema["additionalProperties"] is False
    assert schema["properties"]["grace"]["default"] == "5s"
    for key in walk():
        owner = schema if key.owner.__name__ == "Job" else schema["$defs"][key.owner.__name__]
        assert owner["properties"][key.path.rpartition(".")[2]]["description"]


def test_this_room_stands_alone() -> None:
    code = "import sys, streamsample.config; print({name.split('.')[0] for name in sys.modules} & {'kafka', 'numba'})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout == "set()\n"
