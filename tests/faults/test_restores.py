"""What a restore meets on a real broker: open transactions, large chunks, gaps, damage, other jobs, other windows."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewPartitions
from typer.testing import CliRunner

from streamsample.cli import app
from streamsample.errors import ChangelogGapError, StateError, TopicError
from streamsample.kafka.changelog import ChangelogPosition, pack_chunk
from streamsample.kafka.topics import TopicAdmin
from streamsample.records import TopicPartition
from streamsample.runtime import state, trimming
from tests.conftest import Broker
from tests.faults.conftest import MakeScene
from tests.faults.harness import Scene, until
from tests.faults.workload import START_MS, Event, Workload


@pytest.fixture
def scene(broker: Broker, make_scene: MakeScene) -> Scene:
    """A job that has committed some state and has more to read."""
    made = make_scene(Workload.make(21, predictions=400))
    made.publish(START_MS + 60_000)
    made.catch_up_here()
    return made


def admin_of(scene: Scene) -> TopicAdmin:
    return TopicAdmin({"bootstrap_servers": scene.servers})


def first_offset(scene: Scene, partition: int) -> int:
    admin = admin_of(scene)
    try:
        source = TopicPartition(scene.changelog, partition)
        return admin.earliest([source])[source]
    finally:
        admin.close()


def open_on_changelog(scene: Scene) -> Any:
    """A zombie's transaction on every partition of the changelog, left open."""
    zombie = KafkaProducer(
        bootstrap_servers=scene.servers, transactional_id=f"{scene.name}.zombie", transaction_timeout_ms=120_000
    )
    zombie.init_transactions()
    zombie.begin_transaction()
    for partition in range(scene.workload.partitions):
        zombie.send(scene.changelog, next(pack_chunk(999, [b"never"], 100_000)), partition=partition)
    zombie.flush(timeout=30)
    return zombie


# -- open transactions ----------------------------------------------------------------------------


def test_a_restore_waits_behind_an_open_transaction(scene: Scene) -> None:
    """The last chunk is committed, but hidden while a zombie's transaction is open before it."""
    zombie = open_on_changelog(scene)
    try:
        scene.publish(START_MS + 70_000)
        scene.catch_up_here()
        scene.publish()
        worker = scene.start("--until-caught-up")
        until(lambda: worker.metric("tasks") == scene.workload.partitions, lambda: worker.log)
        assert not threading.Event().wait(3)
        assert worker.running
        assert not worker.ready
        assert worker.metric("records_in_total") == 0
        zombie.abort_transaction()
    finally:
        zombie.close()
    worker.ends_well()
    scene.check()


def test_a_first_start_is_not_held_up_by_what_was_aborted(broker: Broker, make_scene: MakeScene) -> None:
    """A worker died before its first commit: there are chunks in the changelog, but none was committed."""
    scene = make_scene(Workload.make(22, predictions=100), changelog={"max.message.bytes": "1000000"})
    zombie = open_on_changelog(scene)
    zombie.abort_transaction()
    zombie.close()
    scene.publish()
    scene.catch_up_here()
    scene.check()


# -- the changelog as it should not be ------------------------------------------------------------


def test_a_chunk_of_many_messages(broker: Broker, make_scene: MakeScene) -> None:
    scene = make_scene(
        Workload.make(23, predictions=600), commit_interval="5s", changelog={"max.message.bytes": "2500"}
    )
    scene.publish(START_MS + 100_000)
    scene.catch_up_here()
    for partition in range(scene.workload.partitions):
        chunks = scene.chunks(partition)
        assert max(chunk.size_bytes for chunk in chunks) > 2 * 2_500
    scene.publish()
    scene.catch_up_here()
    scene.check()


def test_a_gap_is_told_and_reset_is_the_remedy(scene: Scene) -> None:
    admin = admin_of(scene)
    source = TopicPartition(scene.changelog, 1)
    admin.delete_records(source, admin.latest([source])[source])
    admin.close()
    scene.publish()
    with pytest.raises(
        ChangelogGapError, match=rf"{scene.changelog}/1@\d+: .*no longer begins.*streamsample reset JOB"
    ):
        scene.catch_up_here()
    before = scene.records()
    done = CliRunner().invoke(app, ["reset", str(scene.job_file), "--yes"])
    assert done.exit_code == 0, done.output
    scene.catch_up_here()
    expected = scene.workload.expected(scene.topics, scene.name, scene.job.version)
    assert scene.records() == before + expected.records  # what is read again is written again: reset says so


def _next_chunk(scene: Scene, partition: int, damage: Any) -> None:
    """Commit a chunk of our own, damaged, as the last one of a task."""
    source = TopicPartition(scene.topics["predictions"], partition)
    chunks, committed = scene.chunks(partition), scene.committed()
    position = ChangelogPosition.parse(committed[source][1], source)
    assert position is not None
    value = damage(next(pack_chunk(position.last + 1, [chunks[-1].body], 1_000_000)))
    producer = KafkaProducer(bootstrap_servers=scene.servers, transactional_id=f"{scene.name}.damage")
    try:
        producer.init_transactions()
        producer.begin_transaction()
        producer.send(scene.changelog, value, partition=partition).get(timeout=30)
        new = ChangelogPosition(position.last + 1, position.first, position.offset)
        producer.send_offsets_to_transaction(_offsets(committed, partition, str(new)), scene.name)
        producer.commit_transaction()
    finally:
        producer.close()


def _offsets(committed: dict[TopicPartition, tuple[int, str]], partition: int, metadata: str) -> dict[Any, Any]:
    from kafka.structs import OffsetAndMetadata
    from kafka.structs import TopicPartition as KafkaTopicPartition

    return {
        KafkaTopicPartition(*source): OffsetAndMetadata(offset, metadata, -1)
        for source, (offset, _) in committed.items()
        if source.partition == partition
    }


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda value: value[:60] + bytes([value[60] ^ 0xFF]) + value[61:], "is damaged|cannot be read"),
        (lambda value: value[:-7], "is damaged"),
        (lambda value: b"XXXX" + value[4:], "not a part of a changelog chunk"),
        (lambda value: b"", "not a part of a changelog chunk"),
    ],
    ids=["flipped", "cut", "foreign", "empty"],
)
def test_a_damaged_chunk_is_told(scene: Scene, damage: Any, words: str) -> None:
    _next_chunk(scene, 2, damage)
    with pytest.raises(StateError, match=rf"{scene.changelog}/2@\d+: .*({words}).*streamsample reset JOB"):
        scene.catch_up_here()


# -- another job ----------------------------------------------------------------------------------


def test_another_shape_is_refused(scene: Scene) -> None:
    text = scene.job_file.read_text()
    scene.job_file.write_text(text.replace("id: order_id", "id: id"))
    with pytest.raises(StateError, match=r"another shape; changed since: feedback\.orders .*streamsample reset JOB"):
        scene.catch_up_here()
    scene.job_file.write_text(text)
    scene.publish()
    scene.catch_up_here()
    scene.check()


def test_a_partition_count_that_grew_is_refused(scene: Scene) -> None:
    admin = KafkaAdminClient(bootstrap_servers=scene.servers)
    try:
        admin.create_partitions({topic: NewPartitions(4) for topic in scene.topics.values()})
        with pytest.raises(TopicError, match=rf"topic {scene.changelog} has 3 partitions, 4 are needed - .*reset"):
            scene.catch_up_here()
        admin.create_partitions({scene.changelog: NewPartitions(4)})  # what somebody may try next
        with pytest.raises(StateError, match=r"made with 3 partitions, the input has 4 now.*streamsample reset JOB"):
            scene.catch_up_here()
    finally:
        admin.close()


def test_a_lost_group_is_not_begun_again(scene: Scene) -> None:
    before = scene.records()
    admin = admin_of(scene)
    admin.delete_group(scene.name)
    admin.close()
    with pytest.raises(StateError, match=rf"{scene.changelog}/\d: .*group {scene.name} has no position.*reset JOB"):
        scene.catch_up_here()
    assert scene.records() == before


def test_positions_moved_by_hand_are_refused(scene: Scene) -> None:
    from kafka.structs import OffsetAndMetadata

    admin = KafkaAdminClient(bootstrap_servers=scene.servers)
    committed = scene.committed()
    try:
        moved = _offsets(committed, 0, committed[TopicPartition(scene.topics["predictions"], 0)][1])
        admin.alter_group_offsets(
            scene.name, {source: OffsetAndMetadata(at.offset - 1, at.metadata, -1) for source, at in moved.items()}
        )
        with pytest.raises(StateError, match=r"the group's offsets were moved by hand"):
            scene.catch_up_here()
        admin.alter_group_offsets(scene.name, {source: OffsetAndMetadata(0, "", -1) for source in moved})
        with pytest.raises(StateError, match=r"has a position here, but none that names a changelog"):
            scene.catch_up_here()
    finally:
        admin.close()


def test_a_longer_window_reuses_the_state_and_keeps_it(broker: Broker, make_scene: MakeScene) -> None:
    """An order 70 s after its prediction: outside of the window of 45 s, inside of the new one of 90 s."""
    scene = make_scene(Workload("json", 1))
    scene.send([_prediction("long", 0)])
    _pass_time(scene, 10_000)
    scene.catch_up_here()
    scene.windows["revenue"] = "90s"
    scene.write_job()
    scene.send([_order("long", 70_000)])
    for end in (65_000, 75_000, 85_000, 91_000, 92_000):  # a chunk would not be needed from 58 s on, by the old window
        _pass_time(scene, end)
        scene.catch_up_here()
    assert not [value for _, key, _, value in scene.records() if key == b"long"]
    _pass_time(scene, 94_000)
    scene.catch_up_here()
    (value,) = [value for _, key, _, value in scene.records() if key == b"long"]
    assert '"revenue":{"value":1.0,"kind":"orders","source":"explicit"' in value


def _pass_time(scene: Scene, ms: int) -> None:
    scene.send([_prediction(f"time{ms}", ms), _order(f"time{ms}", ms), _click(f"time{ms}", ms)])


def _prediction(id_: str, ms: int) -> Event:
    ts = START_MS + ms
    return Event("predictions", ts, id_, f'{{"id":"{id_}","ts":{ts},"score":1.0,"note":""}}'.encode(), ts)


def _order(id_: str, ms: int) -> Event:
    ts = START_MS + ms
    value = f'{{"id":"{id_}","ts":{ts},"order_id":"o{ms}","amount":1.0}}'.encode()
    return Event("orders", ts, id_, value, ts, f"o{ms}", 4)


def _click(id_: str, ms: int) -> Event:
    ts = START_MS + ms
    return Event("clicks", ts, id_, f'{{"id":"{id_}","ts":{ts},"click_id":"c{ms}"}}'.encode(), ts, f"c{ms}")


# -- the length of the log ------------------------------------------------------------------------


def test_what_is_not_needed_any_more_is_deleted(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trimming, "_TRIM_MS", 0)
    before = [first_offset(scene, partition) for partition in range(scene.workload.partitions)]
    scene.publish()
    for _ in range(2):
        scene.catch_up_here()
    _flow_on(scene, 3)
    for partition, offset in enumerate(before):
        until(lambda p=partition, o=offset: first_offset(scene, p) > o, "records of the changelog are deleted")  # type: ignore[misc]
    scene.catch_up_here()
    scene.check()


def _flow_on(scene: Scene, times: int) -> None:
    """More of the same, later, run by run."""
    for number in range(times):
        shift = (number + 1) * 200_000
        scene.workload.events += [
            make(f"flow{number}-{k}", shift + 100 * k) for k in range(60) for make in (_prediction, _click, _order)
        ]
        scene.publish()
        scene.catch_up_here()


def test_long_lived_rows_do_not_keep_the_log_alive(
    broker: Broker, make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows dated a day ahead stay open; all others come and go. Each run restores what the one before has left."""
    monkeypatch.setattr(state.ChunkLog, "_SLACK", 50)
    scene = make_scene(Workload("json", 1), job_extra="max_ahead: 2d")
    scene.send([_prediction(f"day{number}", 86_400_000 + number) for number in range(40)])
    sizes = []
    for number in range(12):
        _flow_once(scene, number)
        scene.catch_up_here()
        deltas = [state.decode_body(c, TopicPartition(scene.changelog, 0)) for c in scene.chunks(0)]
        sizes.append(sum(_elements(body) for body in deltas))
    assert scene.chunks(0)[0].sequence > 0
    live = 40 + 3 * 180  # 180 elements in 30 s; a row is held for 58 s, and time lags behind
    assert max(sizes) <= 2 * live + 50 + 180 < 12 * 180
    scene.check()


def _flow_once(scene: Scene, number: int) -> None:
    shift = (number + 1) * 30_000
    for k in range(60):
        id_ = f"flow{number}-{k}"
        scene.workload.events += [make(id_, shift + 300 * k) for make in (_prediction, _click, _order)]
    scene.publish()


def _elements(body: state.ChunkBody) -> int:
    from streamsample.labels import decode_delta

    delta = decode_delta(body.step)
    return len(delta.rows.offset) + len(delta.matches.offset) + len(delta.waiting.offset)


def test_several_restore_at_once(scene: Scene) -> None:
    """Two workers that begin together share the tasks and restore each its own."""
    scene.publish()
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(scene.catch_up_here) for _ in range(2)]:
            done.result()
    scene.check()
