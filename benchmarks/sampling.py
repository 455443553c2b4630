"""The sampling library by itself: what a record costs, what a merge costs, and what many strata take of memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.processes import call
from benchmarks.results import Figure, Target
from benchmarks.settings import Settings

VAROPT = "datasketches VarOpt"
RECORDS = 10_000_000
K = 1_000
BATCH = 10_000
STRATA = 10_000
STRATUM_K = 100
_MERGES = 1_000
_SEED = 7


def measure(settings: Settings) -> list[Figure]:
    """Samples of k = 1,000 from 10 million records in batches of 10,000; ids are integers, and hashing them counts."""
    records = RECORDS * min(settings.records, 3_000_000) // 3_000_000
    settings.say(f"sampling: {records:,} records, uniform, weighted, and into VarOpt")
    told, _ = call("sampling:updates", records=records, rounds=settings.rounds)
    settings.say(f"sampling: merges, and {STRATA:,} strata")
    merge, _ = call("sampling:merges")
    strata, _ = call("sampling:strata", records=records)
    figures = [
        Figure(f"library: {design}", told[design], "ns/record", VAROPT, told[VAROPT], Target("value", "<=", most))
        for design, most in (("reservoir", 25), ("weighted", 40), ("priority", 40), ("recency", 40))
    ]
    ours, theirs = 1e3 / told["priority"], 1e3 / told[VAROPT]
    pool = f"library: {STRATA:,} strata of k = {STRATUM_K}"
    return [
        *figures,
        Figure("library: with replacement", told["with replacement"], "ns/record", VAROPT, told[VAROPT]),
        Figure("library: priority, by rate", ours, "M records/s", VAROPT, theirs, Target("ratio", ">=", 5)),
        Figure("library: merge of two samples", merge["ms"], "ms", target=Target("value", "<", 0.1)),
        Figure(pool, strata["ns"], "ns/record"),
        Figure(f"{pool}, candidates", strata["mib"], "MiB", "k candidates of 48 bytes each", strata["least_mib"]),
    ]


def updates(records: int, rounds: int) -> dict[str, float]:
    """Median ns per record of each design, and of VarOpt, run in turn."""
    from datasketches import var_opt_sketch

    from streamsample.sampling import Recency, Reservoir, Weighted, WithReplacement

    designs: dict[str, Callable[[], Any]] = {
        "reservoir": lambda: Reservoir(K, _SEED),
        "weighted": lambda: Weighted(K, _SEED),
        "priority": lambda: Weighted(K, _SEED, law="priority"),
        "recency": lambda: Recency(K, half_life=records / 10, seed=_SEED),
        "with replacement": lambda: WithReplacement(K, _SEED),
    }
    found: dict[str, list[float]] = {name: [] for name in [*designs, VAROPT]}
    for _ in range(rounds):
        for name, make in designs.items():
            design, seconds = make(), 0.0
            for ids, weight in _stream(records):
                columns = {"reservoir": (ids,), "recency": (ids, ids.astype(float), weight)}.get(name, (ids, weight))
                begin = time.perf_counter()
                design.update(*columns)
                seconds += time.perf_counter() - begin
            assert design.n == records
            found[name].append(seconds / records * 1e9)
        sketch, seconds = var_opt_sketch(K), 0.0
        for ids, weight in _stream(records):
            rows = list(zip(ids.tolist(), weight.tolist(), strict=True))
            update = sketch.update
            begin = time.perf_counter()
            for item, size in rows:
                update(item, size)
            seconds += time.perf_counter() - begin
        found[VAROPT].append(seconds / records * 1e9)
    return {name: statistics.median(values) for name, values in found.items()}


def merges() -> dict[str, float]:
    """Median milliseconds to merge a full sample into another, of two that share no source and were both looked at."""
    from streamsample.sampling import Reservoir

    times = []
    for source in range(_MERGES):
        into, other = Reservoir(K, _SEED), Reservoir(K, _SEED)
        into.update(range(source * 10_000, source * 10_000 + 5_000), source=1)
        other.update(range(source * 10_000 + 5_000, source * 10_000 + 10_000), source=2)
        assert len(into.sample()) == len(other.sample()) == K
        begin = time.perf_counter()
        into.merge(other)
        times.append(time.perf_counter() - begin)
    return {"ms": statistics.median(times) * 1e3}


def strata(records: int) -> dict[str, float]:
    """What a record costs, and the size of the candidates, beside that of k candidates in each of 10,000 strata."""
    import numpy as np

    from streamsample.sampling import StratifiedReservoir
    from streamsample.sampling.candidate import CANDIDATE

    names = np.char.add("stratum ", np.arange(STRATA).astype(str)).astype("S")
    reservoir, seconds = StratifiedReservoir(STRATUM_K, _SEED, strata=names.astype(str).tolist(), others=1), 0.0
    for ids, _ in _stream(records):
        of = names[ids * 7919 % STRATA]
        begin = time.perf_counter()
        reservoir.update(ids, of)
        seconds += time.perf_counter() - begin
    least = STRATA * STRATUM_K * CANDIDATE.itemsize
    assert len(reservoir.sample()) == STRATA * STRATUM_K
    return {
        "ns": seconds / records * 1e9,
        "mib": reservoir.memory_bytes() / 2**20,
        "least_mib": least / 2**20,
    }


def _stream(records: int) -> Iterator[tuple[Any, Any]]:
    """Batches of ids, int64, and weights with a heavy tail."""
    import numpy as np

    rng = np.random.default_rng(_SEED)
    for begin in range(0, records, BATCH):
        yield np.arange(begin, min(begin + BATCH, records)), rng.pareto(2, min(BATCH, records - begin)) + 1
