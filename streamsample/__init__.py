"""streamsample makes training data from Kafka event streams.

The way of the data, and the room that does each part:

    Kafka ─▶ kafka      a fetch becomes columns                      (records.RecordBatch)
          ─▶ formats    the fields that the job names become arrays
          ─▶ sampling   which predictions are kept, and with what probability
          ─▶ labels     predictions wait for their feedback until their windows close
          ─▶ formats    training records, features spliced in
          ─▶ kafka      one transaction: records, dead letters, state, positions ─▶ Kafka

`runtime` drives it, `testing` plays timelines to it without Kafka, `config` reads the job file, `expressions` computes
what it says in CEL, `cli` is the command line.
"""

__version__ = "0.1.0"
