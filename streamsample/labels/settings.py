"""What shapes a label join: its targets, their rules, its times, its limits. Frozen plain values; the job file builds
them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

from streamsample.errors import ConfigurationError

IfSilent: TypeAlias = Literal["value", "null", "drop"]
"""What silence until the close means: a value, a label without a value, or no label at all."""
Take: TypeAlias = Literal["first", "last", "max", "min", "sum", "count"]
"""What several feedback of one rule come to. Order is that of event time, then topic, partition, offset; of equal
values `max` and `min` take the first.
"""
TAKES: tuple[Take, ...] = ("first", "last", "max", "min", "sum", "count")

TARGETS_MAX = 32
USES_MAX = 127
"""Rules of a job, with what undoes them; at most 32 of them read one feedback."""
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
class Undo:
    """A feedback that undoes that of a rule: a refund its order, a return its purchase.

    feedback: index into `JoinSettings.feedback`. named: it names what it undoes by its id; otherwise it undoes all
    that did not happen later. key: what it reads, so that a restored state finds it again.
    """

    feedback: int
    named: bool = True
    key: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """How one feedback labels.

    feedback: index into `JoinSettings.feedback`. window_ms: the feedback window, inclusive. key: what it reads, so that
    a restored state finds it again.
    """

    feedback: int
    window_ms: int
    take: Take = "first"
    undone_by: Undo | None = None
    key: str = ""


@dataclass(frozen=True, slots=True)
class TargetRules:
    """One target and the rules that label it, strongest first.

    silent_bits: the value when `if_silent` is "value", as 8-byte bits (see `bits_of`). is_float: values are float64.
    early: an explicit label is written as soon as it is known.
    """

    name: str
    rules: tuple[Rule, ...]
    if_silent: IfSilent = "null"
    silent_bits: int = 0
    is_float: bool = False
    early: bool = False

    @property
    def window_ms(self) -> int:
        """The largest window of its rules: when it closes."""
        return max(rule.window_ms for rule in self.rules)


@dataclass(frozen=True, slots=True)
class Use:
    """One thing that a feedback is used for: to label a target by a rule, or to undo another use.

    target: index. rule: index of the rule, or of the rule that is undone. key: unique, and the same in every job file
    that means the same. undone_by: the use that undoes this one, -1 for none. undoes: the use that this one undoes, -1
    for a rule. named: as in `Undo`.
    """

    target: int
    rule: int
    feedback: int
    window_ms: int
    key: str
    take: Take = "first"
    undone_by: int = -1
    undoes: int = -1
    named: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """Everything has a limit; what goes beyond is refused and counted as dropped{limit}, never a crash.

    open_rows: predictions not yet settled. waiting: feedback without its prediction yet. matches_per_row: matched
    feedback kept per row and rule; the first by offset are kept, so that the choice does not depend on arrival.
    """

    open_rows: int = 500_000_000
    waiting: int = 20_000_000
    matches_per_row: int = 256


@dataclass(frozen=True)
class JoinSettings:
    """The shape of one label join. Times in ms.

    feedback: the names of the kinds of feedback, in an order that the job fixes. grace_ms: G. skew_ms: how far before
    its prediction a feedback may be dated. late_horizon_ms: how long after the largest window a feedback of a closed
    row is still told from an orphan. sources: where a feedback comes from several topics, each topic's name and the
    index of its feedback; those of one feedback in the order of their names. Empty: each feedback is one source.
    corrections_ms: how long after its target's close feedback still corrects a label. emit_each: a record is written
    whenever a target closes, not only when all have. keeps_lost: feedback that nothing could use is handed back.
    any_order: predictions are of several partitions, told apart by their offsets; they come in any order.
    """

    feedback: tuple[str, ...]
    targets: tuple[TargetRules, ...]
    grace_ms: int = 0
    skew_ms: int = 0
    late_horizon_ms: int = 0
    limits: Limits = field(default_factory=Limits)
    sources: tuple[tuple[str, int], ...] = ()
    corrections_ms: int = 0
    emit_each: bool = False
    keeps_lost: bool = False
    any_order: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.targets) <= TARGETS_MAX:
            raise ConfigurationError(
                f"targets: {len(self.targets)} targets", remedy=f"name between 1 and {TARGETS_MAX} targets"
            )
        for values, key in (([target.name for target in self.targets], "targets"), (list(self.feedback), "feedback")):
            if len(set(values)) != len(values):
                raise ConfigurationError(f"{key}: a name occurs twice in {values}", remedy="give each its own name")
        for target in self.targets:
            if not target.rules:
                raise ConfigurationError(f"targets.{target.name}: no rules", remedy="give it one")
        times = [(f"targets.{target.name}.window", rule.window_ms) for target in self.targets for rule in target.rules]
        times += [("grace", self.grace_ms), ("skew", self.skew_ms), ("late_horizon", self.late_horizon_ms)]
        times += [("corrections", self.corrections_ms)]
        for key, value in times:
            if not 0 <= value <= TIME_MAX // 16:
                raise ConfigurationError(f"{key}: {value} ms", remedy="give a duration of at least 0")
        for key, value in (("open_rows", self.limits.open_rows), ("waiting", self.limits.waiting)):
            if not 1 <= value < 2**31 - 2**20:
                raise ConfigurationError(f"limits.{key}: {value}", remedy="give a count between 1 and 2,000,000,000")
        if self.limits.matches_per_row < 1:
            raise ConfigurationError("limits.matches_per_row: must be at least 1")
        self._check_uses()

    def _check_uses(self) -> None:
        for use in self.uses:
            if not 0 <= use.feedback < len(self.feedback):
                name = self.targets[use.target].name
                raise ConfigurationError(f"targets.{name}: feedback {use.feedback} does not exist")
        most = max(len(self.uses_of(feedback)) for feedback in range(len(self.feedback)))
        if len(self.uses) > USES_MAX or most > 32:
            raise ConfigurationError(
                f"targets: {len(self.uses)} rules, {most} of them on one feedback",
                remedy=f"give at most {USES_MAX} rules, 32 of them on one feedback, or make two jobs",
            )

    @cached_property
    def uses(self) -> tuple[Use, ...]:
        """All that feedback is used for: target by target its rules, strongest first, then what undoes them."""
        uses: list[Use] = []
        taken: dict[str, int] = {}

        def key_of(target: str, kind: str, feedback: int, own: str) -> str:
            name = self.feedback[feedback] if 0 <= feedback < len(self.feedback) else ""
            key = "/".join((target, kind, name, own))
            taken[key] = taken.get(key, 0) + 1
            return key if taken[key] == 1 else f"{key}/{taken[key]}"

        for number, target in enumerate(self.targets):
            first = len(uses)
            undone = [at for at, rule in enumerate(target.rules) if rule.undone_by is not None]
            undo_of = {at: first + len(target.rules) + place for place, at in enumerate(undone)}
            for at, rule in enumerate(target.rules):
                key = key_of(target.name, "label", rule.feedback, rule.key)
                uses.append(Use(number, at, rule.feedback, rule.window_ms, key, rule.take, undo_of.get(at, -1)))
            for at in undone:
                undo = target.rules[at].undone_by
                assert undo is not None
                key = key_of(target.name, "undo", undo.feedback, undo.key)
                uses.append(Use(number, at, undo.feedback, target.window_ms, key, undoes=first + at, named=undo.named))
        return tuple(uses)

    @property
    def source_list(self) -> tuple[tuple[str, int], ...]:
        """Each source's name and the index of its feedback."""
        return self.sources or tuple((name, number) for number, name in enumerate(self.feedback))

    @property
    def window_ms(self) -> int:
        """The largest window."""
        return max(target.window_ms for target in self.targets)

    @property
    def span_ms(self) -> int:
        """How long after a prediction feedback may have an effect on it."""
        return self.window_ms + self.corrections_ms

    @property
    def revises(self) -> bool:
        """Whether a row may give more than one record, or one before its windows are closed."""
        several = len({target.window_ms for target in self.targets}) > 1
        return self.corrections_ms > 0 or any(target.early for target in self.targets) or (self.emit_each and several)

    @property
    def reach_ms(self) -> int:
        """A row is settled when the watermark passes `p.ts + reach_ms`: the largest window and the grace."""
        return self.window_ms + self.grace_ms

    @property
    def hold_ms(self) -> int:
        """How long a settled row is still held. The skew is part of it, because a feedback is classified only when the
        watermark passes `f.ts + skew + G`.
        """
        return max(self.late_horizon_ms, self.corrections_ms) + self.skew_ms

    @property
    def wait_ms(self) -> int:
        """Feedback without a prediction waits until the watermark passes `f.ts + wait_ms`."""
        return self.skew_ms + self.grace_ms

    def uses_of(self, feedback: int) -> tuple[int, ...]:
        """What a feedback is used for (indices into `uses`, ascending)."""
        return tuple(index for index, use in enumerate(self.uses) if use.feedback == feedback)
