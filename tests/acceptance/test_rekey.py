"""Topics that are keyed or partitioned otherwise than by the prediction's id (`rekey: true`)."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
import pytest
from kafka import KafkaProducer
from kafka.partitioner.default import murmur2

from streamsample.clock import SystemClock
from streamsample.config.backfill import Backfill, backfilling
from streamsample.errors import TopicError
from streamsample.records import RecordBatch, Spans
from streamsample.runtime.blocks import blocks_of
from streamsample.runtime.service import Options, run_one
from tests.acceptance.cluster import SECONDS, MakeJob, OnBroker, Raw
from tests.acceptance.test_on_broker import traffic
from tests.acceptance.timelines import T0, Event, later

END = later("1h")


def rekeyed(make_job: MakeJob, partitions: int, **counts: int) -> OnBroker:
    """A job with topics of so many partitions; those of `counts` (shown, clicked) have others, and are rekeyed."""
    sections = {"shown": "input", "clicked": "feedback.clicks"}
    job = make_job({f"{sections[kind]}.rekey": True for kind in counts}, partitions=partitions)
    for kind, count in counts.items():
        *above, last = f"{sections[kind]}.topic".split(".")
        place = job.tree
        for step in above:
            place = place[step]
        place[last] = f"{job.name}.scattered-{kind}"
        before, job.partitions = job.partitions, count
        job.make([place[last]])
        job.partitions = before
    job.save()
    return job


def scatter(job: OnBroker, kind: str, count: int, events: Iterable[Event], only: int | None = None) -> None:
    """Write the events of a kind over the partitions of its rekeyed topic, by nothing that has to do with their ids."""
    mine = [event for event in events if event.kind == kind]
    raws = [
        Raw(
            json.dumps(event.value(number)).encode(),
            b"k%d" % number,
            number % count if only is None else only,
            event.at,
        )
        for number, event in enumerate(mine)
    ]
    job.write(f"scattered-{kind}", raws)


def everywhere(job: OnBroker, kind: str, count: int, events: Iterable[Event]) -> None:
    """Write each event to every partition of the rekeyed topic."""
    for number, event in enumerate(each for each in events if each.kind == kind):
        value = json.dumps(event.value(0) | {"id": f"{event.id}-{number}", "event": f"{event.id}-{number}-{{}}"})
        job.write(
            f"scattered-{kind}", [Raw(value.replace("{}", str(n)).encode(), None, n, event.at) for n in range(count)]
        )


def plain(events: Iterable[Event], kinds: set[str]) -> list[Event]:
    return [event for event in events if event.kind in kinds]


def expected(events: Iterable[Event]) -> dict[str, str]:
    """The labels of `traffic`."""
    clicked = {event.id for event in events if event.kind == "clicked"}
    return {
        event.id: "1 explicit" if event.id in clicked else "0 implicit" for event in events if event.kind == "shown"
    }


def published(make_job: MakeJob, events: list[Event], counts: dict[str, int]) -> OnBroker:
    """A job of two tasks whose topics in `counts` are rekeyed, and all of the events, up to their end."""
    job = rekeyed(make_job, 2, **counts)
    job.publish(plain(events, {"shown", "clicked"} - counts.keys()))
    job.later(plain(END, {"shown", "clicked"} - counts.keys()))
    for kind, count in counts.items():
        scatter(job, kind, count, events)
        everywhere(job, kind, count, END)
    return job


@pytest.mark.parametrize("counts", [{"clicked": 5}, {"shown": 3}, {"shown": 3, "clicked": 1}])
def test_rekeyed_topics_give_the_same_labels(make_job: MakeJob, counts: dict[str, int]) -> None:
    events = traffic(200)
    job = published(make_job, events, counts)
    job.run()
    assert job.labels() == expected(events)
    assert job.dead == []


def test_a2_a8_records_do_not_depend_on_who_reads_what_when(make_job: MakeJob) -> None:
    """Byte for byte, lineage of the original partitions included: by two workers, and little by little."""
    events = traffic(150)
    job = published(make_job, events, {"shown": 3, "clicked": 4})
    job.run()
    written = job.written
    assert job.labels() == expected(events)
    named = [record["lineage"] for record in job.records]
    places = [place for lineage in named for place in (lineage["prediction"], *lineage["feedback"])]
    counts = {f"{job.name}.scattered-shown": 3, f"{job.name}.scattered-clicked": 4}
    assert {(place["topic"], place["partition"]) for place in places} == {
        (topic, number) for topic, count in counts.items() for number in range(count)
    }

    job.reset()
    job.run_workers(2)
    assert job.written == written, "by two workers"

    job.reset()
    job.tree["kafka"]["max_partition_fetch_bytes"] = 2_000
    job.tree["max_ahead"] = "2s"
    job.run()
    assert job.written == written, "little by little, each held to 2 s beyond the slowest"


def test_a8_a_backfill_of_rekeyed_topics_gives_what_live_gave(make_job: MakeJob) -> None:
    """With topics of its own; what is sent on ends when all of the range is there."""
    job = published(make_job, traffic(160), {"shown": 3, "clicked": 4})
    job.tree["kafka"]["max_partition_fetch_bytes"] = 2_000
    job.run()
    first, end = T0 + 20_000, T0 + 50_000
    made = backfilling(job.job, Backfill(first, end, f"{job.name}.again"))
    chosen = Options(on_start=lambda _: None, on_warning=job.warnings.append)
    run_one(made, chosen, SystemClock(), serve=False)
    again = sorted((record.timestamp, record.key, record.value) for record in job.read(f"{job.name}.again"))
    live = [(each.timestamp, each.key, each.value) for each in job.written]
    assert again == [each for each in live if first <= each[0] - 11_000 < end]
    assert len(again) == 60
    assert all(made.rekeyed_topic(topic).startswith(f"{job.name}.backfill-") for topic in made.rekeyed)


def test_each_record_lies_where_kafkas_own_partitioner_puts_its_id(make_job: MakeJob) -> None:
    events = traffic(90)
    job = published(make_job, events, {"clicked": 3})
    job.run()
    found = set()
    topic = job.job.rekeyed[0]
    for message in job.read(job.job.rekeyed_topic(topic)):
        batch = message_of(message.partition, message.offset, message.value)
        for block in blocks_of(batch, topic, job.job.state_shape):
            for value in [] if block.records is None else block.records.values.to_list():
                identity = json.loads(value or b"")["id"]
                found.add(identity)
                assert message.partition == (murmur2(identity.encode()) & 0x7FFFFFFF) % 2
    assert found >= {event.id for event in events if event.kind == "clicked"}


def message_of(partition: int, offset: int, value: bytes) -> RecordBatch:
    """A batch with one message."""
    one, nothing = np.array([offset]), Spans.nulls(1)
    return RecordBatch("t", partition, one, np.zeros(1, np.int64), nothing, Spans.of([value]), nothing, offset + 1)


def test_a5_silent_origins_follow_their_topic(make_job: MakeJob) -> None:
    """Feedback came to one of three partitions only; the others are empty."""
    job = rekeyed(make_job, 2, clicked=3)
    events = traffic(40)
    job.publish(plain(events, {"shown"}))
    job.later(plain(END, {"shown"}))
    scatter(job, "clicked", 3, [*events, *END], only=1)
    job.run()
    assert job.labels() == expected(events)
    assert {record["closed_by"] for record in job.records} == {"event"}


def test_a5_a_rekeyed_topic_that_is_silent_as_a_whole_holds_everything_back(make_job: MakeJob) -> None:
    job = rekeyed(make_job, 2, clicked=3)
    events = traffic(20)
    job.publish(plain(events, {"shown"}))
    job.later(plain(END, {"shown"}))
    scatter(job, "clicked", 3, events)
    job.run()
    before = max(event.at for event in events if event.kind == "clicked") - 11_000
    assert set(job.labels()) == {event.id for event in events if event.kind == "shown" and event.at < before}


def test_a5_an_idle_timeout_lets_a_silent_rekeyed_topic_go_on(make_job: MakeJob) -> None:
    job = rekeyed(make_job, 2, clicked=3)
    job.tree["feedback"]["clicks"]["idle_timeout"] = "100ms"
    job.tree["targets"]["clicked"]["window"] = "500ms"
    job.tree["grace"] = "100ms"
    job.save()
    shown = [Event("shown", T0 + 10 * number, f"p{number}") for number in range(20)]
    with job.live() as live:
        scatter(job, "clicked", 3, [Event("clicked", T0, f"p{number}") for number in range(9)])
        job.publish(shown)
        job.later(plain(END, {"shown"}))
        live.wait(lambda: live.report.progress.records_out >= 20, "all records")
    assert job.labels() == {f"p{number}": "1 explicit" if number == 0 else "0 implicit" for number in range(20)}
    assert {record["closed_by"] for record in job.records} == {"idle"}


def test_a4_an_origin_whose_records_are_hidden_holds_all_tasks_back(make_job: MakeJob) -> None:
    """A click lies in an open transaction on one origin: no row may close, whatever task owns it."""
    job = rekeyed(make_job, 2, clicked=3)
    hidden = KafkaProducer(
        bootstrap_servers=job.servers, transactional_id=f"{job.name}.upstream", transaction_timeout_ms=1000 * SECONDS
    )
    events = [Event("shown", T0 + number, f"p{number}") for number in range(10)]
    try:
        hidden.init_transactions()
        hidden.begin_transaction()
        value = json.dumps({"event": "hidden", "id": "p3", "at": T0 + 1000}).encode()
        hidden.send(f"{job.name}.scattered-clicked", value, partition=2, timestamp_ms=T0 + 1000).get(SECONDS)
        job.publish(events)
        job.later(plain(END, {"shown"}))
        for origin in (0, 1):
            scatter(job, "clicked", 3, plain(END, {"clicked"}), only=origin)
        with job.live() as live:
            live.wait(lambda: live.report.progress.records_in == 14, "what can be read")
            live.wait_for_follow()
            live.wait_for_follow()
            assert job.records == []
            hidden.commit_transaction()
            scatter(job, "clicked", 3, plain(END, {"clicked"}), only=2)
            live.wait(lambda: live.report.progress.records_out >= 10, "all records")
    finally:
        hidden.close(timeout=5)
    assert job.labels() == {event.id: "1 explicit" if event.id == "p3" else "0 implicit" for event in events}


def test_a19_what_retention_took_of_one_origin_is_uncovered_for_all(make_job: MakeJob) -> None:
    events = traffic(60)
    job = published(make_job, events, {"clicked": 3})
    job.delete_records("scattered-clicked", before=3, partition=2)
    job.run()
    clicks = plain(events, {"clicked"})
    gone = {event.id for event in clicks[2::3][:3]}
    covered_from = clicks[2::3][3].at + 1_000
    kept = {event.id for event in clicks} - gone
    assert job.labels() == {
        event.id: "1 explicit" if event.id in kept else "0 implicit"
        for event in plain(events, {"shown"})
        if event.id in kept or event.at >= covered_from
    }


def test_bad_records_are_refused_once_where_they_lie(make_job: MakeJob) -> None:
    job = rekeyed(make_job, 2, shown=3)
    events = traffic(30)
    job.publish(plain(events, {"clicked"}))
    job.later(plain(END, {"clicked"}))
    scatter(job, "shown", 3, events)
    job.write("scattered-shown", [Raw(b"{no JSON", b"a", 1, T0), Raw(b'{"id": null, "at": 1}', b"b", 2, T0)])
    everywhere(job, "shown", 3, END)
    job.tree["dead_letters"] = {"max_ratio": 1.0}
    job.run()
    assert job.labels() == expected(events)
    assert sorted((letter.why("topic"), letter.why("partition"), letter.why("stage")) for letter in job.dead) == [
        (f"{job.name}.scattered-shown", "1", "decode"),
        (f"{job.name}.scattered-shown", "2", "identify"),
    ]


def test_a16_feedback_that_is_not_by_the_id_is_refused_beside_a_rekeyed_input(make_job: MakeJob) -> None:
    job = rekeyed(make_job, 2, shown=3)
    job.write(
        "clicked",
        [Raw(b'{"event": "%d", "id": "p%d", "at": %d}' % (n, n, T0 + n), partition=n % 2) for n in range(2_200)],
    )
    with pytest.raises(TopicError, match=r"scattered-shown is partitioned by the prediction's id, .*clicked is not"):
        job.run()
