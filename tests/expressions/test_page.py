"""What docs/expressions.md shows is what happens."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from streamsample.config import parse_job
from streamsample.errors import ConfigurationError
from streamsample.expressions import WORDS, Failure, check
from streamsample.expressions.compiled import Compiled
from tests.expressions.test_against_cel import column
from tests.expressions.test_language import Json

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "expressions.md").read_text(encoding="utf-8")
FRAGMENTS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
ROWS = re.findall(r"^\| `+ ?(.+?) ?`+ \| `(\{.*?\})` \| (.+) \|$", PAGE, re.MULTILINE)
SHOP = """\
job: shop
kafka: {bootstrap_servers: "localhost:9092"}
input:
  topic: shop.shown
  format: avro
  schema_file: impression.avsc
  where: "prise > 0.5"
  id: impression_id
output: {topic: shop.training}
"""
IMPRESSION = {
    "type": "record",
    "name": "Impression",
    "fields": [
        *({"name": name, "type": "string"} for name in ("impression_id", "user_id", "item_id", "country")),
        {"name": "price", "type": ["null", "double"]},
        {"name": "position", "type": "int"},
        {"name": "genres", "type": {"type": "array", "items": "string"}},
    ],
}


def merged(tree: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    both = dict(tree)
    for key, value in more.items():
        both[key] = merged(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return both


def written(tree: dict[str, Any], directory: Path) -> str:
    (directory / "impression.avsc").write_text(json.dumps(IMPRESSION))
    return json.dumps(tree)


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_the_fragments_are_parts_of_a_job(fragment: str, tmp_path: Path) -> None:
    yaml = YAML(typ="safe")
    tree = yaml.load(SHOP)
    del tree["input"]["where"]
    part = yaml.load(fragment)
    names = list(part.get("feedback", ()))
    feedback = {"topic": "shop.clicks", "format": "json", "refers_to": "item"}
    if names:
        tree["feedback"] = {name: dict(feedback) for name in names}
        target = {"type": "int", "window": "1h"}
        tree["targets"] = {name: {**target, "rules": [{"from": name, "label": 1}]} for name in names}
    job = parse_job(written(merged(tree, part), tmp_path), directory=tmp_path)
    assert job.version


@pytest.mark.parametrize(("text", "record", "gives"), ROWS)
def test_the_table_says_what_expressions_give(text: str, record: str, gives: str) -> None:
    checked = check(text.replace("\\|", "|"), Json(), ["bool", "int", "double", "string"])
    given = {path: column(checked.fields[path], [found(json.loads(record), path)]) for path in checked.fields}
    result = Compiled(checked).evaluate(given, 1)
    if gives.startswith("fails: "):
        assert result.failed is not None
        assert gives == f"fails: {WORDS[Failure(result.failed[0])]}"
        return
    assert result.failed is None or not result.failed[0]
    value = result.spans.to_list()[0] if result.type == "string" else result.values[0].item()
    wanted = json.loads(gives.strip("`"))
    assert (value.decode() if isinstance(value, bytes) else value) == wanted
    assert type(wanted) is {"bool": bool, "int": int, "double": float, "string": str}[result.type]


def found(record: dict[str, Any], path: str) -> Any:
    value: Any = record
    for name in path.split("."):
        value = None if value is None else value.get(name)
    return value


def test_the_error_is_what_validate_says(tmp_path: Path) -> None:
    written({}, tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        parse_job(SHOP, "shop.yaml", directory=tmp_path)
    assert f"```\n{caught.value}\n```" in PAGE


def test_there_are_examples() -> None:
    assert len(FRAGMENTS) == 5
    assert len(ROWS) == 17
