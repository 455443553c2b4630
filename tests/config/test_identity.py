"""Which keys of the job file change the version of its records, and which the shape of its state."""

from typing import Any

import pytest

from streamsample.config import Job, walk
from tests.config.jobs import DELETE, IMPRESSION, job, schema

BOTH, VERSION, SHAPE, NEITHER = (True, True), (True, False), (False, True), (False, False)
WIDER = schema(
    ("id", "string"), ("at", "long"), ("user", "string"), ("country", "string"), ("ip", "string"), ("x", "int")
)

SEATED = schema(
    *(("id", "string"), ("at", "long"), ("user", "string"), ("country", "string"), ("ip", "string")),
    ("seats", {"type": "array", "items": "string"}),
)

# key in the documentation -> (changes of the full job, does it change the version, does it change the state's shape)
CHANGES: dict[str, tuple[dict[str, Any], tuple[bool, bool]]] = {
    "job": ({"job": "other"}, VERSION),
    "kafka": ({"kafka.client_id": "b"}, NEITHER),
    "kafka.bootstrap_servers": ({"kafka.bootstrap_servers": "b:1"}, NEITHER),
    "start": ({"start": "latest"}, NEITHER),
    "input.topic": ({"input.topic": "others"}, BOTH),
    "input.format": (
        {"input.format": "json", "input.schema_files": {}, "input.framing": "none", "output.schema_ids": {}},
        BOTH,
    ),
    "input.schema_file": (
        {"input.schema_file": IMPRESSION, "input.schema_files": {}, "input.framing": "none", "output.schema_ids": {}},
        BOTH,
    ),
    "input.schema_files": ({"input.schema_files": {"7": WIDER}}, VERSION),
    "input.framing": ({"input.framing": "none", "output.schema_ids": {}}, BOTH),
    "input.where": ({"input.where": "country == 'IS'"}, VERSION),
    "input.id": ({"input.id": "other_id"}, BOTH),
    "input.time": ({"input.time": DELETE}, BOTH),
    "input.time.field": ({"input.time.field": "other_id"}, BOTH),
    "input.time.expression": ({"input.time": {"expression": "at + 1", "unit": "ms"}}, BOTH),
    "input.time.unit": ({"input.time.unit": "us"}, BOTH),
    "input.explode": ({"input.explode": "seats", "input.schema_files": {"7": SEATED}}, BOTH),
    "input.rekey": ({"input.rekey": True}, SHAPE),
    "input.idle_timeout": ({"input.idle_timeout": "2m"}, VERSION),
    "sample": ({"sample": DELETE}, BOTH),
    "sample.design": ({"sample": {"design": "simple", "rate": 0.1, "unit": "user", "seed": 7}}, VERSION),
    "sample.rate": ({"sample.rate": 0.2}, VERSION),
    "sample.by": ({"sample.by": ["device"]}, VERSION),
    "sample.rates": ({"sample.rates": {"IS": 0.9}}, VERSION),
    "sample.unit": ({"sample.unit": DELETE}, VERSION),
    "sample.seed": ({"sample.seed": 8}, VERSION),
    "feedback.<name>.topic": ({"feedback.clicks.topic": "others"}, BOTH),
    "feedback.<name>.format": (
        {
            "feedback.clicks.format": "avro",
            "feedback.clicks.schema_file": schema(("click_id", "string"), ("id", "string"), ("ts", "long")),
        },
        VERSION,
    ),
    "feedback.<name>.rekey": ({"feedback.clicks.rekey": True}, SHAPE),
    "feedback.<name>.where": ({"feedback.clicks.where": "kind == 'click'"}, VERSION),
    "feedback.<name>.id": ({"feedback.clicks.id": DELETE}, BOTH),
    "feedback.<name>.refers_to": ({"feedback.clicks.refers_to": DELETE}, BOTH),
    "feedback.<name>.time": ({"feedback.clicks.time": DELETE}, BOTH),
    "feedback.<name>.time.field": ({"feedback.clicks.time.field": "at"}, BOTH),
    "feedback.<name>.time.expression": (
        {"feedback.clicks.time": {"expression": "int(ts)", "unit": "ms"}},
        BOTH,
    ),
    "feedback.<name>.time.unit": ({"feedback.clicks.time.unit": "s"}, BOTH),
    "feedback.<name>.idle_timeout": ({"feedback.clicks.idle_timeout": "1h"}, VERSION),
    "targets": (
        {"targets.clicks": {"type": "int", "window": "1m", "rules": [{"from": "clicks", "label": 1}]}},
        VERSION,
    ),
    "targets.<name>.type": ({"targets.clicked.type": "double"}, BOTH),
    "targets.<name>.classes": (
        {
            "targets.clicked.type": "string",
            "targets.clicked.classes": ["yes", "no"],
            "targets.clicked.rules.0.label": "yes",
            "targets.clicked.if_silent": "no",
        },
        BOTH,
    ),
    "thin": ({"thin": {"by": "clicked", "rates": {"0": 0.1}}}, VERSION),
    "thin.by": ({"thin": {"by": "clicked"}}, VERSION),
    "thin.rate": ({"thin": {"by": "clicked", "rate": 0.5}}, VERSION),
    "thin.rates": ({"thin": {"by": "clicked", "rates": {"1": 0.1}}}, VERSION),
    "thin.seed": ({"thin": {"by": "clicked", "seed": 3}}, VERSION),
    "thin.offset": ({"thin": {"by": "clicked", "offset": "log_odds"}}, VERSION),
    "targets.<name>.window": ({"targets.clicked.window": "31m"}, VERSION),
    "targets.<name>.rules[].window": ({"targets.clicked.rules.0.window": "31m"}, VERSION),
    "targets.<name>.rules[].take": ({"targets.clicked.rules.0.take": "last"}, VERSION),
    "targets.<name>.rules[].undone_by": ({"targets.clicked.rules.0.undone_by": {"from": "orders"}}, VERSION),
    "targets.<name>.rules[].undone_by.from": (
        {"targets.clicked.rules.0.undone_by": {"from": "clicks", "refers_to": "undone"}},
        VERSION,
    ),
    "targets.<name>.rules[].undone_by.refers_to": (
        {"targets.clicked.rules.0.undone_by": {"from": "orders", "refers_to": "click"}},
        VERSION,
    ),
    "targets.<name>.rules": (
        {
            "targets.clicked.rules": [{"from": "orders", "label": 1}],
            "targets.revenue.rules": [{"from": "clicks", "field": "amount"}],
        },
        VERSION,
    ),
    "targets.<name>.rules[].from": (
        {"targets.clicked.rules.0.from": "orders", "targets.revenue.rules.0.from": "clicks"},
        VERSION,
    ),
    "targets.<name>.rules[].label": ({"targets.clicked.rules.0.label": 2}, VERSION),
    "targets.<name>.rules[].field": ({"targets.revenue.rules.0.field": "price"}, VERSION),
    "targets.<name>.rules[].expression": (
        {"targets.revenue.rules": [{"from": "orders", "expression": "price * 2.0"}]},
        VERSION,
    ),
    "targets.<name>.if_silent": ({"targets.clicked.if_silent": "drop"}, VERSION),
    "targets.<name>.early": ({"targets.clicked.early": True}, VERSION),
    "corrections": ({"corrections": "1d"}, VERSION),
    "emit": ({"emit": "each"}, VERSION),
    "grace": ({"grace": "6s"}, VERSION),
    "skew": ({"skew": "1s"}, VERSION),
    "late_horizon": ({"late_horizon": "2h"}, NEITHER),
    "features": ({"features": DELETE}, BOTH),
    "features.keep": ({"features": {"keep": ["user"]}}, BOTH),
    "features.drop": ({"features.drop": ["user"]}, BOTH),
    "split": ({"split": DELETE}, BOTH),
    "split.by": ({"split.by": DELETE}, VERSION),
    "split.seed": ({"split.seed": 1}, VERSION),
    "split.<part>": ({"split.train": 0.7, "split.test": 0.3}, VERSION),
    "output.topic": ({"output.topic": "others"}, NEITHER),
    "output.schema_ids": ({"output.schema_ids": {"7": 9}}, NEITHER),
    "output.compression": ({"output.compression": "zstd"}, NEITHER),
    "dead_letters.topic": ({"dead_letters.topic": DELETE}, NEITHER),
    "dead_letters.max_ratio": ({"dead_letters.max_ratio": 0.5}, NEITHER),
    "dead_letters.min_count": ({"dead_letters.min_count": 5}, NEITHER),
    "dead_letters.max_bytes": ({"dead_letters.max_bytes": "5KB"}, NEITHER),
    "dead_letters.replication": ({"dead_letters.replication": 1}, NEITHER),
    "late": ({"late": {"topic": "too_late"}}, NEITHER),
    "late.topic": ({"late": {"topic": "too_late"}}, NEITHER),
    "orphans": ({"orphans": {"topic": "orphans"}}, NEITHER),
    "orphans.topic": ({"orphans": {"topic": "orphans"}}, NEITHER),
    "commit_interval": ({"commit_interval": "200ms"}, NEITHER),
    "max_future": ({"max_future": "1m"}, NEITHER),
    "max_ahead": ({"max_ahead": DELETE}, NEITHER),
    "limits.open_rows_max": ({"limits.open_rows_max": 5}, NEITHER),
    "limits.elements_max": ({"limits.elements_max": 5}, NEITHER),
    "limits.waiting_max": ({"limits.waiting_max": 5}, NEITHER),
    "limits.ahead_bytes_max": ({"limits.ahead_bytes_max": "5MB"}, NEITHER),
    "changelog.topic": ({"changelog.topic": DELETE}, NEITHER),
    "changelog.replication": ({"changelog.replication": 1}, NEITHER),
    "metrics.host": ({"metrics.host": "::"}, NEITHER),
    "metrics.port": ({"metrics.port": 0}, NEITHER),
    "state.directory": ({"state.directory": "elsewhere"}, NEITHER),
    "state.memory_limit": ({"state.memory_limit": "1GB"}, NEITHER),
}

SAMPLED: dict[str, Any] = {
    "feedback": {},
    "targets": {},
    "sample": {
        "design": "weighted", "k": 10, "window": "1h", "weight": "x", "by": ["country"], "strata": ["IS"],
        "scope": "partition",
    },
    "input.schema_files": {"7": WIDER},
}  # fmt: skip
ALLOCATED = {
    **{key: value for key, value in SAMPLED["sample"].items() if key != "weight"},
    "design": "stratified",
    "allocation": "neyman",
    "of": "x",
}
BY_COUNT = {"design": "simple", "count": 10, "window": "1h"}
JUDGED = {"design": "judgment", "rule": "at > 1", "version": "1"}
SNOWBALL = {"design": "snowball", "from": "user", "to": "x", "seeds": ["a", "b"], "hops": 2, "frontier_max": 9}
HEAVY = {"design": "weighted", "weight": "x", "k": 10, "window": "1h"}
RESAMPLED = {"design": "importance", "target": "x", "proposal": "at", "k": 10, "window": "1h"}
WINDOWS: dict[str, tuple[dict[str, Any], tuple[bool, bool]]] = {
    "input.where": ({"input.where": "country == 'IS'"}, BOTH),
    "sample.k": ({"sample.k": 11}, BOTH),
    "sample.window": ({"sample.window": "2h"}, BOTH),
    "sample.weight": ({"sample.weight": "at"}, BOTH),
    "sample.method": ({"sample.method": "priority"}, BOTH),
    "sample.strata": ({"sample.strata": ["IS", "NO"]}, BOTH),
    "sample.unit": ({"sample.unit": "user"}, BOTH),
    "sample.by": ({"sample.by": ["user"]}, BOTH),
    "sample.seed": ({"sample.seed": 3}, BOTH),
    "sample.half_life": (
        {"sample": {**SAMPLED["sample"], "design": "recency", "half_life": "1m"}},
        BOTH,
    ),
    "sample.scope": ({"sample.scope": "global"}, BOTH),
    "samples": ({"sample": DELETE, "samples": {"some": SAMPLED["sample"]}}, BOTH),
    "limits.strata_max": ({"limits.strata_max": 5}, BOTH),
    "limits.windows_max": ({"limits.windows_max": 5}, NEITHER),
}
OF_DESIGNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sample.allocation": (ALLOCATED, {"allocation": "equal", "of": None}),
    "sample.of": (ALLOCATED, {"of": "at"}),
    "sample.minimum": (ALLOCATED, {"minimum": 1}),
    "sample.k_max": (ALLOCATED, {"k_max": 9}),
    **{f"sample.{key}": (BY_COUNT, {key: value}) for key, value in {"count": 9, "first_rate": 0.5}.items()},
    "sample.rule": (JUDGED, {"rule": "at < 1"}),
    "sample.version": (JUDGED, {"version": "2"}),
    **{
        f"sample.{key}": (SNOWBALL, {key: value})
        for key, value in {"from": "at", "to": "at", "seeds": ["a"], "hops": 3, "frontier_max": 8}.items()
    },
    "sample.replacement": (HEAVY, {"replacement": True}),
    "sample.target": (RESAMPLED, {"target": "at"}),
    "sample.proposal": (RESAMPLED, {"proposal": "x"}),
    "sample.keep": (RESAMPLED, {"k": None, "window": None, "keep": "all"}),
    "sample.every": (SAMPLED["sample"], {"window": None, "every": "1h"}),
    "sample.records": (SAMPLED["sample"], {"window": None, "scope": None, "records": 3_600_000}),
}
"""Keys of some designs only: a sample, and what is changed in it. All shape the state of what has one."""

# Keys without a case: sections that are nothing but their keys, and keys with one value in this version.
COVERED_ELSEWHERE = {
    *("input", "feedback", "output", "dead_letters", "limits", "changelog", "metrics", "state"),
    *("feedback.<name>.schema_file", "feedback.<name>.schema_files", "feedback.<name>.framing"),
}


def refused(before: Job, after: Job) -> bool:
    """Whether the one cannot take up the state of the other: in what both have, they differ."""
    parts = [(digest, after.state_parts.get(name, digest)) for name, digest in before.state_parts.items()]
    return before.state_shape != after.state_shape or any(was != now for was, now in parts)


@pytest.mark.parametrize("key", CHANGES)
def test_each_key_changes_version_and_shape_as_it_says(key: str) -> None:
    changes, (version, shape) = CHANGES[key]
    before, after = job(), job(changes)
    assert after != before
    assert (after.version != before.version, refused(before, after)) == (version, shape)


@pytest.mark.parametrize("key", WINDOWS)
def test_each_key_of_a_windowed_sample_changes_what_it_says(key: str) -> None:
    changes, (version, shape) = WINDOWS[key]
    before, after = job(SAMPLED), job({**SAMPLED, **changes})
    assert after != before
    assert (after.version != before.version, after.state_shape != before.state_shape) == (version, shape)


@pytest.mark.parametrize("key", OF_DESIGNS)
def test_each_key_of_a_design_changes_version_and_shape(key: str) -> None:
    sample, changes = OF_DESIGNS[key]
    changed = {name: value for name, value in {**sample, **changes}.items() if value is not None}
    before, after = (job({**SAMPLED, "sample": each}) for each in (sample, changed))
    assert after.version != before.version
    assert (after.state_shape != before.state_shape) == (sample is not JUDGED)


def test_every_key_has_a_case() -> None:
    keys = {key.path for key in walk()}
    assert keys - set(CHANGES) - set(WINDOWS) - set(OF_DESIGNS) == COVERED_ELSEWHERE
    assert set(CHANGES) - keys == {"split.<part>"}


def test_stating_a_default_changes_nothing() -> None:
    defaults = {"skew": "0s", "input.idle_timeout": "1m", "split.seed": 0, "input.framing": "confluent"}
    without = job(dict.fromkeys(defaults, DELETE))
    assert (without.version, without.state_shape) == (job().version, job().state_shape)
    assert job({"grace": "5000ms"}).version == job().version
    assert job({"targets.revenue.if_silent": 0}).version == job({"targets.revenue.if_silent": 0.0}).version


def test_which_list_is_exploded_counts_beside_the_schema() -> None:
    plain, slates = (job({"input.schema_files": {"7": SEATED}, **more}) for more in ({}, {"input.explode": "seats"}))
    assert plain.version != slates.version
    assert plain.state_shape == job().state_shape != slates.state_shape


COLUMNS: list[Any] = [
    "country",
    {"expression": "country"},
    {"expression": "country + ip"},
    ["country", "ip"],
    ["ip", "country"],
    ["ip", {"expression": "country"}],
]
STRATA: list[Any] = [
    *COLUMNS,
    {"field": "at", "bins": [1]},
    {"field": "at", "bins": [1, 2]},
    {"field": "other_id", "bins": [1]},
    {"expression": "at", "bins": [1]},
    {"each": "tags"},
    {"each": "words"},
]
_TEXTS = {"type": "array", "items": "string"}
LISTS = schema(
    *(("id", "string"), ("other_id", "long"), ("at", "long"), ("user", "string"), ("country", "string")),
    *(("ip", "string"), ("tags", _TEXTS), ("words", _TEXTS)),
)


def test_every_way_to_write_a_column_is_a_version_of_its_own() -> None:
    same = {"input.schema_files": {"7": LISTS}}
    for key, ways in (("sample.unit", COLUMNS), ("split.by", COLUMNS), ("input.id", COLUMNS), ("sample.by", STRATA)):
        versions = {job({**same, "sample.rates": {}, key: way}).version for way in ways}
        assert len(versions) == len(ways)
    weights = [{"expression": "at"}, {"expression": "at + 1"}, "at"]
    shapes = {job({**SAMPLED, "sample.weight": weight}).state_shape for weight in weights}
    assert len(shapes) == 3


RATE, TENTH = {"design": "simple", "rate": 0.5, "seed": 1}, {"design": "simple", "rate": 0.1, "seed": 2}


def test_a_list_of_designs_is_another_version_and_what_rows_carry_of_it_is_shape() -> None:
    """A row carries what each design by rate said; the record says of whom they share u."""
    jobs = [
        job({"sample": sample})
        for sample in (
            RATE,
            [RATE, TENTH],
            [TENTH, RATE],
            [RATE, {**TENTH, "rate": 0.2}],
            [RATE, {**TENTH, "seed": 1}],
            [RATE, {**TENTH, "seed": 1, "unit": "user"}],
            [RATE, TENTH, {**TENTH, "seed": 3}],
        )
    ]
    assert len({each.version for each in jobs}) == len(jobs)
    one, two, swapped, other, shared, apart, three = (each.state_shape for each in jobs)
    assert two == swapped == other == apart
    assert len({one, two, shared, three}) == 4
    by_id = [RATE, {**TENTH, "seed": 1, "unit": "id"}]
    named = job({"sample": by_id, "input.id": "id"})
    assert named.version == job({"sample": [RATE, {**TENTH, "seed": 1}], "input.id": "id"}).version
    windows = [job({**SAMPLED, "sample": [each, SAMPLED["sample"]]}) for each in (RATE, TENTH)]
    assert len({each.state_shape for each in windows}) == 2


def test_order_counts_only_where_it_decides() -> None:
    assert job({"features": {"drop": ["ip", "user"]}}).version == job({"features": {"drop": ["user", "ip"]}}).version
    swapped = job({"split": {"by": "user", "test": 0.2, "train": 0.8}})
    assert swapped.version != job().version


def test_the_hashes_are_what_they_were() -> None:
    """In records and changelogs: if this fails, old state is refused. Raise `identity.FORMAT` on purpose only."""
    assert (job().version, job().state_shape) == ("3c0bddb8dd400a53", "139118032936926e")
