"""`streamsample demo`: a year of New York flights through a real Kafka, checked against the dataset it came from.

flights.py     the dataset, as departures and landings
publisher.py   writes them to Kafka, a day at a time, while the job runs
expectation.py what must come out, by definition
written.py     what did come out, read back from Kafka
screen.py      how it looks
run.py         one after the other
"""

from streamsample.demo.run import run_demo

__all__ = ["run_demo"]
