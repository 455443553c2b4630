"""What shapes a label join: its targets, its times, its limits. Frozen plain values; the job file builds them."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from streamsample.errors import ConfigurationError

IfSilent: TypeAlias = Literal["value", "null", "drop"]
"""What silence until the close means: a value, a label without a value, or no label at all."""

TARGETS_MAX = 32
ID_BYTES_MAX = 4096
"""An id longer than this is refused (`dropped{limit}`): it is damage, not an id."""
TIME_MAX = 2**60
"""Event times lie within +-TIME_MAX ms, so that no sum or difference of times and windows overflows."""


def bits_of(value: float | int) -> int:
    """The 8 bytes that carry a value, as an int64: a float's IEEE 754 bits, an int as it is."""
    if isinstance(value, float):
        return int(struct.unpack("<q", struct.pack("<d", value))[0])
    return int(value)


@dataclass(frozen=True, slots=True)
class TargetRule:
    """One target and the rule that labels it.

    feedback: index into `JoinSettings.feedback`. window_ms: the feedback window W, inclusive. silent_bits: the value
    when `if_silent` is "value", as 8-byte bits (see `bits_of`).
    """

    name: str
    window_ms: int
    feedback: int
    if_silent: IfSilent = "null"
    silent_bits: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """Everything has a limit; what goes beyond is refused and counted as dropped{limit}, never a crash.

    open_rows: predictions not yet settled. waiting: feedback without its prediction yet. matches_per_row: matched
    feedback kept per row and target; the first by offset are kept, so that the choice does not depend on arrival.
    """

    open_rows: int = 500_000_000
    waiting: int = 20_000_000
    matches_per_row: int = 256


@dataclass(frozen=True, slots=True)
class JoinSettings:
    """The shape of one label join. Times in ms.

    feedback: the names of the feedback sources, in an order that the job fixes. grace_ms: G. skew_ms: how far before
    its prediction a feedback may be dated. late_horizon_ms: how long after the largest window a feedback of a closed
    row is still told from an orphan.
    """

    feedback: tuple[str, ...]
    targets: tuple[TargetRule, ...]
    grace_ms: int = 0
    skew_ms: int = 0
    late_horizon_ms: int = 0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 1 <= len(self.targets) <= TARGETS_MAX:
            raise ConfigurationError(
                f"targets: {len(self.targets)} targets", remedy=f"name between 1 and {TARGETS_MAX} targets"
            )
        for values, key in (([target.name for target in self.targets], "targets"), (list(self.feedback), "feedback")):
            if len(set(values)) != len(values):
                raise ConfigurationError(f"{key}: a name occurs twice in {values}", remedy="give each its own name")
        for target in self.targets:
            if not 0 <= target.feedback < len(self.feedback):
                raise ConfigurationError(f"targets.{target.name}: feedback {target.feedback} does not exist")
        times = {f"targets.{target.name}.window": target.window_ms for target in self.targets}
        times |= {"grace": self.grace_ms, "skew": self.skew_ms, "late_horizon": self.late_horizon_ms}
        for key, value in times.items():
            if not 0 <= value <= TIME_MAX // 16:
                raise ConfigurationError(f"{key}: {value} ms", remedy="give a duration of at least 0")
        for key, value in (("open_rows", self.limits.open_rows), ("waiting", self.limits.waiting)):
            if not 1 <= value < 2**31 - 2**20:
                raise ConfigurationError(f"limits.{key}: {value}", remedy="give a count between 1 and 2,000,000,000")
        if self.limits.matches_per_row < 1:
            raise ConfigurationError("limits.matches_per_row: must be at least 1")

    @property
    def window_ms(self) -> int:
        """The largest window."""
        return max(target.window_ms for target in self.targets)

    @property
    def reach_ms(self) -> int:
        """A row is settled when the watermark passes `p.ts + reach_ms`: the largest window and the grace."""
        return self.window_ms + self.grace_ms

    @property
    def hold_ms(self) -> int:
        """How long a settled row is still held. The skew is part of it, because a feedback is classified only when the
        watermark passes `f.ts + skew + G`.
        """
        return self.late_horizon_ms + self.skew_ms

    @property
    def wait_ms(self) -> int:
        """Feedback without a prediction waits until the watermark passes `f.ts + wait_ms`."""
        return self.skew_ms + self.grace_ms

    def rules_of(self, source: int) -> tuple[int, ...]:
        """The targets (indices, ascending) that feedback `source` labels."""
        return tuple(index for index, target in enumerate(self.targets) if target.feedback == source)
