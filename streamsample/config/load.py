"""From a file to a job, or to one error that names everything that is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from operator import getitem
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from streamsample.config.document import Document, read_document, read_text
from streamsample.config.job import NEEDS, Job
from streamsample.config.keys import elsewhere, known_keys, yaml_key
from streamsample.config.models import Section
from streamsample.config.not_yet import refused
from streamsample.config.problems import KeyPath, Problem, Wrong, WrongTogether, key_name, listed, nearest, show
from streamsample.config.stages import ONE, SEVERAL
from streamsample.errors import ConfigurationError, NotYetError

PROBLEMS_SHOWN_MAX = 50
SUGGESTIONS_MAX = 200
"""A file with more unknown keys is no job file; what each was meant to be is no longer asked, for that takes long."""


def load_job(path: str | Path, environ: Mapping[str, str] | None = None) -> Job:
    """The job in the file at `path`, with `${VAR}` from `environ` (default: the process's).

    Paths in it are relative to it. Raises ConfigurationError with a line
    `file:line:column: key: what - remedy` for each problem; NotYetError if all of them are settings of a later version.
    """
    file = Path(path)
    document = read_document(file, os.environ if environ is None else environ)
    return _job(document, file.absolute().parent)


def parse_job(
    text: str, name: str = "job.yaml", directory: Path | None = None, environ: Mapping[str, str] | None = None
) -> Job:
    """The job in `text`; `name` is what errors call it, `directory` where its paths start. Raises as `load_job`."""
    return _job(read_text(text, name, environ or {}), directory or Path())


def _job(document: Document, directory: Path) -> Job:
    context = {"directory": directory}
    later = list(refused(document.tree))
    for found in later:
        _remove(document.tree, found.path)
    # Of what is already refused nothing more is to be said: it is not in the tree any more, or not as it was meant.
    problems = document.problems + later
    said = [problem.path for problem in problems]
    try:
        job = Job.model_validate(document.tree, context=context)
    except ValidationError as error:
        structural, crossing = explain(error)
        # Nor of a section that lacks something only because it was refused.
        problems += [
            problem
            for problem in structural
            if not _within(problem.path, said)
            and not (problem.path and any(_within(path, [problem.path]) for path in said))
        ]
        problems += _crossing(document.tree, context, said) if structural or said else crossing
    else:
        if not problems:
            return job
    raise error_of(document, problems)


def _within(path: KeyPath, tops: Iterable[KeyPath]) -> bool:
    return any(path[: len(top)] == top for top in tops)


def _remove(tree: Any, path: KeyPath) -> None:
    """Take a key out of the tree; an item of a list is left as null, so that the others keep their indices."""
    for step in path[:-1]:
        tree = tree[step]
    if isinstance(tree, list):
        tree[int(path[-1])] = None
    elif path:
        tree.pop(path[-1], None)


def explain(error: ValidationError, root: type[Section] = Job) -> tuple[list[Problem], list[Problem]]:
    """Problems within sections, and problems between them. root: what the file is."""
    structural: list[Problem] = []
    crossing: list[Problem] = []
    for count, detail in enumerate(error.errors(include_url=False)):
        path: KeyPath = tuple(step for step in detail["loc"] if step not in ("[key]", ONE, SEVERAL))
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, WrongTogether):
            (structural if path else crossing).extend(problem.under(path) for problem in cause.problems)
        elif detail["type"] == "extra_forbidden" and count >= SUGGESTIONS_MAX:
            structural.append(Problem(path, "unknown key", at_key=True))
        else:
            structural.append(_problem(path, detail, cause, root))
    return structural, crossing


def _problem(path: KeyPath, detail: ErrorDetails, cause: Any, root: type[Section]) -> Problem:
    """One of pydantic's findings in our words."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    found = f", found {show(value)}"
    at_key = detail["loc"][-1:] == ("[key]",)
    if isinstance(cause, Wrong):
        return Problem(path, cause.what + found, cause.remedy, at_key=at_key)
    if kind == "missing":
        return Problem(path, "is required")
    if kind == "extra_forbidden":
        return _unknown(path, root)
    if kind == "literal_error":
        words = str(context.get("expected", "")).replace("'", "").replace(" or ", ", ").split(", ")
        meant = nearest(value, words) if isinstance(value, str) else None
        return Problem(path, f"must be {listed(words)}{found}", f"did you mean {meant}?" if meant else None)
    if kind in ("model_type", "dict_type", "mapping_type", "model_attributes_type"):
        keys = known_keys(path, root)
        return Problem(path, f"must be a mapping{found}", f"with {listed(keys, 'and')}" if keys else None)
    if kind in ("tuple_type", "list_type"):
        return Problem(path, f"must be a list{found}")
    if kind == "string_type":
        remedy = f'quote it: "{show(value)}"' if isinstance(value, int | float) else None
        return Problem(path, f"must be text{found}", remedy)
    if kind == "string_too_short":
        return Problem(path, f"must not be empty{found}")
    return Problem(path, detail["msg"][:1].lower() + detail["msg"][1:] + found, at_key=at_key)


def _unknown(path: KeyPath, root: type[Section]) -> Problem:
    key = str(path[-1])
    known = known_keys(path[:-1], root)
    meant = nearest(key, known)
    if meant:
        remedy = f"did you mean {meant}?"
    elif root is Job and (place := elsewhere(key)):
        remedy = f"it belongs in {place}" if place.endswith(key) else f"did you mean {place}?"
    elif key == "guarantee":
        remedy = "remove it: exactly once is the only guarantee"
    else:
        remedy = f"known are {listed(sorted(known), 'and')}"
    return Problem(path, "unknown key", remedy, at_key=True)


def _crossing(tree: dict[str, Any], context: dict[str, Any], said: list[KeyPath]) -> list[Problem]:
    """What can be said of how sections fit each other although some of them are wrong by themselves."""
    good: dict[str, Any] = {}
    bad = {path[0] for path in said if path}
    for name, field in Job.model_fields.items():
        key = yaml_key(name, field)
        if key not in tree:
            if field.is_required():
                bad.add(key)
            continue
        # Written so that a type checker need not see through a type made at run time.
        kind: Any = getitem(Annotated, (field.annotation, *field.metadata, None))
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        try:
            good[name] = adapter.validate_python(tree[key], context=context)
        except ValidationError:
            bad.add(key)
    if () in said:
        return []
    job = Job.model_construct(**good)
    return [problem for check, needs in NEEDS.items() if bad.isdisjoint(needs) for problem in check(job)]


def error_of(document: Document, problems: list[Problem]) -> ConfigurationError:
    """One line for each problem, in the order of the file."""
    lines: list[tuple[int, int, str, Problem]] = []
    for problem in problems:
        line, column = document.position(problem)
        name = key_name(problem.path)
        what = (
            f"{document.name}:{line}:{column}: {name}: {problem.what}"
            if name
            else (f"{document.name}:{line}:{column}: {problem.what}")
        )
        lines.append((line, column, what, problem))
    lines.sort(key=lambda item: item[:3])
    kind = NotYetError if all(problem.not_yet for problem in problems) else ConfigurationError
    if len(lines) == 1 and not lines[0][3].excerpt:
        return kind(lines[0][2], remedy=lines[0][3].remedy)
    texts = [
        (f"{what} - {problem.remedy}" if problem.remedy else what) + (f"\n{problem.excerpt}" if problem.excerpt else "")
        for _, _, what, problem in lines
    ]
    unique = list(dict.fromkeys(texts))
    if len(unique) > PROBLEMS_SHOWN_MAX:
        unique[PROBLEMS_SHOWN_MAX:] = [f"{document.name}: and {len(unique) - PROBLEMS_SHOWN_MAX} more"]
    return kind("\n".join(unique))
