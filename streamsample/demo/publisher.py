"""Publishes departures and landings as they happened: in the order of event time, three days at a time."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable

import numpy as np

from streamsample.clock import SystemClock
from streamsample.config import Job
from streamsample.demo.flights import DAY_MS, Encoder, Flights, edges
from streamsample.kafka.producer import TransactionalProducer
from streamsample.kafka.topics import TopicAdmin

_STEP_MS = 3 * DAY_MS
_AHEAD_MAX = 80_000
_PAUSE_SECONDS = 0.02


class Publisher(threading.Thread):
    """A thread that writes all flights to the job's input topics, each topic in order, then calls `when_done`.

    A few days of both topics are one transaction, so that no reader sees a partition run ahead of another: event time
    stays in order over the partitions, too, and whoever waits for a silent one may follow the others.

    Goes no faster than the job reads (`read`: how many messages it has), so that both are seen at work.

    `published`: messages so far; `reached_ms`: up to when; `failure`: why it ended early, if it did; `finished`: all is
    written.
    """

    def __init__(
        self,
        flights: Flights,
        job: Job,
        admin: TopicAdmin,
        read: Callable[[], int],
        when_done: Callable[[], None],
    ) -> None:
        super().__init__(name="publisher", daemon=True)
        (schema,) = job.input.schemas.values()
        self._flights = flights
        self._encoder = Encoder(flights, schema.parsed)
        self._topics = tuple(job.sources)
        self._admin = admin
        self._connection = job.kafka.options("producer")
        self._read = read
        self._when_done = when_done
        self._stop_asked = threading.Event()
        self.total = len(flights) + len(flights.landings)
        self.published = 0
        self.reached_ms = int(flights.scheduled[0])
        self.failure: Exception | None = None

    @property
    def finished(self) -> bool:
        return self.published == self.total

    def run(self) -> None:
        """Publish. Errors end up in `failure`."""
        try:
            producer = TransactionalProducer(
                self._connection,
                f"publisher-{secrets.token_hex(8)}",
                limits=self._admin.limits,
                clock=SystemClock(),
            )
            try:
                self._publish(producer)
            finally:
                producer.close()
        except Exception as error:
            self.failure = error
        finally:
            self._when_done()

    def stop(self) -> None:
        """End after the transaction at hand, and wait for it."""
        self._stop_asked.set()
        if self.is_alive():
            self.join()

    def _publish(self, producer: TransactionalProducer) -> None:
        flights = self._flights
        departures_topic, landings_topic = self._topics
        landed = flights.landed[flights.landings]
        departed = landed_count = 0
        for edge in edges(flights, _STEP_MS):
            while self.published - self._read() > _AHEAD_MAX and not self._stop_asked.wait(_PAUSE_SECONDS):
                pass
            if self._stop_asked.is_set():
                return
            departures = np.arange(departed, np.searchsorted(flights.scheduled, edge))
            landings = flights.landings[landed_count : np.searchsorted(landed, edge)]
            producer.begin()
            producer.send_partitioned(
                departures_topic,
                flights.scheduled[departures],
                flights.keys(departures),
                self._encoder.departures(departures),
            )
            producer.send_partitioned(
                landings_topic, flights.landed[landings], flights.keys(landings), self._encoder.landings(landings)
            )
            producer.commit()
            departed += len(departures)
            landed_count += len(landings)
            self.published = departed + landed_count
            self.reached_ms = edge
