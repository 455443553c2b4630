"""The command line as its users see it: words, and exit codes 0, 1, 2 and 78."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastavro
import pytest
from click.testing import Result
from typer.testing import CliRunner

from streamsample import __version__
from streamsample.cli import app
from streamsample.clock import SystemClock
from streamsample.kafka.knock import refusals
from streamsample.runtime.logs import OnceAMinute
from tests.acceptance.cluster import MakeJob, OnBroker, Raw, make_job
from tests.acceptance.timelines import job_tree, later

__all__ = ["make_job"]

ROOT = Path(__file__).parents[1]
FAILURE, USAGE, CONFIGURATION = 1, 2, 78
NOBODY = "127.0.0.1:1"


def call(*arguments: str | Path, env: dict[str, str] | None = None, **more: Any) -> Result:
    """One call of the program. What it says never holds a traceback."""
    wide = {"COLUMNS": "200", "TERM": "dumb", **(env or {})}
    result = CliRunner().invoke(app, [str(each) for each in arguments], env=wide, prog_name="streamsample", **more)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What a run sets up for its process is not for the others."""
    level = logging.getLogger("kafka").level
    yield
    logging.getLogger("kafka").setLevel(level)


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    """A job file that is right, of a cluster that is not there."""
    tree = job_tree("job", {"state": {"directory": str(tmp_path / "state")}})
    tree["kafka"]["bootstrap_servers"] = NOBODY
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(tree, indent=1))
    return path


# -- usage ---------------------------------------------------------------------------------------------


def test_version() -> None:
    result = call("--version")
    assert (result.exit_code, result.stdout) == (0, f"streamsample {__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["run"],
        ["run", "job.yaml", "--workers", "0"],
        ["run", "job.yaml", "--workers", "many"],
        ["run", "job.yaml", "--log-level", "loud"],
        ["validate", "a.yaml", "b.yaml"],
        ["test"],
        ["broker", "restart"],
    ],
    ids=" ".join,
)
def test_wrong_usage(arguments: list[str]) -> None:
    result = call(*arguments)
    assert result.exit_code == USAGE
    assert "Usage: " in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "command", [[], ["run"], ["validate"], ["test"], ["reset"], ["demo"], ["broker"], ["broker", "status"]]
)
def test_help_reads_well(command: list[str]) -> None:
    result = call(*command, "--help")
    assert result.exit_code == 0
    text = re.sub(r"[│╭╮╰╯─\s]+", " ", result.stdout)
    assert "streamsample" in text
    for line in result.stdout.splitlines():
        assert len(line) <= 200
    if not command:
        assert "Exit codes: 0 done, 1 failure, 2 wrong usage, 78 wrong configuration." in text
        for name in ("run", "validate", "test", "reset", "demo", "broker"):
            assert f" {name} " in text
    if command == ["run"]:
        for words in (
            "--until-caught-up",
            "--from",
            "--to",
            "--output-topic",
            "--replace",
            "--workers",
            "--log-level",
            "SIGTERM or Ctrl-C, which commit and leave",
        ):
            assert words in text


# -- configuration ---------------------------------------------------------------------------------------


def test_each_problem_of_a_job_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "job: shop\n"
        "kafka: {bootstrap_servers: 'localhost:9092'}\n"
        "input: {topic: a, format: jsno}\n"
        "outptu: {topic: b}\n"
        "grace: 5 lightyears\n"
    )
    for command in ("validate", "run", "reset"):
        result = call(command, path, *(["--yes"] if command == "reset" else []))
        assert result.exit_code == CONFIGURATION
        assert result.stdout == ""
        lines = result.stderr.splitlines()
        assert len(lines) == 4
        for line in lines:
            assert re.match(rf"{re.escape(str(path))}:\d+:\d+: \S.*: ", line), line
        assert any("outptu" in line and "output" in line for line in lines)


def test_a_job_file_that_is_not_there(tmp_path: Path) -> None:
    result = call("run", tmp_path / "none.yaml")
    assert result.exit_code == CONFIGURATION
    assert len(result.stderr.splitlines()) == 1
    assert "none.yaml" in result.stderr


def test_what_a_later_version_brings_is_refused_by_name(tmp_path: Path) -> None:
    tree = job_tree("job", {"input.registry": "x"})
    (tmp_path / "job.yaml").write_text(json.dumps(tree))
    result = call("validate", "--offline", tmp_path / "job.yaml")
    assert result.exit_code == CONFIGURATION
    assert "not yet" in result.stderr
    assert "input.registry" in result.stderr


@pytest.mark.parametrize("name", ["shop", "flights"])
def test_the_example_jobs_are_valid(name: str) -> None:
    result = call("validate", "--offline", ROOT / "configs" / f"{name}.yaml")
    assert result.exit_code == 0
    assert re.search(rf"{name}\.yaml: job {name} is valid \(version [0-9a-f]{{16}}\)\n$", result.stderr)
    assert result.stdout == ""


def test_the_schema_of_the_training_records_is_printed() -> None:
    result = call("validate", "--offline", "--schema", ROOT / "configs" / "shop.yaml")
    assert result.exit_code == 0
    schema = json.loads(result.stdout)
    fastavro.parse_schema(schema)
    assert schema["name"].endswith("TrainingRecord")
    assert "features" in {field["name"] for field in schema["fields"]}


def test_records_in_json_have_no_schema_to_print(job_file: Path) -> None:
    result = call("validate", "--offline", "--schema", job_file)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "the training records are JSON" in result.stderr


def test_a_state_directory_in_use_is_refused(job_file: Path, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with open(tmp_path / "state" / "lock", "w") as lock:
        lock.write("4711")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = call("run", job_file)
    assert result.exit_code == CONFIGURATION
    assert f"state.directory: {tmp_path}/state is in use by another process of this job (4711)" in result.stderr
    assert "--workers N" in result.stderr


def test_a_state_directory_that_cannot_be_had_is_refused(job_file: Path, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    result = call("run", job_file)
    assert result.exit_code == CONFIGURATION
    assert f"state.directory: {tmp_path}/state cannot be used: File exists" in result.stderr


# -- tests of a job -----------------------------------------------------------------------------------


def test_the_tests_of_the_flights_pass() -> None:
    result = call("test", ROOT / "configs" / "flights.yaml")
    assert result.exit_code == 0
    assert len(re.findall("^  ok    ", result.stdout, re.MULTILINE)) >= 6
    assert re.search(r"flights\.tests\.yaml: \d+ passed, 0 failed, in \d+ ms\n$", result.stderr)
    result = call("test", ROOT / "configs" / "flights.yaml", "--only", "twice")
    assert result.stdout == "  ok    a landing that is told twice counts once\n"


def said(result: Result) -> str:
    """What a command says, but for that it compiles kernels first: so it does where none of the tests did before."""
    lines = result.stderr.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("compiling the numba kernels"))


def test_a_test_that_fails_shows_what_came(job_file: Path, tmp_path: Path) -> None:
    tests = tmp_path / "other.yaml"
    tests.write_text("tests: [{name: wrong, events: [0s input a], expect: [{id: a, clicked: 1 explicit}]}]")
    result = call("test", job_file, "--timelines", tests)
    assert result.exit_code == FAILURE
    assert "    - {id: a, clicked: 1 explicit}" in result.stdout
    assert "    + {id: a, clicked: 0 implicit}" in result.stdout
    assert said(result).startswith(f"{tests}: 0 passed, 1 failed")
    assert call("test", job_file, "--timelines", tests, "--only", "none such").exit_code == FAILURE


def test_without_its_file_of_tests_it_is_named(job_file: Path, tmp_path: Path) -> None:
    result = call("test", job_file)
    assert result.exit_code == CONFIGURATION
    assert said(result) == f"{tmp_path}/job.tests.yaml: no such file - give the path of a file of tests\n"


# -- the cluster --------------------------------------------------------------------------------------------


def test_no_broker_is_a_clear_error_within_20_seconds(job_file: Path) -> None:
    clock = SystemClock()
    began = clock.elapsed_ms()
    result = call("validate", job_file)
    assert clock.elapsed_ms() - began < 20_000
    assert result.exit_code == FAILURE
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert f"no broker answers ({NOBODY}: connection refused)" in line
    assert "can be reached" in line


def test_what_listens_but_is_no_broker_is_told_from_what_does_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        listens = "something listens there, but does not answer as a broker: is security_protocol right?"
        assert refusals([address, NOBODY]) == f"{address}: {listens}; {NOBODY}: connection refused"
    assert re.fullmatch(r"nobody\.invalid: .*(name|known|resolution).*", refusals(["nobody.invalid"]))


def test_a_certificate_that_is_not_there_is_missed_by_who_connects_only(job_file: Path) -> None:
    tree = json.loads(job_file.read_text())
    tree["kafka"] |= {"security_protocol": "SSL", "ssl_cafile": "no.pem"}
    job_file.write_text(json.dumps(tree))
    assert call("validate", "--offline", job_file).exit_code == 0
    result = call("validate", job_file)
    assert result.exit_code == CONFIGURATION
    assert f"kafka.ssl_cafile: there is no file {job_file.parent}/no.pem - paths are relative" in result.stderr


def test_a_missing_topic_is_named_with_the_command_that_makes_it(make_job: MakeJob) -> None:
    job = make_job()
    job.tree["feedback"]["clicks"]["topic"] = f"{job.name}.missing"
    job.save()
    for command in ("validate", "run"):
        result = call(command, job.path)
        assert result.exit_code == FAILURE
        assert f"error: topic {job.name}.missing does not exist" in result.stderr
        assert re.search(rf"kafka-topics\.sh --bootstrap-server .* --create --topic {job.name}\.missing", result.stderr)


def test_validate_tells_what_it_found(make_job: MakeJob) -> None:
    job = make_job(partitions=3)
    result = call("validate", job.path)
    assert result.exit_code == 0
    *found, valid = result.stderr.splitlines()
    assert found == [f"{job.name}.shown: 3 partitions", f"{job.name}.clicked: 3 partitions"]
    assert valid.endswith(f"job {job.name} is valid (version {job.job.version})")


def run_to_the_end(job: OnBroker) -> Result:
    job.save()
    result = call("run", job.path, "--until-caught-up", "--log-level", "warning")
    assert result.exit_code == 0, result.stderr
    return result


def test_run_reset_run(make_job: MakeJob) -> None:
    job = make_job()
    job.publish("0s shown a\n0s shown b\n1s clicked a\n1h shown c")
    job.later(later("1h"))
    result = run_to_the_end(job)
    assert re.search(rf"job {job.name}: metrics at http://127\.0\.0\.1:\d+/metrics", result.stderr)
    assert f"job {job.name}: read 8, wrote 2, open 3, dead letters 0" in result.stderr
    assert "read 0, wrote 0" in run_to_the_end(job).stderr

    result = call("reset", job.path, input="n\n")
    assert result.exit_code == FAILURE
    assert "read 0, wrote 0" in run_to_the_end(job).stderr
    result = call("reset", job.path, "--yes")
    assert (result.exit_code, result.stderr) == (0, f"job {job.name}: state forgotten\n")
    assert call("reset", job.path, "--yes").exit_code == 0  # nothing to forget is no failure
    assert "read 8, wrote 2, open 3" in run_to_the_end(job).stderr
    first, second = [record for record in job.written if record.key == b"a"]
    assert first == second


def test_reset_is_refused_while_the_job_runs(make_job: MakeJob) -> None:
    job = make_job()
    job.publish("0s shown a\n0s clicked b")
    with job.live() as live:
        live.wait(lambda: live.report.progress.records_in == 2, "both records")
        result = call("reset", job.path, "--yes")
    assert result.exit_code == FAILURE
    assert "stop all its workers first" in result.stderr
    assert job.run().records_in == 0


def test_too_many_dead_letters_end_the_run(make_job: MakeJob) -> None:
    job = make_job({"dead_letters": {"max_ratio": 0.1, "min_count": 10}}, partitions=1)
    job.write("shown", [Raw(b"{bad", b"k", 0)] * 10)
    result = call("run", job.path, "--until-caught-up", "--log-level", "error")
    assert result.exit_code == FAILURE
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "10 of the last 10 records could not be used" in line
    assert f"{job.name}.shown/0@" in line
    assert "dead_letters.max_ratio" in line


def test_a_port_in_use_is_a_configuration_error(make_job: MakeJob) -> None:
    from prometheus_client import CollectorRegistry

    from streamsample.runtime.http import StatusServer

    job = make_job()
    server = StatusServer("127.0.0.1", 0, CollectorRegistry(), lambda: None, lambda: None)
    try:
        job.tree["metrics"]["port"] = server.port
        job.save()
        for workers in ("1", "2"):
            result = call("run", job.path, "--workers", workers)
            assert result.exit_code == CONFIGURATION
            assert f"metrics: cannot listen on 127.0.0.1:{server.port}" in result.stderr
    finally:
        server.close()


# -- the local broker --------------------------------------------------------------------------------------


def test_broker_start_status_stop(tmp_path: Path) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path)}

    def broker(command: str) -> tuple[int, str]:
        result = call("broker", command, env=env)
        return result.exit_code, result.stdout.strip()

    none = (FAILURE, "no broker runs; `streamsample broker start` starts one")
    assert broker("status") == none
    assert broker("stop") == none
    try:
        code, said = broker("start")
        found = re.fullmatch(r"the broker listens on (127\.0\.0\.1:\d+)", said)
        assert code == 0
        assert found
        assert broker("start") == (0, said)
        code, status = broker("status")
        assert code == 0
        assert status.startswith(f"the broker listens on {found[1]} (process ")
        assert re.search(rf" data in {tmp_path}\S*, log in {tmp_path}\S*\)$", status)
    finally:
        stopped = broker("stop")
    assert stopped == (0, "the broker has stopped; its data are kept")
    assert broker("status") == none


def test_a_broker_that_cannot_start_says_where_its_log_is(tmp_path: Path) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path), "JDK_JAVA_OPTIONS": "-XX:+NoSuchOption"}
    result = call("broker", "start", env=env)
    assert result.exit_code == FAILURE
    assert result.stderr.startswith("error: ")
    assert "server.log" in result.stderr
    assert not any(path.name == "broker.json" and pid_lives(path) for path in tmp_path.rglob("*"))


def pid_lives(path: Path) -> bool:
    try:
        os.kill(json.loads(path.read_text())["pid"], 0)
    except ProcessLookupError:
        return False
    return True


# -- logs ------------------------------------------------------------------------------------------------------


def test_the_client_library_says_the_same_once_a_minute() -> None:
    sieve = OnceAMinute()

    def passes(name: str, words: str, seconds: float) -> bool:
        record = logging.LogRecord(name, logging.ERROR, "", 0, words, ("x",), None)
        record.created = 1_000_000 + seconds
        return sieve.filter(record)

    assert passes("kafka.net", "lost %s", 0)
    assert not passes("kafka.net", "lost %s", 59)
    assert passes("kafka.net", "found %s", 59)
    assert passes("streamsample.runtime", "lost %s", 0)
    assert passes("streamsample.runtime", "lost %s", 0)
    assert passes("kafka.net", "lost %s", 60)


def test_the_documented_code_is_that_of_sysexits() -> None:
    assert os.EX_CONFIG == CONFIGURATION
