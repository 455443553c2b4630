"""Whether a job's output is right: a wrong answer has no speed."""

from __future__ import annotations

import os
from pathlib import Path


def read_labels(servers: str, topic: str, job_file: str) -> dict[str, int]:
    """Read training records with one target `clicked` of 0 or 1: how many, of how many ids, how many clicked."""
    import numpy as np

    from benchmarks.data import PARTITIONS
    from streamsample.config import load_job
    from streamsample.formats.avro import AvroProjector
    from streamsample.formats.projection import Field
    from streamsample.formats.training_avro import AvroTrainingEncoder
    from streamsample.hashing import hash64
    from streamsample.kafka.consumer import ColumnarConsumer
    from streamsample.records import TopicPartition
    from streamsample.runtime.plan import plan_of

    encoder = plan_of(load_job(Path(job_file), os.environ)).encoder
    assert isinstance(encoder, AvroTrainingEncoder)
    [schema] = encoder.schemas
    label = Field("targets.clicked.value", "integer")
    projector = AvroProjector({None: schema}, [label])
    hashes, records, explicit = [], 0, 0
    with ColumnarConsumer({"bootstrap_servers": servers}) as consumer:
        sources = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        ends = consumer.end_offsets(sources)
        consumer.assign(sources)
        for each in sources:
            consumer.seek(each, 0)
        while any((consumer.position(each) or 0) < ends[each] for each in sources):
            for batch in consumer.poll(100):
                found = projector.project(batch.values)
                assert bool(found.ok.all()), f"{topic}: a training record does not decode"
                explicit += int(found.integer(label.path).values.sum())
                hashes.append(hash64(batch.keys, 0))
                records += len(batch)
    return {"records": records, "ids": len(np.unique(np.concatenate(hashes))), "explicit": explicit}
