"""What a task hands to its worker."""

from __future__ import annotations

from dataclasses import dataclass, field

from streamsample.records import Int64s
from streamsample.runtime.audit import Audit
from streamsample.runtime.exchange import Message
from streamsample.runtime.source import Rejected
from streamsample.runtime.training import Encoded


@dataclass(slots=True)
class Output:
    """What a task has to write since it was last asked. aside: feedback that no label could use, and where it goes.
    delays: by target, the feedback loop lengths of explicit labels, ms. messages: to other tasks. audit: of what was
    sampled.
    """

    records: list[Encoded] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    aside: list[tuple[str, Rejected]] = field(default_factory=list)
    delays: list[tuple[str, Int64s]] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    audit: Audit = field(default_factory=Audit)
