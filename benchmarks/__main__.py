"""`python -m benchmarks [NAME...]`: measure, print each figure beside its reference, write benchmarks/results.json."""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from benchmarks import results
from benchmarks.processes import Failed
from benchmarks.settings import Settings

NAMES = (
    *("consume", "produce", "sample", "windows", "join", "labels", "rekey", "slates", "restore"),
    *("long_windows", "start", "sampling"),
)
RECORDS, QUICK_RECORDS = 3_000_000, 300_000
_LOAD_MAX = 0.7
SLOW_RECORDS, QUICK_SLOW_RECORDS = 200_000, 30_000


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(NAMES)} (default: all)")
    parser.add_argument("--records", type=int, help=f"records of each topic (default: {RECORDS:,})")
    parser.add_argument("--rounds", type=int, help="how often ours and each reference are run, in turn (default: 3)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the records, once: shows that it works")
    parser.add_argument("--broker", metavar="HOST:PORT", help="an empty broker of yours (default: a local one)")
    given = parser.parse_args()
    for name in given.names:
        if name not in NAMES:
            parser.error(f"{name!r} is none of {', '.join(NAMES)}")
    return given


@contextmanager
def _broker(address: str | None) -> Iterator[str]:
    if address:
        yield address
        return
    from streamsample.kafka.broker import LocalBroker

    with LocalBroker() as broker:
        yield broker.bootstrap_servers


def main() -> int:
    """The exit code: 1 if a target was missed or a benchmark failed."""
    given, console = _arguments(), Console(soft_wrap=True)
    load = os.getloadavg()[0]
    if load > _LOAD_MAX:
        busy = f"the machine is busy (load {load:.1f}): rates will be too low, CPU times too high"
        console.print(busy, style="yellow")
    figures: list[results.Figure] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="streamsample-bench-") as folder, _broker(given.broker) as servers:
        settings = Settings(
            servers=servers,
            records=given.records or (QUICK_RECORDS if given.quick else RECORDS),
            slow_records=QUICK_SLOW_RECORDS if given.quick else SLOW_RECORDS,
            rounds=given.rounds or (1 if given.quick else 3),
            folder=Path(folder),
            say=lambda words: console.print(f"{time.strftime('%H:%M:%S')} {words}", style="dim", highlight=False),
        )
        console.print(
            f"{os.cpu_count()} cores, {settings.records:,} records, {settings.rounds} rounds, broker {servers}"
        )
        for name in given.names or NAMES:
            try:
                found = importlib.import_module(f"benchmarks.{name}").measure(settings)
            except Failed as error:
                console.print(f"{name}: {error}", style="red", highlight=False, markup=False)
                failed.append(f"{name} (failed)")
                continue
            results.show(found, console)
            figures += found
            results.write(figures)
    missed = [figure.name for figure in figures if figure.reached is False] + failed
    console.print(f"written to {results.PATH}; missed: {'; '.join(missed) or 'nothing'}", highlight=False)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
