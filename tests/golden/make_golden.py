"""Make the golden fetches anew: what a real broker stores when the Java producer and a transactional one write.

    python -m tests.golden.make_golden

`<name>.bin` is a record set as a fetch returns it; `golden.json` says of each: the fetch offset, the aborted
transactions, and the records and next position that kafka-python's own decoder reads.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from streamsample.kafka.broker import LocalBroker
from streamsample.kafka.java import java_classpath, java_executable
from streamsample.kafka.wire_decode import AbortedTransaction, FetchedBatches
from streamsample.records import TopicPartition
from tests.conftest import create_topic
from tests.kafka.batches import Record, read_by_library
from tests.kafka.consuming import producer, reading, send, some

FOLDER = Path(__file__).parent


def java_writes(servers: str, topic: str, codec: str, payloads: Path) -> None:
    java = [str(java_executable()), "-cp", java_classpath("org.apache.kafka:kafka-tools:4.3.1")]
    tool = ["org.apache.kafka.tools.ProducerPerformance", "--topic", topic, "--num-records", "60", "--throughput", "-1"]
    config = [f"bootstrap.servers={servers}", f"compression.type={codec}", "linger.ms=50", "batch.size=2000"]
    subprocess.run(
        [*java, *tool, "--payload-file", str(payloads), "--producer-props", *config],
        check=True,
        capture_output=True,
    )


def transactions(servers: str, topic: str) -> None:
    with producer(servers, transactional_id=topic) as made:
        made.init_transactions()
        for turn in range(4):
            made.begin_transaction()
            send(made, topic, some(6, f"turn {turn}"))
            made.flush()
            if turn in (1, 2):
                made.abort_transaction()
            else:
                made.commit_transaction()


def fetch(servers: str, topic: str, offset: int) -> tuple[bytes, list[AbortedTransaction]]:
    part = TopicPartition(topic, 0)
    with reading(servers, part) as consumer:
        fetched: FetchedBatches = consumer._library.fetch_once(part, offset, 30_000)
        return bytes(fetched._view), list(fetched._aborted)


def written(record: Record) -> list[Any]:
    """A record as JSON holds it; all the bytes here are text."""
    texts = [None if each is None else each.decode() for each in (record.key, record.value)]
    return [record.offset, record.timestamp, *texts, [[key, (value or b"").decode()] for key, value in record.headers]]


def main() -> None:
    told: dict[str, Any] = {}
    with LocalBroker() as broker, tempfile.TemporaryDirectory() as folder:
        servers = broker.bootstrap_servers
        payloads = Path(folder) / "payloads"
        payloads.write_bytes(b"\n".join(b"payload %d " % number * (number % 5 + 1) for number in range(40)))
        names = ["none", "gzip", "snappy", "lz4", "zstd"]
        for name in names:
            topic = create_topic(servers, f"java-{name}", 1)
            java_writes(servers, topic, name, payloads)
        # Records of old times among markers of today would begin a segment each, and a fetch ends with its segment.
        transactions(servers, create_topic(servers, "transactions", 1, {"segment.ms": str(10**12)}))
        appended = create_topic(servers, "log-append-time", 1, {"message.timestamp.type": "LogAppendTime"})
        with producer(servers, compression_type="lz4", linger_ms=50) as made:
            send(made, appended, some(20))
            made.flush()
        for topic, offset in [*((f"java-{name}", 7) for name in names), ("transactions", 0), (appended, 3)]:
            data, aborted = fetch(servers, topic, offset)
            records, next_offset = read_by_library(data, offset, aborted)
            (FOLDER / f"{topic}.bin").write_bytes(data)
            told[topic] = {
                "fetch_offset": offset,
                "aborted": aborted,
                "next_offset": next_offset,
                "records": [written(record) for record in records],
            }
    (FOLDER / "golden.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
