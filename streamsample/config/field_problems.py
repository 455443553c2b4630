"""Whether the fields and expressions that a job names are right: in the Avro schemas, with types that serve."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from streamsample.config.avro_fields import AvroFields, Use, schema_problems
from streamsample.config.columns import Bins, Columns, Each, Expression, StratumColumn
from streamsample.config.models import Feedback, Input, Source
from streamsample.config.problems import KeyPath, Problem, Wrong
from streamsample.config.slates import exploded, position_of
from streamsample.config.values import SchemaFile

if TYPE_CHECKING:
    from streamsample.config.job import Job
    from streamsample.expressions import Checked, Type

_TEXT: Final[tuple[Type, ...]] = ("string", "int", "bool", "bytes")
_WANTED: Final[dict[Use, tuple[Type, ...]]] = {
    "identity": _TEXT,
    "stratum": _TEXT,
    "time": ("int",),
    "iso8601": ("string",),
    "int": ("int",),
    "double": ("double", "int"),
    "boolean": ("bool",),
    "string": _TEXT,
}


class SourceFields:
    """The fields of a source's records as its expressions see them: see `expressions.Fields`."""

    def __init__(self, source: Source) -> None:
        self._schemas = [_fields_of(source, schema) for schema in source.schemas.values()]
        explode = source.explode if isinstance(source, Input) else None
        self._position = None if explode is None else position_of(explode)

    def type_of(self, path: str) -> Type | None:
        """The type that all schemas give the field; None for JSON, which has no schema. Raises FieldError."""
        from streamsample.expressions import FieldError

        if path == self._position:
            return "int"
        found: set[Type] = set()
        for schema in self._schemas:
            try:
                found.add(schema.type_of(path))
            except Wrong as wrong:
                raise FieldError(wrong.what, wrong.remedy) from None
        if found == {"int", "double"}:
            return "double"
        if len(found) > 1:
            raise FieldError(f"{path} is {' here and '.join(sorted(found))} there", "schemas must agree on its type")
        return next(iter(found), None)


def _fields_of(source: Source, schema: SchemaFile) -> AvroFields:
    """The fields of a schema as the job sees them. Raises Wrong where a list cannot be exploded."""
    label = str(schema.path.name)
    if isinstance(source, Input) and source.explode is not None:
        return AvroFields(exploded(schema.parsed, source.explode, label), label)
    return AvroFields(schema.parsed, label)


def checked_expression(source: Source, text: str, use: Use | None) -> Checked:
    """The expression `text` over records of `source`, for a use; None: as a condition. Raises ExpressionError."""
    # Imported here: most jobs have no expressions, and need neither their package nor its kernels.
    from streamsample.expressions import check
    from streamsample.expressions.compiled import Compiled

    checked = check(text, SourceFields(source), ("bool",) if use is None else _WANTED[use])
    Compiled(checked)  # Raises for what cannot be computed.
    return checked


class _SourceChecks:
    """What is wrong with the settings of one source."""

    def __init__(self, source: Source, schemas: list[AvroFields]) -> None:
        self._source = source
        self._schemas = schemas

    def field(self, field: str, path: KeyPath, use: Use, unit: str | None = None) -> Iterator[Problem]:
        for schema in self._schemas:
            yield from schema.check(field, path, use, unit)

    def expression(self, text: str, path: KeyPath, use: Use | None) -> Iterator[Problem]:
        from streamsample.expressions import ExpressionError

        try:
            checked_expression(self._source, text, use)
        except ExpressionError as error:
            later = error.what.startswith("not yet: ")
            yield Problem(path, error.what, error.remedy, at=error.at, excerpt=error.excerpt, not_yet=later)

    def columns(self, columns: Columns | None, path: KeyPath, use: Use, unit: str | None = None) -> Iterator[Problem]:
        """Of one column or several."""
        several = isinstance(columns, tuple)
        for index, column in enumerate(columns if isinstance(columns, tuple) else (columns,)):
            at = (*path, index) if several else path
            if isinstance(column, Expression):
                yield from self.expression(column.text, _inside(at, "expression"), use)
            elif column is not None:
                yield from self.field(column, at, use, unit)

    def strata(self, by: tuple[StratumColumn, ...], path: KeyPath) -> Iterator[Problem]:
        for index, column in enumerate(by):
            at = (*path, index) if len(by) > 1 else path
            if isinstance(column, Bins):
                key = "field" if isinstance(column.of, str) else "expression"
                if isinstance(column.of, Expression):
                    yield from self.expression(column.of.text, (*at, key), "double")
                else:
                    yield from self.field(column.of, (*at, key), "double")
            elif isinstance(column, Each):
                yield from self.field(column.field, (*at, "each"), "items")
            else:
                yield from self.columns(column, at, "stratum")


def _inside(path: KeyPath, key: str) -> KeyPath:
    """Settings that are mappings of one key point at its value; sections have it in their path already."""
    return path if path[-1:] == (key,) else (*path, key)


def field_problems(job: Job) -> Iterator[Problem]:
    """What is wrong with the fields and expressions of every source."""
    for path, source in _source_paths(job):
        schemas = []
        for number, schema in source.schemas.items():
            key: KeyPath = ("schema_file",) if source.schema_file else ("schema_files", str(number))
            if number is None and not source.schema_file:
                key = ("schema_files", *[str(known) for known in source.schema_files])
            found = list(schema_problems(schema.parsed, path + key))
            yield from found
            try:
                schemas += [] if found else [_fields_of(source, schema)]
            except Wrong as wrong:
                later = wrong.what.startswith("not yet: ")
                yield Problem((*path, "explode"), wrong.what, wrong.remedy, not_yet=later)
        if len(schemas) < len(source.schemas):
            continue
        checks = _SourceChecks(source, schemas)
        yield from _source_fields(source, path, checks)
        if path == ("input",):
            yield from _input_fields(job, schemas, checks)
        else:
            yield from _label_fields(job, str(path[1]), checks)


def _source_paths(job: Job) -> Iterator[tuple[KeyPath, Source]]:
    yield ("input",), job.input
    for name, feedback in job.feedback.items():
        yield ("feedback", name), feedback


def _source_fields(source: Source, path: KeyPath, checks: _SourceChecks) -> Iterator[Problem]:
    if source.where is not None:
        yield from checks.expression(source.where, (*path, "where"), None)
    yield from checks.columns(source.id, (*path, "id"), "identity")
    if isinstance(source, Feedback):
        yield from checks.columns(source.refers_to, (*path, "refers_to"), "identity")
    if source.time is not None:
        use: Use = "iso8601" if source.time.unit == "iso8601" else "time"
        key = "field" if source.time.field is not None else "expression"
        yield from checks.columns(source.time.column, (*path, "time", key), use, source.time.unit)


def _input_fields(job: Job, schemas: list[AvroFields], checks: _SourceChecks) -> Iterator[Problem]:
    for path, sample in job.designs:
        yield from checks.strata(sample.by or (), (*path, "by"))
        yield from checks.columns(sample.unit, (*path, "unit"), "identity")
        yield from checks.columns(sample.weight, (*path, "weight"), "double")
        if sample.rule is not None:
            yield from checks.expression(sample.rule, (*path, "rule"), None)
        for key in ("of", "target", "proposal"):
            yield from checks.columns(getattr(sample, key), (*path, key), "double")
        yield from checks.columns(sample.from_, (*path, "from"), "identity")
        yield from checks.columns(sample.to, (*path, "to"), "identity")
    if job.split is not None:
        yield from checks.columns(job.split.by, ("split", "by"), "identity")
    if job.features is not None:
        key = "keep" if job.features.keep else "drop"
        for index, name in enumerate(job.features.keep or job.features.drop or ()):
            yield from checks.field(name, ("features", key, index), "any")
        for fields in schemas:
            if job.features.drop and set(fields.names) <= set(job.features.drop):
                yield Problem(("features", "drop"), "drops every field", "keep one at least")


def _label_fields(job: Job, feedback: str, checks: _SourceChecks) -> Iterator[Problem]:
    for name, target in job.targets.items():
        for index, rule in enumerate(target.rules):
            path: KeyPath = ("targets", name, "rules", index)
            if rule.feedback == feedback:
                key = "field" if rule.field is not None else "expression"
                yield from checks.columns(rule.column, (*path, key), target.type)
            undo = rule.undone_by
            if undo is not None and undo.feedback == feedback:
                yield from checks.columns(undo.refers_to, (*path, "undone_by", "refers_to"), "identity")
