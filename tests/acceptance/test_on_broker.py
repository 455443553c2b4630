"""The cases A of semantics.md that brokers have a part in: what is read when, where it lies, what is still there."""

from __future__ import annotations

import pytest
from kafka import KafkaProducer

from streamsample.clock import SystemClock
from streamsample.errors import TopicError
from streamsample.kafka.partitioner import partitions_of
from streamsample.records import Spans
from tests.acceptance.cluster import SECONDS, MakeJob, OnBroker, Placed, Raw
from tests.acceptance.timelines import T0, Event, later, milliseconds, orders

END = later("1h")


def ids_of(partition: int, count: int, word: str = "id", partitions: int = 2) -> list[str]:
    """Ids whose records lie in one partition."""
    names = [f"{word}{number}" for number in range(count * 8 * partitions)]
    places = partitions_of(Spans.of([name.encode() for name in names]), partitions)[0]
    return [name for name, place in zip(names, places, strict=True) if place == partition][:count]


# -- A4, A5: what holds the watermark back ---------------------------------------------------------


def test_a4_a_lagging_feedback_topic_makes_no_false_negative(make_job: MakeJob) -> None:
    job = make_job()
    job.publish("0s shown a\n1s shown b\n2s clicked b")
    job.later(later("1h", ["shown"]))
    job.run()
    assert job.labels() == {}
    job.publish("5s clicked a")
    job.later(later("1h", ["clicked"]))
    job.run()
    assert job.labels() == {"a": "1 explicit", "b": "1 explicit"}


def test_a4_a5_clicks_cut_off_for_an_hour_make_no_false_negative(make_job: MakeJob) -> None:
    """The pipeline of the clicks stands still for an hour of event time; to the job that is silence, whole (A5)."""
    job = make_job()
    events = traffic(1200, step_ms=5_000)
    cut, back = T0 + milliseconds("20m"), T0 + milliseconds("80m")
    before = [event for event in events if event.at < (cut if event.kind == "clicked" else back)]
    given = {event.id for event in events if event.kind == "clicked"}
    job.publish(before)
    for _ in range(2):  # also when it begins anew meanwhile
        job.run()
        labels = job.labels()
        assert len(labels) > 200
        assert {name for name in labels if int(name[1:]) * 5_000 + T0 >= cut} == set()
        assert {name for name, label in labels.items() if label == "1 explicit"} == given & labels.keys()
    job.publish([event for event in events if event not in before])
    job.later(later("3h"))
    job.run()
    assert job.labels() == {f"p{n}": "1 explicit" if f"p{n}" in given else "0 implicit" for n in range(1200)}


def test_a4_a_feedback_topic_that_nobody_wrote_yet_holds_everything_back(make_job: MakeJob) -> None:
    job = make_job(orders)
    job.publish("0s shown a\n1s clicked a")
    job.later(END)
    assert job.run().open_rows == 1 + job.partitions
    assert job.records == []


def test_a5_silent_partitions_follow_their_topic(make_job: MakeJob) -> None:
    job = make_job()
    here, there = ids_of(0, 2), ids_of(1, 2)
    job.publish(f"0s shown {here[0]}\n0s shown {there[0]}\n1h shown {here[1]}\n2s clicked {here[0]}")
    job.publish(f"1h clicked {here[1]}")  # in partition 1 nobody ever clicked
    job.run()
    assert job.labels() == {here[0]: "1 explicit", there[0]: "0 implicit"}
    assert {record["closed_by"] for record in job.records} == {"event"}


@pytest.mark.parametrize("last", [b"{no JSON", b'{"event": "mad", "id": "x", "at": 99999999999999}'])
def test_a7_an_unusable_last_record_keeps_no_silent_partition_from_following(make_job: MakeJob, last: bytes) -> None:
    job = make_job()
    here, there = ids_of(0, 1)[0], ids_of(1, 1)[0]
    job.publish(f"0s shown {here}\n0s shown {there}\n2s clicked {here}")
    job.later(later("1h", ["shown"]))
    job.write("clicked", [Raw(b'{"event": "y", "id": "y", "at": %d}' % (T0 + 3_600_000), partition=0, timestamp=T0)])
    job.write("clicked", [Raw(last, b"k", 0, T0 + 7_200_000)])
    job.run()
    assert job.labels() == {here: "1 explicit", there: "0 implicit"}
    assert len(job.dead) == 1


def test_a7_a_timestamp_too_far_ahead_keeps_no_silent_partition_from_following(make_job: MakeJob) -> None:
    job = make_job({"feedback.clicks.time": None, "max_future": "1m"})
    here, there = ids_of(0, 1)[0], ids_of(1, 1)[0]
    job.publish(f"0s shown {here}\n0s shown {there}\n2s clicked {here}\n1h clicked {here}")
    job.later(later("1h", ["shown"]))
    job.write("clicked", [Raw(b'{"event": 1, "id": "x"}', b"k", 0, SystemClock().now_ms() + 1_800_000)])
    job.run()
    assert job.labels() == {here: "1 explicit", there: "0 implicit"}
    assert [letter.why("class") for letter in job.dead] == ["future"]


def test_a5_an_open_upstream_transaction_is_no_silence(make_job: MakeJob) -> None:
    job = make_job()
    here, there = ids_of(0, 1), ids_of(1, 1)
    upstream = KafkaProducer(
        bootstrap_servers=job.servers, transactional_id=f"{job.name}.upstream", transaction_timeout_ms=1000 * SECONDS
    )
    try:
        upstream.init_transactions()
        upstream.begin_transaction()
        click = Event("clicked", T0 + 1000, there[0])
        value = b'{"event": "hidden", "id": "%s", "at": %d}' % (click.id.encode(), click.at)
        upstream.send(f"{job.name}.clicked", value, partition=1, timestamp_ms=click.at).get(SECONDS)
        job.publish(f"0s shown {here[0]}\n0s shown {there[0]}")
        job.later(later("1h", ["shown"]))
        job.write("clicked", [Raw(b'{"event": "x", "id": "x", "at": %d}' % (T0 + milliseconds("1h")), partition=0)])
        with job.live() as live:
            live.wait(lambda: here[0] in job.labels(), "the row of the other partition")
            # That row needed no following. Now a round in which partition 1 could follow, and must not.
            live.wait_for_follow()
            assert list(job.labels()) == [here[0]]
            upstream.commit_transaction()
            job.write("clicked", [Raw(b'{"event": "y", "id": "y", "at": %d}' % (T0 + milliseconds("1h")), partition=1)])
            live.wait(lambda: there[0] in job.labels(), "the row whose feedback was hidden")
    finally:
        upstream.close(timeout=5)
    assert job.labels()[there[0]] == "1 explicit"


# -- A8: replay equals live ------------------------------------------------------------------------


def traffic(count: int, step_ms: int = 500) -> list[Event]:
    """Predictions, and of every third its feedback, in the order of event time."""
    shown = [Event("shown", T0 + step_ms * number, f"p{number}") for number in range(count)]
    clicked = [Event("clicked", event.at + 3_700, event.id, {"event": f"c-{event.id}"}) for event in shown[::3]]
    return sorted(shown + clicked, key=lambda event: event.at)


def test_a8_a_replay_gives_what_live_gave(make_job: MakeJob) -> None:
    job = make_job()
    events = traffic(120)
    with job.live() as live:
        for start in range(0, len(events), 40):
            job.publish(events[start : start + 40])
            seen = start + len(events[start : start + 40])
            live.wait(lambda seen=seen: live.report.progress.records_in == seen, f"{seen} records read")
        job.later(END)
        live.wait(lambda: live.report.progress.records_out >= 120, "all records")
    written = job.written
    assert len(job.labels()) == 120
    assert len(written) == 120

    job.reset()
    job.run()
    assert job.written == written, "one topic after the other"

    job.reset()
    job.tree["kafka"]["max_partition_fetch_bytes"] = 2_000
    job.tree["max_ahead"] = "2s"
    job.run()
    assert job.written == written, "little by little, each held to 2 s beyond the slowest"


# -- A16: co-partitioning --------------------------------------------------------------------------


def test_a16_different_partition_counts_are_refused(make_job: MakeJob) -> None:
    job = make_job()
    job.partitions = 3
    job.make([f"{job.name}.more"])
    job.tree["feedback"]["clicks"]["topic"] = f"{job.name}.more"
    with pytest.raises(TopicError) as refused:
        job.run()
    words = str(refused.value)
    assert f"{job.name}.shown (input) has 2 partitions, {job.name}.more (feedback.clicks) has 3" in words
    assert "rekey: true" in words


def test_a16_feedback_keyed_otherwise_is_refused_within_1000_records(make_job: MakeJob) -> None:
    job = make_job()
    job.publish([Event("shown", T0 + number, f"p{number}") for number in range(2_200)])
    misplaced = [
        Raw(b'{"event": "%d", "id": "p%d", "at": %d}' % (number, number, T0 + number), partition=number % 2)
        for number in range(2_000)
    ]
    job.write("clicked", misplaced)
    with pytest.raises(TopicError) as refused:
        job.run()
    words = str(refused.value)
    assert f"{job.name}.shown is partitioned by the prediction's id, {job.name}.clicked is not" in words
    assert "key both topics by the prediction's id" in words
    assert "rekey: true" in words
    assert job.records == []


# -- A19: coverage ---------------------------------------------------------------------------------


def uncovered(job: OnBroker, **options: object) -> int:
    """Run, and say how many rows were dropped as uncovered."""
    live = job.live_once()
    return int(live.registry.get_sample_value(
        "streamsample_rows_dropped_total", {"target": "clicked", "reason": "uncovered"}
    ) or 0)  # fmt: skip


def test_a19_what_retention_took_of_the_feedback_is_not_silence(make_job: MakeJob) -> None:
    job = make_job(partitions=1)
    job.publish("0s shown a\n30s shown b\n60s shown c\n1s clicked a\n35s clicked x\n61s clicked c")
    job.later(END)
    job.delete_records("clicked", before=1)
    assert uncovered(job) == 2  # b: the first click that is left was at 35 s
    assert job.labels() == {"c": "1 explicit"}


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_a19_start_is_one_event_time_for_all_inputs(make_job: MakeJob, taken: int) -> None:
    job = make_job({"start": "2023-11-14T22:14:00Z"}, partitions=1)  # T0 + 40 s
    timeline = """
        0s   shown    a
        39s  shown    b
        40s  shown    c
        41s  shown    d
        20s  clicked  x
        50s  clicked  c
        52s  clicked  y
    """
    job.publish(timeline)
    job.later(END)
    job.delete_records("clicked", before=taken)
    lost = uncovered(job)
    if taken == 0:
        assert job.labels() == {"c": "1 explicit", "d": "0 implicit"}
        assert lost == 0
    elif taken == 1:  # What was taken may have been of after the start: what is left begins at 50 s.
        assert job.labels() == {"c": "1 explicit"}
        assert lost == 1
    else:
        assert job.labels() == {}
        assert lost == 2


def test_a19_latest_begins_now(make_job: MakeJob) -> None:
    job = make_job({"start": "latest"}, partitions=1)
    job.publish("0s shown a\n1s clicked a")
    with job.live() as live:
        live.wait(lambda: live.worker.ready, "the task")
        job.publish("2s shown b\n3s clicked b")
        live.wait(lambda: live.report.progress.records_in == 2, "the two new ones")
    assert live.registry.get_sample_value("streamsample_before_start_total", {"topic": f"{job.name}.shown"}) == 1
    assert job.run().records_in == 0
    assert job.records == []


# -- Conditions ------------------------------------------------------------------------------------


def test_a4_a5_two_feedbacks_of_one_topic_told_apart_by_where(make_job: MakeJob) -> None:
    job = make_job({"feedback.clicks.where": "kind == 'click'", "input.where": "country != 'XX'"})
    tree = job.tree["feedback"]
    tree["likes"] = {**tree["clicks"], "where": "kind == 'like'"}
    job.tree["targets"]["liked"] = {
        "type": "double",
        "window": "10s",
        "rules": [{"from": "likes", "expression": "stars * 2.0"}],
        "if_silent": 0,
    }
    here, there = ids_of(0, 2), ids_of(1, 2)
    job.publish(
        f"""
        0s  shown    {here[0]} country=IS
        0s  shown    {there[0]} country=IS
        0s  shown    {there[1]} country=XX
        1h  shown    {here[1]} country=XX
        1h  shown    {there[1]} country=XX
        2s  clicked  {here[0]} kind=click
        2s  clicked  {there[0]} kind=like stars=4
        1h  clicked  {here[1]} kind=view
        """
    )  # in partition 1 nobody ever looked later: it follows the other, in which only what is left out came later
    live = job.live_once()
    assert job.labels() == {here[0]: "1 explicit", there[0]: "0 implicit"}
    assert job.labels("liked") == {here[0]: "0.0 implicit", there[0]: "8.0 explicit"}
    assert job.dead == []
    counted = [
        live.registry.get_sample_value("streamsample_filtered_total", {"source": source})
        for source in ("input", "clicks", "likes")
    ]
    assert counted == [3, 2, 2]


# -- A20: nulls ------------------------------------------------------------------------------------


def test_a20_tombstones_are_counted_and_a_compacted_input_is_warned_of(make_job: MakeJob) -> None:
    job = make_job(partitions=1)
    job.tree["feedback"]["clicks"]["topic"] = f"{job.name}.compacted"
    job.make([f"{job.name}.compacted"], cleanup_policy="compact")
    job.publish("0s shown a")
    job.write("shown", [Raw(None, b"a"), Raw(None, b"b")])
    job.write("compacted", [Raw(None, b"a", timestamp=T0), Raw(b'{"event": 1, "id": "z", "at": %d}' % T0, b"z")])
    live = job.live_once()
    counted = [
        live.registry.get_sample_value("streamsample_tombstones_total", {"topic": f"{job.name}.{kind}"})
        for kind in ("shown", "compacted")
    ]
    assert counted == [2, 1]
    assert job.dead == []
    (warning,) = live.cluster.warnings
    assert warning.startswith(f"feedback.clicks: {job.name}.compacted is compacted")
    assert "cleanup.policy=delete" in warning


# -- B7: replay with any number of workers ---------------------------------------------------------


def ids_and_weights(written: list[Placed]) -> list[tuple[str, float, float]]:
    trees = [record.tree for record in written]
    return [(tree["features"]["id"], tree["sampling"]["probability"], tree["weights"]["sampling"]) for tree in trees]


def test_b7_one_two_and_four_workers_draw_the_same_sample(make_job: MakeJob) -> None:
    sample = {"design": "stratified", "by": "country", "rate": 0.2, "rates": {"IS": 1.0, "DE": 0.5}, "seed": 11}
    job = make_job({"sample": sample, "split": {"train": 0.8, "test": 0.2}}, partitions=4)
    countries = ["DE", "FR", "IS", "US", "FR"]
    shown = [Event("shown", T0 + 100 * n, f"p{n}", {"country": countries[n % 5]}) for n in range(500)]
    clicked = [Event("clicked", event.at + 2_000, event.id, {"event": f"c-{event.id}"}) for event in shown[::4]]
    twice = [event for event in shown + clicked if hash_of(event.id) % 10 == 0]
    job.publish(sorted(shown + clicked + twice, key=lambda event: event.at))
    job.later(later("1h", ["shown", "clicked"]))
    wanted: list[Placed] = []
    for workers in (1, 2, 4):
        job.run_workers(workers)
        written = job.written
        assert len(set(ids_and_weights(written))) == len(written)
        wanted = wanted or written
        assert written == wanted, f"{workers} workers"
        job.reset()
    kept = {identity for identity, _, _ in ids_and_weights(wanted)}
    assert {event.id for event in shown if event.more["country"] == "IS"} <= kept
    assert 200 < len(kept) < 320
    assert {tree["sampling"]["probability"] for tree in (record.tree for record in wanted)} == {0.2, 0.5, 1.0}


def hash_of(identity: str) -> int:
    """Any function of the id that Python does not salt."""
    return sum(identity.encode())
