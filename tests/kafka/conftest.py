"""Fixtures of the Kafka room's tests."""

from tests.kafka.producing import make

__all__ = ["make"]
