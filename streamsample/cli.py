"""The command line. Exit codes: 0 done, 1 failure, 2 wrong usage, 78 wrong configuration."""

from __future__ import annotations

import gc
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from streamsample import __version__
from streamsample.clock import SystemClock
from streamsample.errors import ConfigurationError, StreamsampleError

if TYPE_CHECKING:
    from streamsample.config import Job
    from streamsample.runtime.report import Progress

EXIT_FAILURE = 1
EXIT_CONFIGURATION = 78  # EX_CONFIG of sysexits.h

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Make training data from Kafka event streams: sample, label, write training records, exactly once.",
    epilog="Exit codes: 0 done, 1 failure, 2 wrong usage, 78 wrong configuration.",
)
broker_app = typer.Typer(no_args_is_help=True, help="A local single-node Apache Kafka, for trying things out.")
app.add_typer(broker_app, name="broker")

From = Annotated[
    str | None, typer.Option("--from", help="Replay predictions from this event time on: 2026-01-01 (UTC), or a time.")
]
To = Annotated[str | None, typer.Option("--to", help="Replay predictions before this event time.")]
OutputTopic = Annotated[str | None, typer.Option("--output-topic", help="Where a replay writes.")]
Replace = Annotated[bool, typer.Option("--replace", help="Let a replay write into the live job's own output topic.")]
JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="The job file (YAML).")]
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def _errors_told() -> Iterator[None]:
    """What goes wrong is said in one line each, without a traceback, and becomes the exit code."""
    try:
        yield
    except ConfigurationError as error:
        err.print(str(error), style="red", markup=False)
        raise typer.Exit(EXIT_CONFIGURATION) from None
    except StreamsampleError as error:
        err.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(EXIT_FAILURE) from None


def _load(path: Path) -> Job:
    from streamsample.config import load_job

    return load_job(path, os.environ)


def _load_kernels(job: Job | None = None, *, broker: bool = True) -> None:
    """Those that `job` needs; without one, all. broker: those that talk to brokers too; without it, the others are
    loaded at their first call, if they were compiled before.
    """
    from streamsample.runtime.warmup import FORMATS, load_kernels

    formats = FORMATS.keys() if job is None else {job.input.format, *(each.format for each in job.feedback.values())}
    windows = job is None or any(sample.windowed for _, sample in job.designs)
    load_kernels(
        lambda words: err.print(words, style="dim"),
        formats,
        windows=windows,
        computed=job is None,
        broker=broker,
        at_call=not broker,
    )


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"streamsample {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """See `app`."""
    gc.set_threshold(100_000, 20, 20)  # Some 10**6 objects of modules never die: to look for dead ones took 0.2 s.


@app.command()
def run(
    job_file: JobFile,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="End when the inputs' ends, as of the start, are processed.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Worker processes on this machine.")] = 1,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    first: From = None,
    end: To = None,
    output_topic: OutputTopic = None,
    replace: Replace = False,
) -> None:
    """Run a job until SIGTERM or Ctrl-C, which commit and leave the group.

    With --from, --to and --output-topic it replays a range of the past beside the live job, with the same records, and
    ends by itself; begun again, it goes on where it stopped. See docs/backfill.md.
    """
    with _errors_told():
        _log_at(log_level)
        job = _of_range(_load(job_file), first, end, output_topic, replace)
        _load_kernels(job)
        from streamsample.runtime.service import Options, run_job

        options = Options(
            until_caught_up=until_caught_up,
            workers=workers,
            log_level=log_level,
            on_start=lambda url: err.print(f"job {job.name}: metrics at {url}/metrics", markup=False),
            on_warning=lambda words: err.print(f"warning: {words}", style="yellow", markup=False),
        )
        progress = run_job(job, job_file, options)
        err.print(
            f"job {job.name}: read {progress.records_in:,}, wrote {progress.records_out:,}, open "
            f"{progress.open_rows:,}, dead letters {progress.dead:,}",
            markup=False,
        )
        if job.backfill is not None:
            _tell_of_backfill(job, job_file, progress)


def _of_range(job: Job, first: str | None, end: str | None, output_topic: str | None, replace: bool) -> Job:
    """The job as it replays a range, if the command line names one."""
    if first is None and end is None and output_topic is None and not replace:
        return job
    if first is None or end is None or output_topic is None:
        raise typer.BadParameter("a replay needs all three", param_hint="--from, --to, --output-topic")
    from streamsample.config.backfill import backfill_of, backfilling

    return backfilling(job, backfill_of(first, end, output_topic, replace=replace))


def _tell_of_backfill(job: Job, job_file: Path, progress: Progress) -> None:
    backfill = job.backfill
    assert backfill is not None
    err.print(f"backfill of {backfill}, as group {job.group}, into {backfill.output_topic}", markup=False)
    if progress.open_rows:
        err.print(
            f"the inputs end before the windows of {progress.open_rows:,} predictions close: nothing was written of "
            "them; run it again when more has come",
            style="yellow",
            markup=False,
        )
    elif not progress.records_in:
        again = f"--from {backfill.from_ms} --to {backfill.to_ms} --output-topic {backfill.output_topic}"
        again += " --replace" * backfill.replace
        err.print(f"nothing was left to do; to start over: streamsample reset {job_file} {again}", markup=False)


def _log_at(level: str) -> None:
    from streamsample.runtime.logs import LEVELS, log_at

    if level not in LEVELS:
        raise typer.BadParameter(f"{level!r} is none of {', '.join(LEVELS)}", param_hint="--log-level")
    log_at(level)


@app.command()
def validate(
    job_file: JobFile,
    offline: Annotated[bool, typer.Option("--offline", help="Look at the files only, not at the cluster.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the Avro schema of the training records.")] = False,
) -> None:
    """Check a job file: keys, schemas, and (unless --offline) topics, partitions and retention."""
    with _errors_told():
        job = _load(job_file)
        from streamsample.runtime.plan import plan_of

        plan = plan_of(job)
        if schema:
            schemas = getattr(plan.encoder, "schemas", ())
            for each in schemas:
                out.print_json(json.dumps(each))
            if not schemas:
                err.print("the training records are JSON, without a schema: see docs/training-record.md", markup=False)
        if not offline:
            _look_at_cluster(job)
        err.print(f"{job_file}: job {job.name} is valid (version {job.version})", style="green", markup=False)


def _look_at_cluster(job: Job) -> None:
    from streamsample.kafka.topics import TopicAdmin
    from streamsample.runtime.preflight import inspect

    admin = TopicAdmin(job.kafka.options("admin"))
    try:
        topics, warnings = inspect(job, admin, SystemClock().now_ms())
    finally:
        admin.close()
    for name, topic in topics.items():
        err.print(f"{name}: {topic.partitions} partitions", markup=False)
    for words in warnings:
        err.print(f"warning: {words}", style="yellow", markup=False)


@app.command("test")
def play(
    job_file: JobFile,
    timelines: Annotated[
        Path | None, typer.Option("--timelines", help="The file of tests; default: JOB.tests.yaml beside the job file.")
    ] = None,
    only: Annotated[str, typer.Option("--only", help="Run the tests with this in their names.")] = "",
) -> None:
    """Play timelines of events to a job, without a broker, and compare its training records with those expected.

    See docs/testing.md. Exit code 1 if one differs.
    """
    with _errors_told():
        clock = SystemClock()
        job = _load(job_file)
        _load_kernels(job, broker=False)
        from streamsample.config.timeline import beside
        from streamsample.runtime.plan import plan_of
        from streamsample.testing.suite import Suite
        from streamsample.testing.tell import lines_of

        path = beside(job_file) if timelines is None else timelines
        suite = Suite(plan_of(job), path)
        began = clock.elapsed_ms()
        results = list(suite.run(only=only))
        for result in results:
            for style, words in lines_of(result, str(path)):
                out.print(words, style=style, markup=False)
        failed = sum(not result.passed for result in results)
        took = f"in {clock.elapsed_ms() - began} ms"
        err.print(f"{path}: {len(results) - failed} passed, {failed} failed, {took}", markup=False)
        if failed or not results:
            raise typer.Exit(EXIT_FAILURE)


@app.command()
def verify(
    job_file: JobFile,
    window: Annotated[
        str,
        typer.Option(help="A time in the window, such as 2026-01-01T09:00Z; or FROM..TO, from FROM until before TO."),
    ],
) -> None:
    """Derive a job's sample again from its input, and compare it with what was written.

    Exit code 1 if it is another.
    """
    with _errors_told():
        job = _load(job_file)
        _load_kernels(job)
        from streamsample.clock import SystemClock
        from streamsample.kafka.topics import TopicAdmin
        from streamsample.runtime.verify import verify as verified

        admin = TopicAdmin(job.kafka.options("admin"))
        try:
            verdicts = verified(job, window, admin, SystemClock())
        finally:
            admin.close()
        for verdict in verdicts:
            for line in verdict.lines():
                out.print(line, style=None if verdict.right else "red", markup=False)
        if not all(verdict.right for verdict in verdicts):
            raise typer.Exit(EXIT_FAILURE)


@app.command()
def reset(
    job_file: JobFile,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    first: From = None,
    end: To = None,
    output_topic: OutputTopic = None,
    replace: Replace = False,
) -> None:
    """Forget a job's state: its group's positions and its changelog. The next run begins at `start`.

    What it has written stays; records of predictions that are read again are written again. With the options of a
    replay, the state of that replay is forgotten, and the live job's is not touched.
    """
    with _errors_told():
        job = _of_range(_load(job_file), first, end, output_topic, replace)
        if not yes:
            typer.confirm(f"Forget the positions and open rows of job {job.group}?", abort=True)
        from streamsample.kafka.topics import TopicAdmin

        admin = TopicAdmin(job.kafka.options("admin"))
        try:
            admin.delete_group(job.group)
            rekeyed = map(job.rekeyed_topic, job.rekeyed)
            admin.delete([job.changelog_topic, *rekeyed, *([job.windows_topic] if job.exchanges_windows else [])])
        finally:
            admin.close()
        shutil.rmtree(job.tasks_directory, ignore_errors=True)
        err.print(f"job {job.group}: state forgotten", markup=False)


@app.command()
def demo() -> None:
    """A year of New York flights through a real Kafka: how late does each flight land?"""
    with _errors_told():
        _load_kernels()
        from streamsample.demo import run_demo

        run_demo(out)


@broker_app.command("start")
def broker_start() -> None:
    """Start it in the background, and say where it listens."""
    with _errors_told():
        from streamsample.kafka.broker import start_detached

        out.print(f"the broker listens on {start_detached()}", markup=False)


@broker_app.command("stop")
def broker_stop() -> None:
    """Stop it. Its data stay. Exit code 1 if none runs."""
    with _errors_told():
        from streamsample.kafka.broker import stop_detached

        if not stop_detached():
            _no_broker()
        out.print("the broker has stopped; its data are kept", markup=False)


@broker_app.command("status")
def broker_status() -> None:
    """Say whether it runs, and where. Exit code 1 if none runs."""
    with _errors_told():
        from streamsample.kafka.broker import status_detached

        status = status_detached()
        if status is None:
            _no_broker()
        out.print(
            f"the broker listens on {status.bootstrap_servers} (process {status.pid}, data in {status.directory}, "
            f"log in {status.log})",
            markup=False,
        )


def _no_broker() -> NoReturn:
    out.print("no broker runs; `streamsample broker start` starts one", markup=False)
    raise typer.Exit(EXIT_FAILURE)
