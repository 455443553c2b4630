"""How the demo looks: a few lines of what it does, one frame while it runs, tables of what came of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from streamsample.clock import Clock
from streamsample.demo.expectation import Check, Expectation
from streamsample.demo.publisher import Publisher
from streamsample.runtime.report import Progress

_WIDTH_MAX = 100
_RATE_MS = 4_000

INTRODUCTION = (
    "Every flight that left New York in 2013 is a prediction at its scheduled departure: how late will it arrive? "
    "Its landing, hours later and on another topic, is the answer. The job joins the two as they come: arrival_delay "
    "is explicit if the flight lands within 6 hours of its scheduled departure, and implicit, null, once event time "
    "has passed that without a landing; the flight is then presumed cancelled. A landing after that corrects what was "
    "written. Each record is written exactly once."
)

NEXT = (
    ("configs/flights.yaml", "the job file that has just run"),
    ("streamsample broker start", "a Kafka of your own on this machine, to try things out"),
    ("streamsample validate JOB", "checks a job file against its topics; `run JOB` runs it"),
)


class Screen:
    """Prints to `console`. Lines of a terminal wider than 100 columns are not filled: they would be hard to read."""

    def __init__(self, console: Console, clock: Clock) -> None:
        self._console = console
        self._clock = clock
        self._width = min(console.width, _WIDTH_MAX)
        self._began_ms = clock.elapsed_ms()
        self.metrics_url = ""

    def begin(self) -> None:
        """What is going to happen."""
        self._print(Text("streamsample demo: a year of New York flights through a real Kafka", style="bold"))
        self._print(Padding(INTRODUCTION, (1, 2)))

    @contextmanager
    def doing(self, words: str) -> Iterator[None]:
        """Say that something takes its time, while it does."""
        with self._console.status(Text(words, style="dim")):
            yield

    def done(self, words: str) -> None:
        """One step is done."""
        self._print(Text.assemble(("  ✓ ", "green"), words))

    def note(self, words: str) -> None:
        """Something worth a line."""
        self._print(Text(f"    {words}", style="dim"))

    @contextmanager
    def running(self, frame: Frame) -> Iterator[None]:
        """Show `frame` while the body runs; what it shows at the end stays."""
        self._print(Text())
        with Live(frame, console=self._console, refresh_per_second=4, vertical_overflow="visible"):
            yield
            frame.over = True
        if not self._console.is_terminal:
            self._console.line()  # Live leaves that out where it does not redraw.

    def checks(self, checks: Sequence[Check]) -> None:
        """The demo's numbers beside the dataset's."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2))
        table.add_column("checked against the dataset")
        table.add_column("expected", justify="right")
        table.add_column("found", justify="right")
        table.add_column("")
        for check in checks:
            sign = Text("✓", style="green") if check.holds else Text("✗", style="bold red")
            style = "" if check.holds else "bold red"
            table.add_row(check.name, f"{check.expected:,}", f"{check.found:,}", sign, style=style)
        self._print(Padding(table, (0, 0, 0, 2)))

    def silence(self, expectation: Expectation) -> None:
        """Why labels are implicit."""
        self._print(
            Padding(
                f"Of the implicit labels {expectation.cancelled:,} are flights that were cancelled, "
                f"{expectation.never_landed:,} have no arrival on record, and {expectation.landed_late:,} landed after "
                "the window: their records are corrected. The flights still open would close as time goes on.",
                (0, 2),
            )
        )

    def records(self, records: Sequence[Mapping[str, Any]], target: str) -> None:
        """The first training records in short, and the very first in full."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title="The first training records")
        table.title_justify, table.title_style = "left", "bold"
        for name in ("flight", "2013, UTC", "route", target, "source", "known after", "split"):
            table.add_column(name, justify="right" if name in (target, "known after") else "left", no_wrap=True)
        for record in records:
            features, label = record["features"], record["targets"][target]
            value, delay = label["value"], label["delay_ms"]
            table.add_row(
                f"{features['carrier']} {features['flight']}",
                f"{features['scheduled_departure']:%b %d %H:%M}",
                f"{features['origin']}-{features['dest']}",
                "null" if value is None else f"{value:+.0f} min",
                label["source"],
                "" if delay is None else _hours(delay),
                record["split"] or "",
            )
        self._print(Padding(table, (1, 0, 0, 2)))
        if records:
            self._print(Padding(_in_full(records[0]), (0, 2)))

    def end(self) -> None:
        """What to do next."""
        seconds = (self._clock.elapsed_ms() - self._began_ms) / 1000
        table = Table.grid(padding=(0, 3))
        for command, words in NEXT:
            table.add_row(Text(command, style="bold"), words)
        self._print(Padding(f"Metrics were served at {self.metrics_url} while the job ran; Kafka is stopped.", (1, 2)))
        self._print(Padding(table, (0, 2)))
        self._print(Padding(Text(f"Done in {seconds:.0f} s.", style="bold green"), (1, 2, 0, 2)))

    def _print(self, what: RenderableType) -> None:
        self._console.print(what, width=self._width, soft_wrap=False)


class Frame:
    """What is seen while the job runs. so_far: what earlier runs of it have done. publisher: the one at work."""

    publisher: Publisher | None = None

    def __init__(self, clock: Clock, title: str, so_far: Progress | None = None) -> None:
        self.metrics_url = ""
        self.restore_seconds = 0.0
        self.over = False
        self._clock = clock
        self._title = title
        self._so_far = so_far or Progress()
        self._current = Progress()
        self._now = self._so_far
        self._seen: deque[tuple[int, int]] = deque([(clock.elapsed_ms(), self._so_far.records_in)])

    def tell(self, progress: Progress, restore_seconds: float) -> None:
        """How the present run stands."""
        self.restore_seconds = restore_seconds
        self._current = progress
        self._now = added(self._so_far, progress)
        now_ms = self._clock.elapsed_ms()
        self._seen.append((now_ms, self._now.records_in))
        while len(self._seen) > 2 and now_ms - self._seen[0][0] > _RATE_MS:
            self._seen.popleft()

    @property
    def records_in(self) -> int:
        """Events read in the present run, up to date to its last commit."""
        return self._current.records_in

    @property
    def rate(self) -> float:
        """Events per second, over the last seconds."""
        (first_ms, first), (last_ms, last) = self._seen[0], self._seen[-1]
        return (last - first) * 1000 / (last_ms - first_ms) if last_ms > first_ms else 0.0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        now = self._now
        numbers = Table.grid(padding=(0, 2), expand=True)
        for _ in range(4):
            numbers.add_column(style="dim")
            numbers.add_column(justify="right")
        numbers.add_row(
            *("events in", f"{now.records_in:,}", "open", f"{now.open_rows:,}"),
            *("explicit", f"{now.explicit:,}", "records out", f"{now.records_out:,}"),
        )
        numbers.add_row(
            *("rate", "" if self.over else f"{self.rate:,.0f}/s", "late", f"{now.late:,}"),
            *("implicit", f"{now.implicit:,}", "lag", f"{now.lag:,}"),
        )
        parts: list[RenderableType] = [numbers]
        times = Table.grid(padding=(0, 2))
        times.add_column(style="dim", min_width=9)
        times.add_column(min_width=20)
        times.add_column()
        if self.publisher is not None:
            bar = ProgressBar(total=self.publisher.total, completed=self.publisher.published, width=40)
            times.add_row("published", _date(self.publisher.reached_ms), bar)
        times.add_row("watermark", "none yet" if now.watermark_ms is None else _date(now.watermark_ms), "")
        yield Panel(
            Group(times, Text(), *parts),
            title=self._title,
            title_align="left",
            subtitle=None if self.over else f"metrics: {self.metrics_url}",
            subtitle_align="right",
            border_style="dim" if self.over else "cyan",
            width=min(options.max_width, _WIDTH_MAX),
        )


def added(first: Progress, second: Progress) -> Progress:
    """Two runs of one job, one after the other: counts add up, and how things stand is as the second says."""
    return Progress(
        records_in=first.records_in + second.records_in,
        records_out=first.records_out + second.records_out,
        dead=first.dead + second.dead,
        explicit=first.explicit + second.explicit,
        implicit=first.implicit + second.implicit,
        late=first.late + second.late,
        orphan=first.orphan + second.orphan,
        open_rows=second.open_rows,
        lag=second.lag,
        watermark_ms=first.watermark_ms if second.watermark_ms is None else second.watermark_ms,
        restoring=second.restoring,
        tasks=second.tasks,
    )


def _date(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def _hours(ms: int) -> str:
    minutes = timedelta(milliseconds=ms) // timedelta(minutes=1)
    return f"{minutes // 60} h {minutes % 60:02} min"


def _in_full(record: Mapping[str, Any]) -> Table:
    """One line for each field of the envelope."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in record.items():
        plain = msgspec.json.encode(value, enc_hook=str).decode()
        table.add_row(name, Text(plain.replace('":', '": ').replace(',"', ', "')))
    return table
