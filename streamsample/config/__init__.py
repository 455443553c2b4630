"""The job file: read, checked, and turned into frozen models.

load_job("configs/shop.yaml") -> Job, or a ConfigurationError with file:line:column, key and remedy of everything wrong
"""

from streamsample.config.job import Job
from streamsample.config.keys import walk
from streamsample.config.load import load_job, parse_job
from streamsample.config.models import (
    Changelog,
    DeadLetters,
    Features,
    Feedback,
    Input,
    Kafka,
    Limits,
    Metrics,
    Output,
    Section,
    Source,
    Split,
    State,
    Time,
)
from streamsample.config.reference import json_schema
from streamsample.config.sample import Sample
from streamsample.config.targets import Rule, Target, UndoneBy
from streamsample.config.values import SchemaFile

__all__ = [
    "Changelog",
    "DeadLetters",
    "Features",
    "Feedback",
    "Input",
    "Job",
    "Kafka",
    "Limits",
    "Metrics",
    "Output",
    "Rule",
    "Sample",
    "SchemaFile",
    "Section",
    "Source",
    "Split",
    "State",
    "Target",
    "Time",
    "UndoneBy",
    "json_schema",
    "load_job",
    "parse_job",
    "walk",
]
