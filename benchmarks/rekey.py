"""The job of `join` with both topics rekeyed, beside itself without that, and beside a loop that only repartitions."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks import join
from benchmarks.jobs import Work, run_to_the_end
from benchmarks.loops import run_loop
from benchmarks.processes import Failed, call
from benchmarks.results import Figure, Target
from benchmarks.settings import Settings, in_turn, round_of

LOOP = "loop over kafka-python that only repartitions"
PLAIN = "the same job with topics keyed by the id"
_PREFIX = "bench.rekey"
_REKEYED = join.JOB.replace("input:\n", "input:\n  rekey: true\n").replace("clicks:\n", "clicks:\n    rekey: true\n")


def measure(settings: Settings) -> list[Figure]:
    """The jobs read `records` predictions and their clicks, the loop a part of the predictions."""
    settings.say(f"rekey: writing {settings.records:,} predictions and their clicks")
    told = join._write(settings, _PREFIX, settings.records)
    names = [f"bench-{kind}-{number}" for kind in ("rekey", "keyed") for number in range(settings.rounds)]
    outputs = ["bench-rekey-loop.out", *(f"{name}.out" for name in names)]
    call("data:make_outputs", servers=settings.servers, topics=outputs)
    call("data:write_schemas", folder=str(settings.folder))
    records = told["predictions"] + told["clicks"]
    works: list[Work] = []
    plain: list[Work] = []
    for number in range(settings.rounds):
        works.append(_run(settings, f"bench-rekey-{number}", _REKEYED, told))
        plain.append(_run(settings, f"bench-keyed-{number}", join.JOB, told))
    count = min(settings.records, settings.slow_records)
    topic = f"{_PREFIX}.impressions"
    [loop] = in_turn(
        max(1, settings.rounds // 2),
        lambda: round_of(*call("rekey:loop", servers=settings.servers, topic=topic, records=count)),
    )
    rate, rate_plain = (statistics.median(records / work.working_seconds for work in each) for each in (works, plain))
    cpu, cpu_plain = (
        statistics.median(work.working_cpu_seconds / records * 1e6 for work in each) for each in (works, plain)
    )
    peak, peak_plain = (max(work.peak_bytes for work in each) / 2**20 for each in (works, plain))
    million = "CPU s/M records"
    return [
        Figure("rekeyed join, from ready to end", rate, "records/s", LOOP, loop.rate, Target("value", ">=", 600_000)),
        Figure("rekeyed join, from ready to end", rate, "records/s", PLAIN, rate_plain),
        Figure("rekeyed join: CPU from ready to end", cpu, million, LOOP, loop.cpu_per_million),
        Figure("rekeyed join: CPU from ready to end", cpu, million, PLAIN, cpu_plain),
        Figure("rekeyed join: peak memory", peak, "MiB", PLAIN, peak_plain),
    ]


def _run(settings: Settings, name: str, job: str, told: dict[str, int]) -> Work:
    job_file = Path(settings.folder, f"{name}.yaml")
    job_file.write_text(job.format(name=name, servers=settings.servers, prefix=_PREFIX))
    work = run_to_the_end(job_file)
    settings.say(f"rekey: {name} read {work.ended.read:,}, wrote {work.ended.wrote:,} in {work.working_seconds:.2f} s")
    labels, _ = call("outputs:read_labels", servers=settings.servers, topic=f"{name}.out", job_file=str(job_file))
    expected = {"records": told["closing"], "ids": told["closing"], "explicit": told["explicit"]}
    if work.ended.read != told["predictions"] + told["clicks"] or labels != expected:
        raise Failed(f"the job is wrong, however fast: {work.ended}, {labels}, expected {expected}")
    return work


def loop(servers: str, topic: str, records: int) -> dict[str, float]:
    """Write each record again, under its id."""

    def decide(event: dict[str, object], _: bytes, value: bytes) -> list[tuple[bytes, bytes]]:
        return [(str(event["impression_id"]).encode(), value)]

    return run_loop(servers, topic, "bench-rekey-loop", records, decide)
