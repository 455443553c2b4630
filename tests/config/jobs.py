"""The job file that the tests of this room vary: every key that there is, set to something."""

import copy
from pathlib import Path
from typing import Any

from streamsample.config import Job, SchemaFile

ROOT = Path(__file__).parents[2]


def schema(*fields: tuple[str, Any]) -> SchemaFile:
    import json

    record = {"type": "record", "name": "R", "fields": [{"name": name, "type": kind} for name, kind in fields]}
    return SchemaFile(Path("r.avsc"), json.dumps(record))


IMPRESSION = schema(
    ("id", "string"),
    ("other_id", "long"),
    ("at", "long"),
    ("user", "string"),
    ("country", "string"),
    ("device", ["null", "string"]),
    ("ip", "string"),
    ("geo", {"type": "record", "name": "Geo", "fields": [{"name": "city", "type": "string"}]}),
)

FULL: dict[str, Any] = {
    "job": "shop",
    "kafka": {"bootstrap_servers": "localhost:9092", "client_id": "a"},
    "start": "earliest",
    "input": {
        "topic": "impressions",
        "format": "avro",
        "schema_files": {"7": IMPRESSION},
        "framing": "confluent",
        "id": "id",
        "time": {"field": "at", "unit": "ms"},
        "idle_timeout": "1m",
    },
    "sample": {
        "design": "stratified",
        "rate": 0.1,
        "by": ["country"],
        "rates": {"IS": 1.0},
        "unit": "user",
        "seed": 7,
    },
    "feedback": {
        "clicks": {
            "topic": "clicks",
            "format": "json",
            "id": "click_id",
            "refers_to": "id",
            "time": {"field": "ts", "unit": "ms"},
            "idle_timeout": None,
        },
        "orders": {"topic": "orders", "format": "json", "refers_to": "id"},
    },
    "targets": {
        "clicked": {
            "type": "int",
            "window": "30m",
            "rules": [{"from": "clicks", "label": 1, "take": "first"}],
            "if_silent": 0,
        },
        "revenue": {"type": "double", "window": "7d", "rules": [{"from": "orders", "field": "amount"}]},
    },
    "grace": "5s",
    "skew": "0s",
    "late_horizon": "1h",
    "features": {"drop": ["ip"]},
    "split": {"by": "user", "seed": 0, "train": 0.8, "test": 0.2},
    "output": {"topic": "training", "schema_ids": {"7": 8}, "compression": "lz4"},
    "dead_letters": {
        "topic": "dead",
        "max_ratio": 0.01,
        "min_count": 1000,
        "max_bytes": "500KB",
        "replication": 3,
    },
    "commit_interval": "1s",
    "max_future": "1h",
    "max_ahead": "2h",
    "limits": {"open_rows_max": 1000, "waiting_max": 1000, "ahead_bytes_max": "1MiB"},
    "changelog": {"topic": "log", "replication": 3},
    "metrics": {"host": "0.0.0.0", "port": 9464},
    "state": {"directory": "state"},
}

DELETE = object()


def varied(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """FULL with the values at dotted paths replaced, or taken away by DELETE."""
    tree = copy.deepcopy(FULL)
    for path, value in (changes or {}).items():
        *above, last = path.split(".")
        place: Any = tree
        for step in above:
            place = place[int(step) if isinstance(place, list) else step]
        if value is DELETE:
            del place[last]
        else:
            place[int(last) if isinstance(place, list) else last] = value
    return tree


def job(changes: dict[str, Any] | None = None) -> Job:
    return Job.model_validate(varied(changes))
