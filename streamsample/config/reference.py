"""What is derived from the models for readers: JSON Schemas for editors, and tables of the documents.

`python -m streamsample.config` writes them; a test holds that they are up to date.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from streamsample.config import kafka_options
from streamsample.config.job import Job
from streamsample.config.keys import Key, walk
from streamsample.config.models import Section
from streamsample.config.not_yet import settings

ROOT = Path(__file__).parents[2]
SCHEMA_FILE = Path("configs/job.schema.json")
DOCUMENT_FILE = Path("docs/job-file.md")
TESTS_SCHEMA_FILE = Path("configs/tests.schema.json")
TESTS_DOCUMENT_FILE = Path("docs/testing.md")

_HEAD = ("| key | value | default | meaning |", "| --- | --- | --- | --- |")
_TITLES = {
    "": "The file",
    "kafka": "kafka",
    "input": "input",
    "sample": "sample",
    "feedback": "feedback.<name>",
    "targets": "targets.<name>",
    "thin": "thin",
    "features": "features",
    "split": "split",
    "output": "output",
    "dead_letters": "dead_letters",
    "late": "late",
    "orphans": "orphans",
    "limits": "limits",
    "changelog": "changelog",
    "metrics": "metrics",
    "state": "state",
}


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a job file, for editors; it knows less than `load_job` does."""
    schema = Job.model_json_schema(by_alias=True)
    for key in walk():
        section = schema if key.owner is Job else schema["$defs"][key.owner.__name__]
        described = section["properties"][key.path.rpartition(".")[2]]
        described.pop("title", None)
        if not key.default:
            described.pop("default", None)
        elif isinstance(described.get("default"), int):  # as it is written: "5s", not milliseconds
            described["default"] = key.default if key.kind in ("duration", "size") else described["default"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "streamsample job"}


def json_schema_of_tests() -> dict[str, Any]:
    """The JSON Schema of a file of tests."""
    schema = _timelines().model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "tests of a streamsample job"}


def _timelines() -> type[Section]:
    # Imported here: jobs that run need no tests.
    from streamsample.config.timeline import Timelines

    return Timelines


def schema_text(schema: dict[str, Any] | None = None) -> str:
    """What configs/job.schema.json contains, or the file of another schema."""
    return json.dumps(schema or json_schema(), indent=2, ensure_ascii=False) + "\n"


def tables() -> dict[str, str]:
    """The generated parts of docs/job-file.md, by the name in their markers."""
    found = {name: _table(name) for name in _TITLES}
    found["kafka-options"] = _options_table()
    found["kafka-owned"] = "\n".join(
        ["| option | why it is not for the job to set |", "| --- | --- |"]
        + [f"| `{name}` | {why} |" for name, why in sorted(kafka_options.OWNED.items())]
    )
    found["tests"] = "\n".join([*_HEAD, *(_row(key) for key in walk(_timelines()))])
    found["not-yet"] = ", ".join(f"`{name}`" for name in settings())
    return found


def _table(top: str) -> str:
    rows = list(_HEAD)
    for key in walk():
        first = key.path.partition(".")[0].removesuffix("[]")
        is_top = key.path == first
        if is_top if not top else (first == top and not is_top):
            rows.append(_row(key))
    return "\n".join(rows)


def _row(key: Key) -> str:
    default = f"`{key.default}`" if key.default else ("*required*" if key.field.is_required() else "")
    return f"| `{key.path}` | {key.kind} | {default} | {(key.field.description or '').replace('|', chr(92) + '|')} |"


def _options_table() -> str:
    rows = ["| option | value | meaning |", "| --- | --- | --- |"]
    for name, option in sorted(kafka_options.OPTIONS.items()):
        kind = ", ".join(f"`{choice}`" for choice in option.choices) or option.kind
        rows.append(f"| `{name}` | {kind} | {option.meaning} |")
    return "\n".join(rows)


def filled(text: str) -> str:
    """A document with everything between `<!-- table: NAME -->` and `<!-- end -->` written anew."""
    made = tables()
    parts = text.split("<!-- table: ")
    done = [parts[0]]
    for part in parts[1:]:
        name, _, rest = part.partition(" -->")
        _, _, after = rest.partition("<!-- end -->")
        done.append(f"<!-- table: {name} -->\n\n{made['' if name == 'top' else name]}\n\n<!-- end -->{after}")
    return "".join(done)


def write(root: Path = ROOT) -> None:
    """Write them all in a checkout."""
    (root / SCHEMA_FILE).write_text(schema_text(), encoding="utf-8")
    (root / TESTS_SCHEMA_FILE).write_text(schema_text(json_schema_of_tests()), encoding="utf-8")
    for name in (DOCUMENT_FILE, TESTS_DOCUMENT_FILE):
        document = root / name
        document.write_text(filled(document.read_text(encoding="utf-8")), encoding="utf-8")
