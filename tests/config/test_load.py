"""A job file is read whole, or refused with everything that is wrong in it, each with its place."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsample.config import Job, Sample, load_job, parse_job
from streamsample.errors import ConfigurationError
from tests.config.jobs import ROOT

SHOP = (ROOT / "configs/shop.yaml").read_text(encoding="utf-8")
WINDOW = (
    "j.yaml:8:1: windw: unknown key - did you mean sample.window, targets.<name>.window or "
    "targets.<name>.rules[].window?"
)
UNSET = "j.yaml:11:17: metrics.port: the environment variable PORT is not set - set it, or give a default: ${PORT:-...}"
UNITS = "(ms, s, m, h, d, w)"
SMALL = """\
job: small
kafka: {bootstrap_servers: "localhost:9092"}
input: {topic: a, format: json}
output: {topic: b}
"""


def shop(old: str = "", new: str = "", environ: dict[str, str] | None = None) -> Job:
    assert old in SHOP
    return parse_job(SHOP.replace(old, new, 1) if old else SHOP, "shop.yaml", ROOT / "configs", environ)


def small(more: str = "", environ: dict[str, str] | None = None) -> Job:
    return parse_job(SMALL + more, environ=environ)


def refusal(text: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse_job(text, "j.yaml", ROOT / "configs", environ)
    return str(caught.value)


@pytest.mark.parametrize("name", ["shop", "flights", "slates"])
def test_the_examples_load(name: str) -> None:
    assert load_job(ROOT / f"configs/{name}.yaml", {}).name == name
    text = (ROOT / f"configs/{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=job.schema.json\n")


def test_the_smallest_job_and_its_defaults() -> None:
    job = small()
    assert (job.grace_ms, job.skew_ms, job.late_horizon_ms, job.commit_interval_ms) == (5_000, 0, 0, 1_000)
    assert (job.max_future_ms, job.max_ahead_ms, job.largest_window_ms) == (3_600_000, 3_600_000, 0)
    assert (job.dead_letters_topic, job.changelog_topic) == ("small.dead-letters", "small.changelog")
    assert (job.input.idle_timeout_ms, job.output.compression, job.metrics.port) == (60_000, "lz4", 9464)
    assert job.state_directory == Path(".streamsample/small").absolute()


def test_what_the_runtime_asks() -> None:
    job = shop()
    week = 7 * 86_400_000
    assert (job.largest_window_ms, job.max_ahead_ms, job.closes_after_ms) == (week, week, week + 5_000)
    assert list(job.sources) == ["shop.impressions", "shop.clicks", "shop.orders"]
    assert job.rule_users == {"clicks": [("clicked", 0)], "orders": [("revenue", 0)]}
    assert job.sample is not None
    assert job.sample.rates_by_stratum == {("IS",): 1.0}
    assert job.sample.rate_max == 1.0
    assert job.split is not None
    assert list(job.split.shares.items()) == [("train", 0.8), ("validation", 0.1), ("test", 0.1)]
    clicked, revenue = job.targets["clicked"], job.targets["revenue"]
    assert (clicked.implicit_label, clicked.constants) == (0, (1,))
    assert (repr(revenue.implicit_label), revenue.constants) == ("0.0", (None,))
    assert [schema.path.name for schema in job.input.schemas.values()] == ["impression.avsc"]


def test_a_snowball_is_read_with_its_seeds_as_ids() -> None:
    sample = shop(WHOLE, SNOWBALL.replace("7, ada", "7, ada, '7'")).sample
    assert isinstance(sample, Sample)
    assert (sample.from_, sample.to, sample.seeds) == ("user_id", "item_id", ("7", "ada"))
    assert (sample.hops, sample.frontier_max, sample.form.random, sample.has_state) == (2, 9, False, True)


def test_a_job_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        small().grace_ms = 7  # type: ignore[misc]


def test_all_problems_at_once_in_the_order_of_the_file() -> None:
    text = """\
job: shop
kafka: {bootstrap_server: "x:1", group_id: g}
input: {topic: "a b", format: arvo, time: {field: x}}
sample: {design: simple,
         rate: 1.5}
targets:
  clicked: {type: int, window: 30, rules: [{from: clicks, label: 1, take: mean}]}
windw: 3
split: {by: user_id, train: 0.8, test: 0.1}
output: {topc: t}
metrics: {port: "${PORT}"}
metrics: {port: 1}
"""
    assert refusal(text).splitlines() == [
        "j.yaml:2:1: kafka.bootstrap_servers: is required",
        "j.yaml:2:9: kafka.bootstrap_server: unknown option - did you mean bootstrap_servers?",
        "j.yaml:2:34: kafka.group_id: is not for the job to set - the consumer group is the job's name",
        'j.yaml:3:16: input.topic: is not a name for a topic, found "a b" - letters, digits, dot, underscore and dash',
        'j.yaml:3:31: input.format: must be avro or json, found "arvo" - did you mean avro?',
        "j.yaml:3:37: input.time.unit: is required",
        "j.yaml:5:16: sample.rate: must be > 0 and <= 1, found 1.5 - a rate is a share: 1 % is 0.01",
        'j.yaml:7:32: targets.clicked.window: a duration needs a unit, found 30 - write "30s", "30ms", "30m" ... '
        + UNITS,
        'j.yaml:7:75: targets.clicked.rules[0].take: must be first, last, max, min, sum or count, found "mean"',
        WINDOW,
        "j.yaml:9:8: split: the shares sum to 0.9 - they must sum to 1",
        "j.yaml:10:1: output.topic: is required",
        "j.yaml:10:10: output.topc: unknown key - did you mean topic?",
        UNSET,
        "j.yaml:12:1: metrics: is given twice - line 11 has it already: keep one of them",
    ]


FIXED = "k: 100, window: 1h, scope: partition"
WHOLE = "{design: stratified, by: country, rate: 0.1, rates: {IS: 1.0}, unit: user_id, seed: 7}"
HALF = "{design: simple, rate: 0.5}"
SNOWBALL = "{design: snowball, from: user_id, to: item_id, seeds: [7, ada], hops: 2, frontier_max: 9}"
IMPORTANCE = "importance, target: price, proposal: price, keep: all"
CASES: list[tuple[str, str, str]] = [
    ("seed: 7", "seed: 7, k: 100", "sample.rate: has no meaning in a stratified sample of a fixed size - give k, or"),
    ("seed: 7", "seed: 7, minimum: 3", "sample.minimum: has no meaning in a stratified sample"),
    ("rate: 0.1, rates: {IS: 1.0}", "k: 100", "a stratified sample of a fixed size needs window - set window: 1h"),
    ("rate: 0.1, rates: {IS: 1.0}", f"{FIXED}, of: price", "sample.of: is for allocation: neyman only"),
    ("rate: 0.1, rates: {IS: 1.0}", f"{FIXED}, allocation: neyman", "neyman needs the field whose total is estimated"),
    ("rate: 0.1, rates: {IS: 1.0}", f"{FIXED}, allocation: neyman, of: user_id", "user_id is string, must be an int"),
    ("rate: 0.1, rates: {IS: 1.0}", f"{FIXED}, minimum: 101", "sample.minimum: must be at most 100, found 101"),
    ("from: clicks", "from: click", 'rules[0].from: there is no feedback "click" - did you mean clicks?'),
    ("from: clicks", "from: orders", "17:3: feedback.clicks: no target uses it - remove it"),
    ("topic: shop.orders", "topic: shop.clicks", "and nothing tells them apart - set where"),
    ("shop.training", "shop.clicks", 'output.topic: is "shop.clicks", which is feedback.clicks.topic too'),
    ("shop.training", "shop.dead-letters", "output.topic too"),
    ("unit: user_id", "unit: usr_id", "impression.avsc has no field usr_id - did you mean user_id?"),
    ("unit: user_id", "unit: price", "price is double, must be a string, bytes"),
    ("unit: user_id", "unit: user_id.x", "user_id is no record, so it has no x"),
    ("served_at, unit: ms", "served_at, unit: us", "input.time.unit: is us, but impression.avsc says timestamp-millis"),
    ("field: served_at", "field: score", "score is double, must be an int or a long"),
    ("id: impression_id\n", "id: [a, b]\n", "input.id[0]: impression.avsc has no field a"),
    ("by: country", "by: price > 1", "sample.by: is not the path of a field, found"),
    ("by: country", "by: {bins: [1, 2]}", "sample.by: lacks field"),
    ("by: country", "by: {field: price, bins: [2, 1]}", "sample.by: has bins that do not ascend"),
    ("by: country", "by: {field: country, bins: [1]}", "country is string, must be an int, a long"),
    ("by: country", "by: [{each: ip}, {each: country}]", "sample.by: has several lists"),
    ("by: country", "by: {each: country}", "country is string, must be an array"),
    ("drop: [ip]", "drop: [ipp]", "features.drop[0]: impression.avsc has no field ipp - did you mean ip?"),
    ("drop: [ip]", "drop: ip", "features.drop: must be a list"),
    ("drop: [ip]", "drop: [ip], keep: [price]", "features.drop: is given beside keep"),
    ("schema_file: shop/impression.avsc", "schema_file: no.avsc", "there is no file"),
    ("schema_file: shop/impression.avsc", "schema_file: shop.yaml", "is not JSON"),
    ("schema_file: shop/impression.avsc", "", "Avro needs its schema"),
    ("schema_file: shop/impression.avsc", "schema_files: {7: shop/impression.avsc}", "lacks input.schema_files' 7"),
    ("schema_file: shop/impression.avsc", "schema_files: {x: shop/impression.avsc}", "must be a schema id"),
    ("{topic: shop.training}", "{topic: t, schema_ids: {1: 2}}", "the input's records carry no schema ids"),
    ("design: stratified, by: country", "design: stratified", "a stratified sample needs strata"),
    ("design: stratified, by", "design: simple, by", "sample.by: has no meaning in a simple sample"),
    ("{IS: 1.0}", "{IS: 1.2}", "sample.rates.IS: must be >= 0 and <= 1, found 1.2"),
    ("by: country", "by: [country, user_id]", "sample.rates.IS: must be a mapping by user_id, found 1.0"),
    ("rate: 0.1", "rate: 0", "sample.rate: must be > 0"),
    ("rate: 0.1", "rate: 10%", "a rate is a share: 1 % is 0.01"),
    ("rate: 0.1, rates: {IS: 1.0}", f"{FIXED}, every: 1h", "sample.every: has no meaning in a stratified sample of a"),
    (
        "rate: 0.1, rates: {IS: 1.0}",
        f"{FIXED}, records: 9",
        "sample.window: has no meaning in a stratified sample of a",
    ),
    (
        "stratified, by: country, rate: 0.1, rates: {IS: 1.0}, unit: user_id",
        f"convenience, {FIXED}",
        "sample.seed: has no",
    ),
    (
        "grace: 5s",
        "samples: {x: {design: simple, rate: 0.1}}",
        "samples: is given beside sample - put that under samples",
    ),
    ("sample: {design", "samples: {x: {design: simple}}\n# {design", "samples.x: a simple sample needs rate"),
    (
        WHOLE,
        SNOWBALL.replace("}", ", scope: partition}"),
        "sample.scope: has no meaning in a snowball sample - a count of records, ",
    ),
    (WHOLE, SNOWBALL.replace("}", ", by: {each: ip}}"), "several strata per record (each) in a snowball sample"),
    (WHOLE, SNOWBALL.replace("from: user_id, ", ""), "sample: a snowball sample needs from - set from: <field>"),
    (WHOLE, SNOWBALL.replace("[7, ada]", "[]"), "sample.seeds: must be a list of ids, not empty"),
    (WHOLE, SNOWBALL.replace("[7, ada]", "[1.5]"), "sample.seeds: has something that is no id: 1.5"),
    (WHOLE, SNOWBALL.replace("hops: 2", "hops: 1001"), "sample.hops: must be at most 1000, found 1001"),
    (WHOLE, SNOWBALL.replace("max: 9", "max: 1"), "sample.frontier_max: must be at least the 2 seeds, found 1"),
    (
        WHOLE,
        SNOWBALL.replace("to: item_id", "to: price"),
        "sample.to: impression.avsc: price is double, must be a string",
    ),
    ("seed: 7", "seed: 7, hops: 2", "sample.hops: has no meaning in a stratified sample - set design: snowball"),
    ("design: stratified", "design: simple, count: 9", "a simple sample by count needs window"),
    ("seed: 7", "seed: 7, first_rate: 0.5", "sample.first_rate: has no meaning in a stratified sample"),
    ("stratified, by: country, rate: 0.1, rates: {IS: 1.0}", "importance, target: price", "importance needs proposal"),
    ("seed: 7", "seed: 7, replacement: true", "sample.replacement: has no meaning in a stratified sample"),
    ("label: 1}", "label: 1.5}", "rules[0].label: must be a whole number, found 1.5 - or type: double"),
    ("label: 1}", "label: true}", "rules[0].label: must be a number, found true - or another type: boolean, string"),
    ("label: 1}", "label: yes}", 'rules[0].label: must be a number, found "yes" - or another type: boolean, string'),
    ("type: int", "type: boolean", "rules[0].label: must be true or false, found 1"),
    ("type: int", "type: string", "targets.clicked: a string needs its classes - classes: [yes, no] and type: string"),
    ("type: int", "type: int, classes: [a]", "targets.clicked.classes: has no meaning for int"),
    (
        "type: int",
        "type: string, classes: [a, b]",
        "rules[0].label: must be a or b, found 1 - classes names all values",
    ),
    ("type: int", "type: string, classes: [a, drop]", 'classes: has a class "drop"'),
    ("label: 1}", "label: 1, take: count}", "rules[0].label: has no meaning with take: count - remove it"),
    ("label: 1}", "take: sum}", "rules[0]: says no label"),
    (
        "label: 1}",
        "label: 1, undone_by: {from: ordrs}}",
        'rules[0].undone_by.from: there is no feedback "ordrs" - did you mean orders?',
    ),
    ("window: 7d, rules", "rules", "targets.revenue.rules[0]: has no window - give one to the target, or to each of"),
    ("topic: shop.clicks,", "topic: [shop.clicks, shop.orders],", 'shares the topic "shop.orders" with orders, and'),
    (
        "topic: shop.clicks,",
        "topic: [shop.clicks, shop.orders], rekey: true,",
        "feedback.orders.rekey: differs from that of clicks, which reads the same topic",
    ),
    ("topic: shop.clicks,", "topic: [],", "feedback.clicks.topic: is an empty list, found a list - name a topic"),
    ("label: 1}", "label: 1, field: x}", "rules[0].field: is given beside label"),
    ("label: 1}", "label: .nan}", "must be a finite number"),
    ("[{from: clicks, label: 1}]", "[{from: clicks}]", "says no label"),
    ("[{from: clicks, label: 1}]", "[]", "targets.clicked.rules: is an empty list"),
    ("[{from: clicks, label: 1}]", "{from: clicks}", "targets.clicked.rules: must be a list, found a mapping"),
    ("if_silent: 0}", "if_silent: never}", 'targets.clicked.if_silent: must be a number, found "never"'),
    ("window: 30m", "window: 0s", "must be longer than nothing"),
    ("clicked:", "1st:", "is not a name"),
    ("job: shop", "job: 7", 'job: must be text, found 7 - quote it: "7"'),
    ("job: shop", "job: ../x", "is not a name for a job"),
    ("grace: 5s", "max_future: 2h", "max_future: must be at most 1h, found 2h - brokers refuse"),
    ("grace: 5s", "commit_interval: 1m", "commit_interval: must be at most 5s"),
    ("grace: 5s", "metrics:", "metrics: must be a mapping, found null - with host and port"),
    ("grace: 5s", "window: 5s", "24:1: window: unknown key - it belongs in sample.window, targets.<name>.window or "),
    ("grace: 5s", "guarantee: at_least_once", "exactly once is the only guarantee"),
    ("grace: 5s", "start: 2013-01-01T00:00:00", "is a time without a zone"),
    ("grace: 5s", "limits: {waiting_max: 3000000000}", "must be at most 2000000000"),
    ("train: 0.8", "train: 80", "split.train: must be > 0 and <= 1, found 80"),
    ("by: user_id, train: 0.8, validation: 0.1, test: 0.1", "by: user_id", "names no parts"),
    (WHOLE, "[]", "sample: must be a list of 2 to 8 designs, found 0"),
    (WHOLE, f"[{HALF}]", "found 1 - write it without the list"),
    (WHOLE, f"[{', '.join([HALF] * 9)}]", "sample: must be a list of 2 to 8 designs, found 9"),
    (WHOLE, f"[{HALF}, {{design: simple, rate: 2}}]", "shop.yaml:14:62: sample[1].rate: must be > 0 and <= 1, found 2"),
    (WHOLE, f"[{HALF}, {{design: simple, rat: 0.1}}]", "sample[1].rat: unknown key - did you mean rate?"),
    (WHOLE, f"[{HALF}, 7]", "sample[1]: must be a mapping, found 7"),
    (WHOLE, "7", "sample: must be a mapping, found 7"),
    (WHOLE, f"[{HALF}, {WHOLE.replace('country', 'land')}]", "sample[1].by: impression.avsc has no field land"),
    (
        WHOLE,
        f"[{{design: reservoir, k: 9, window: 1h}}, {HALF}]",
        "sample[0].design: a reservoir sample of windows must be the last of a list",
    ),
]


def test_what_is_undone_by_its_id_must_have_one() -> None:
    text = (ROOT / "configs" / "shop.yaml").read_text().replace("id: order_id, ", "")
    text = text.replace("field: amount}", "field: amount, undone_by: {from: clicks, refers_to: order_id}}")
    with pytest.raises(ConfigurationError, match=r"undone_by.refers_to: orders has no id to refer to - set feedback.o"):
        parse_job(text, "shop.yaml", ROOT / "configs")


@pytest.mark.parametrize(("old", "new", "words"), CASES)
def test_what_does_not_fit(old: str, new: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        shop(old, new)
    text = str(caught.value)
    assert words in text
    assert all(line.startswith("shop.yaml:") for line in text.splitlines())


def test_one_problem_has_its_remedy_apart() -> None:
    with pytest.raises(ConfigurationError) as caught:
        shop("rate: 0.1", "rate: 1.5")
    assert caught.value.what == "shop.yaml:14:49: sample.rate: must be > 0 and <= 1, found 1.5"
    assert caught.value.remedy == "a rate is a share: 1 % is 0.01"


def test_problems_between_sections_are_named_beside_those_within() -> None:
    text = SHOP.replace("from: clicks", "from: click").replace("grace: 5s", "grace: 5")
    assert {line.split(": ")[1] for line in refusal(text).splitlines()} == {
        "feedback.clicks",
        "targets.clicked.rules[0].from",
        "grace",
    }


def test_variables() -> None:
    job = small('metrics: {port: "${PORT}", host: "${HOST:-::1}"}\ngrace: "${G:-7s}"\n', {"PORT": "77"})
    assert (job.metrics.port, job.metrics.host, job.grace_ms) == (77, "::1", 7_000)
    assert small('metrics: {host: "${HOST:-a}"}', {"HOST": ""}).metrics.host == "a"
    assert small('metrics: {host: "$${HOST}-$x"}').metrics.host == "${HOST}-$x"
    kept = small('sample: {design: "${D}", rate: "${R}"}', {"D": "simple", "R": "0.25"}).sample
    assert kept is not None
    assert (kept.design, kept.rate, type(kept.rate)) == ("simple", 0.25, float)


@pytest.mark.parametrize("text", ["${", "${A", "${1A}", "${A:-${B}}", "${}", "${A-b}"])
def test_variables_that_cannot_be_read(text: str) -> None:
    assert "has a variable that cannot be read" in refusal(SMALL + f"metrics: {{host: '{text}'}}")


def test_errors_show_no_secrets() -> None:
    options = 'security_protocol: SASL_SSL, sasl_mechanism: PLAIN, sasl_plain_username: u, sasl_plain_password: "${P}"'
    text = SMALL.replace('"localhost:9092"', f'"localhost:9092", {options}')
    job = parse_job(text, environ={"P": "hunter2"})
    assert job.kafka.options("consumer")["sasl_plain_password"] == "hunter2"
    assert "hunter2" not in repr(job)
    assert "hunter2" not in refusal(SMALL + 'metrics: {port: "${P}"}', {"P": "hunter2"})
    assert "4711" not in refusal(text.replace('"${P}"', "4711"))


BROKEN = [
    ("", "is empty"),
    ("# nothing\n", "is empty"),
    ("- a\n", "j.yaml:1:1: is not a mapping"),
    ("job", "is not a mapping"),
    ("job: a\n\tgrace: 5s", "j.yaml:2:1: a tab where YAML wants spaces - indent with spaces"),
    ("job: [", "is not YAML"),
    ("job: {a: ${B}}", "is not YAML"),
    ("job: a: b", 'quote a value that contains ": "'),
    ("job: @a", "quote a value that starts with a special character"),
    ("job: a\n---\njob: b\n", "a second document begins"),
    ("job: *a", "undefined alias"),
    ("job: &a [*a]", "an alias refers to what contains it"),
    ("job: !x 1", "has the YAML tag !x"),
    ("job: !!binary aGk=", "has the YAML tag !!binary"),
    ("[a]: 1", "has a key that is a list or a mapping"),
    ("job: \x00", "control character U+0000"),
    ("a: " + "[" * 200 + "]" * 200, "nested too deeply"),
    ("a: " + "[" * 5000, "nested too deeply"),
    ("<<: 1", "merges (<<) something that is not a mapping"),
]


@pytest.mark.parametrize(("text", "words"), BROKEN)
def test_what_is_no_job_file(text: str, words: str) -> None:
    assert words in refusal(text)


def test_aliases_do_not_explode() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "aliases expand to more than" in refusal("\n".join(lines))


def test_a_file_of_nothing_but_unknown_keys_is_refused_soon() -> None:
    lines = refusal("\n".join(f"k{number}: 1" for number in range(5_000))).splitlines()
    assert len(lines) == 51
    assert lines[-1] == "j.yaml: and 4954 more"


def test_anchors_and_merges() -> None:
    job = parse_job(
        "job: m\nkafka: {bootstrap_servers: b}\ninput: {topic: a, format: json}\noutput: {topic: b}\n"
        "targets:\n  x: &x {type: int, window: 1h, rules: &r [{from: f, label: 1}]}\n"
        "  y: {<<: *x, window: 2h}\n  z: {type: int, window: 3h, rules: *r}\n"
        "feedback: {f: {topic: c, format: json}}\n"
    )
    assert {name: target.window_ms // 3_600_000 for name, target in job.targets.items()} == {"x": 1, "y": 2, "z": 3}
    text = refusal("base: &b {window: 5}\ntargets:\n  x:\n    <<: *b\n    type: int\n    window: 6\n")
    assert "j.yaml:6:13: targets.x.window" in text


def test_yaml_is_1_2() -> None:
    sample = small("sample: {design: stratified, by: c, rate: 0.1, rates: {NO: 1, 01: 0.5, null: 0}}").sample
    assert sample is not None
    assert sample.rates_by_stratum == {("NO",): 1.0, ("01",): 0.5, ("null",): 0.0}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.yaml: no such file"):
        load_job(tmp_path / "none.yaml")
    with pytest.raises(ConfigurationError, match="is a directory"):
        load_job(tmp_path)
    bad = tmp_path / "bad.yaml"
    bad.write_bytes(b"job: a\nx: \xff\n")
    with pytest.raises(ConfigurationError, match=r"bad\.yaml:2:4: byte 0xff is not UTF-8"):
        load_job(bad)
    bad.write_bytes(b"#" * 1_000_001)
    with pytest.raises(ConfigurationError, match="is larger than 1000000 bytes"):
        load_job(bad)
    bad.write_bytes(b"\xef\xbb\xbf" + SMALL.encode())
    assert load_job(str(bad), {}).name == "small"


def test_paths_start_at_the_job_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    file = tmp_path / "in/j.yaml"
    file.write_text(
        SMALL.replace('"localhost:9092"', '"a", security_protocol: SSL, ssl_cafile: ca.pem')
        + "state: {directory: ../s}\n"
    )
    (tmp_path / "in/ca.pem").touch()
    job = load_job(file, {})
    assert job.kafka.options("admin")["ssl_cafile"] == str(tmp_path / "in/ca.pem")
    assert job.state_directory.resolve() == (tmp_path / "s").resolve()


@given(st.text(alphabet="abjo:{}[]-&*!|>'\"#%@`,? \n\t0159.~$<=", max_size=80))
@settings(max_examples=120, deadline=None)
def test_any_text_is_a_job_or_a_clear_error(text: str) -> None:
    try:
        parse_job(SMALL + text)
    except ConfigurationError as error:
        words = str(error)
    else:
        return
    assert words.startswith("job.yaml")


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_KEYS = [
    "job",
    "kafka",
    "start",
    "input",
    "sample",
    "feedback",
    "targets",
    "grace",
    "features",
    "split",
    "output",
    "dead_letters",
    "limits",
    "metrics",
    "state",
    "changelog",
    "max_ahead",
]


@given(st.dictionaries(st.sampled_from(_KEYS), _values, max_size=4))
@settings(max_examples=120, deadline=None)
def test_any_value_of_any_key_is_a_clear_error(changes: dict[str, object]) -> None:
    import json

    lines = [f"{key}: {json.dumps(value)}" for key, value in changes.items()]
    base = [line for line in SMALL.splitlines() if line.split(":")[0] not in changes]
    try:
        parse_job("\n".join(base + lines))
    except ConfigurationError as error:
        words = str(error)
    else:
        return
    assert words.startswith("job.yaml")


EXPRESSIONS: list[tuple[str, str, str, str]] = [
    ("prise > 1.0", "11:11: input.where: impression.avsc has no field prise", "did you mean price?", "^"),
    ("price > 1", "11:17: input.where: > cannot be applied to (double, int)", "write 2.0 for 2", "      ^"),
    ("price", "11:11: input.where: gives double, must give bool", "", "^"),
    ("country == 'IS' &&", "11:29: input.where: unexpected end", "expressions are CEL", "                  ^"),
    ("country.foo()", "11:22: input.where: there is no function foo", "functions are those of CEL", "           ^"),
    ("user_id + 1 > 2", "+ cannot be applied to", "convert one", "        ^"),
    ("[1].exists(x, x > 1)", "not yet: macros", "compute it before the topic", "          ^"),
    ("has(price) && prise", "11:25: input.where: impression.avsc has no field prise", "price?", "              ^"),
]


@pytest.mark.parametrize(("text", "words", "remedy", "caret"), EXPRESSIONS)
def test_an_expression_that_is_wrong_is_shown_with_a_caret_under_the_place(
    text: str, words: str, remedy: str, caret: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        shop("id: impression_id\n", f'id: impression_id\n  where: "{text}"\n')
    lines = str(caught.value).splitlines()
    assert words in lines[0]
    assert remedy in lines[0]
    assert lines[1:3] == [f"    {text}", f"    {caret}"]
