"""Targets and their rules: how feedback labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from streamsample.config.columns import Column, ColumnsSetting, Expression, ExpressionText
from streamsample.config.models import Section
from streamsample.config.problems import KeyPath, Problem, listed, show
from streamsample.config.values import Classes, FieldPath, Flag, IfSilent, Label, LabelValue, Name, PositiveDuration

TargetType = Literal["int", "double", "boolean", "string"]
Take = Literal["first", "last", "max", "min", "sum", "count"]


class UndoneBy(Section):
    """What undoes a rule's feedback: a refund, a return."""

    feedback: Name = Field(alias="from", description="the feedback that undoes, by its name in `feedback`")
    refers_to: ColumnsSetting | None = Field(
        None,
        description="the field or fields that hold the `id` of the feedback undone; default: it undoes all that is not "
        "later",
    )


class Rule(Section):
    """How one feedback labels."""

    feedback: Name = Field(alias="from", description="the feedback, by its name in `feedback`")
    label: Label | None = Field(None, description="the label that the feedback's coming gives: a constant")
    field: FieldPath | None = Field(None, description="the field of the feedback that is the label")
    expression: ExpressionText | None = Field(None, description="an expression over the feedback that is the label")
    window_setting: PositiveDuration | None = Field(
        None, alias="window", description="how long after the prediction it counts; default: the target's window"
    )
    take: Take = Field("first", description="which of several, or what they come to; see below")
    undone_by: UndoneBy | None = Field(None, description="the feedback that undoes it")

    @property
    def column(self) -> Column | None:
        """The field or the expression that is the label; None for a constant, and where they are counted."""
        return Expression(self.expression) if self.expression is not None else self.field

    def problems(self) -> Iterator[Problem]:
        given = [key for key in ("label", "field", "expression") if getattr(self, key) is not None]
        if self.take == "count":
            for key in given:
                yield Problem((key,), "has no meaning with take: count", "remove it", at_key=True)
            return
        if not given:
            yield Problem((), "says no label", "set label: <value>, or field: <field of the feedback>")
        for key in given[1:]:
            yield Problem((key,), f"is given beside {given[0]}", "give one of the two", at_key=True)


class Target(Section):
    """A label to be made."""

    type: TargetType = Field(description="the label's type: 64-bit integer, double, true or false, or one of `classes`")
    classes: Classes = Field((), description="the values that a `string` may have")
    window_setting: PositiveDuration | None = Field(
        None,
        alias="window",
        description="how long after the prediction feedback counts; needed unless each rule has its own",
    )
    rules: tuple[Rule, ...] = Field(description="how feedback labels, the strongest rule first")
    if_silent: IfSilent = Field(
        None,
        description="the label when the window closes without feedback: a value, null, or `drop`: none is written",
    )

    early: Flag = Field(False, description="whether an explicit label is written as soon as it is known")

    @property
    def window_ms(self) -> int:
        """When the target closes: the largest window of its rules."""
        return max(self.windows_ms)

    @property
    def windows_ms(self) -> tuple[int, ...]:
        """Each rule's window."""
        return tuple(rule.window_setting or self.window_setting or 0 for rule in self.rules)

    @property
    def drops_silent(self) -> bool:
        """Whether silence gives no label at all, rather than a value or null."""
        return self.if_silent == "drop"

    @property
    def implicit_label(self) -> LabelValue | None:
        """What silence means, in the target's type; None for null, and where `drops_silent`."""
        return None if self.drops_silent else self._typed(self.if_silent)

    @property
    def constants(self) -> tuple[LabelValue | None, ...]:
        """For each rule its constant label in the target's type, or None if a field or an expression gives it."""
        return tuple(self._typed(rule.label) for rule in self.rules)

    @property
    def codes(self) -> tuple[str, ...]:
        """The texts that values stand for by number: the classes, or those of false and true; empty for numbers."""
        return ("false", "true") if self.type == "boolean" else self.classes

    def _typed(self, value: LabelValue | None) -> LabelValue | None:
        return float(value) if value is not None and self.type == "double" else value

    def problems(self) -> Iterator[Problem]:
        if not self.rules:
            yield Problem(("rules",), "is an empty list", "[{from: <feedback>, label: 1}]")
        if (self.type == "string") != bool(self.classes):
            what = "a string needs its classes" if self.type == "string" else f"has no meaning for {self.type}"
            yield Problem(("classes",) if self.classes else (), what, "classes: [yes, no] and type: string go together")
            return
        if not self.drops_silent:
            yield from self._value_problems(("if_silent",), self.if_silent)
        for index, rule in enumerate(self.rules):
            yield from self._value_problems(("rules", index, "label"), rule.label)
            if self.window_setting is None and rule.window_setting is None:
                yield Problem(("rules", index), "has no window", "give one to the target, or to each of its rules")
            if self.type in ("string", "boolean") and rule.take not in ("first", "last"):
                yield Problem(("rules", index, "take"), f"cannot be {rule.take} for {self.type}", "first, or last")

    def _value_problems(self, path: KeyPath, value: LabelValue | None) -> Iterator[Problem]:
        """A value must be of the target's type."""
        found = f"found {show(value)}"
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is None:
            return
        if self.type == "boolean" and not isinstance(value, bool):
            yield Problem(path, f"must be true or false, {found}")
        elif self.type == "string" and value not in self.classes:
            yield Problem(path, f"must be {listed(self.classes)}, {found}", "classes names all values")
        elif self.type in ("int", "double") and not number:
            yield Problem(path, f"must be a number, {found}", "or another type: boolean, string")
        elif self.type == "int" and isinstance(value, float):
            yield Problem(path, f"must be a whole number, {found}", "or type: double")
