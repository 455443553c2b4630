"""A YAML file as plain Python values, with the position of every key and value, and `${VAR}` filled in.

YAML 1.2, one document, no tags. Every problem that does not stop the reading is collected, so that a
reader sees all of them at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from streamsample.config.problems import Expanded, KeyPath, Problem
from streamsample.errors import ConfigurationError

FILE_BYTES_MAX = 1_000_000
VALUES_MAX = 100_000
DEPTH_MAX = 50

_TAG = "tag:yaml.org,2002:"
_VARIABLE = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.ASCII | re.DOTALL)


class Position(NamedTuple):
    """Line and column, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Sort:
    """What a file should be, for those who gave something else. noun: "a job file"; first: a key that it begins with;
    needs: what it cannot do without.
    """

    noun: str
    first: str
    needs: str


JOB_FILE = Sort("a job file", '"job: <name>"', "a job needs at least job, kafka, input and output")


@dataclass
class Document:
    """What a file says.

    tree: dicts with text keys, lists, and scalars. keys, values: where each key and each value stands, by path.
    problems: what is wrong so far; nothing else is to be said of their paths. quotes: of the texts that stand in one
    line as they are, how many characters come before them.
    """

    name: str
    tree: Any = None
    keys: dict[KeyPath, Position] = field(default_factory=dict)
    values: dict[KeyPath, Position] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    quotes: dict[KeyPath, int] = field(default_factory=dict)

    def position(self, problem: Problem) -> Position:
        """Where to point: the value, or the key, or the nearest thing around them that is in the file."""
        path = problem.path
        if not problem.at_key and path in self.values:
            line, column = self.values[path]
            inside = problem.at + self.quotes[path] if problem.excerpt and path in self.quotes else 0
            return Position(line, column + inside)
        while path:
            if path in self.keys:
                return self.keys[path]
            if path in self.values:
                return self.values[path]
            path = path[:-1]
        return Position(1, 1)


def read_document(path: Path, environ: Mapping[str, str], sort: Sort = JOB_FILE) -> Document:
    """Read the file at `path`. Raises ConfigurationError if it cannot be read as YAML at all."""
    name = str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise ConfigurationError(f"{name}: no such file", remedy=f"give the path of {sort.noun}") from None
    except IsADirectoryError:
        raise ConfigurationError(f"{name}: is a directory", remedy=f"give the path of {sort.noun} in it") from None
    except OSError as error:
        raise ConfigurationError(f"{name}: cannot be read: {error.strerror}") from error
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigurationError(
            f"{name}: is larger than {FILE_BYTES_MAX} bytes",
            remedy=f"{sort.noun} is some pages long: is this the right file?",
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        raise ConfigurationError(
            f"{name}:{line}:{column}: byte 0x{raw[error.start]:02x} is not UTF-8", remedy="save the file as UTF-8"
        ) from None
    return read_text(text, name, environ, sort)


def read_text(text: str, name: str, environ: Mapping[str, str], sort: Sort = JOB_FILE) -> Document:
    """Read YAML text; `name` is what errors call it."""
    document = Document(name)
    # The composer and the check below recurse; the depth is bounded before Python's own limit is met.
    try:
        root = YAML(typ="safe", pure=True).compose(text)
    except RecursionError:
        raise ConfigurationError(f"{name}: is nested too deeply", remedy=f"at most {DEPTH_MAX} levels") from None
    except YAMLError as error:
        raise _invalid_yaml(error, name, text) from None
    except ValueError as error:  # e.g. an out-of-range \U escape
        raise ConfigurationError(f"{name}: is not YAML: {error}") from None
    if root is None:
        raise ConfigurationError(f"{name}: is empty", remedy=sort.needs)
    _Builder(document, environ).build(root)
    if not isinstance(document.tree, dict):
        line, column = document.values[()]
        raise ConfigurationError(
            f"{name}:{line}:{column}: is not a mapping of keys to values", remedy=f"start with {sort.first}"
        )
    return document


def _invalid_yaml(error: YAMLError, name: str, text: str) -> ConfigurationError:
    """Name the place, and say in plain words what is meant where YAML's own words are obscure."""
    if isinstance(error, ReaderError):
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1
        return ConfigurationError(
            f"{name}:{line}:{column}: control character U+{ord(text[error.position]):04X}", remedy="remove it"
        )
    if not isinstance(error, MarkedYAMLError):
        return ConfigurationError(f"{name}: is not YAML: {' '.join(str(error).split())}")
    mark = error.problem_mark or error.context_mark
    where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
    what = error.problem or error.context or "cannot be parsed"
    if "'\\t'" in what:
        return ConfigurationError(f"{where}: a tab where YAML wants spaces", remedy="indent with spaces")
    if "single document" in (error.context or ""):
        return ConfigurationError(f"{where}: a second document begins", remedy='one job per file: remove the "---"')
    remedy = None
    if "mapping values are not allowed" in what:
        remedy = 'quote a value that contains ": "'
    elif "'@'" in what or "'`'" in what or "'%'" in what:
        remedy = "quote a value that starts with a special character"
    elif "expected ',' or" in what or "<stream end>" in what or "end of stream" in what:
        remedy = (
            "close the bracket, brace or quote; within braces, quote a value with special characters, such as ${...}"
        )
    elif "expected <block end>" in what or "could not find expected ':'" in what:
        remedy = 'check the indentation, and that each key is followed by ": "'
    return ConfigurationError(f"{where}: is not YAML: {what}", remedy=remedy)


def _at(node: Node) -> Position:
    return Position(node.start_mark.line + 1, node.start_mark.column + 1)


class _Builder:
    """From YAML nodes to values. Aliases are followed, within bounds."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self._document = document
        self._environ = environ
        self._count = 0
        self._open: set[int] = set()

    def build(self, root: Node) -> None:
        self._document.tree = self._value(root, ())

    def _value(self, node: Node, path: KeyPath) -> Any:
        where = _at(node)
        self._document.values[path] = where
        self._count += 1
        if self._count > VALUES_MAX:
            raise self._fatal(where, f"aliases expand to more than {VALUES_MAX} values", "write the file without them")
        if len(path) > DEPTH_MAX:
            raise self._fatal(where, "is nested too deeply", f"at most {DEPTH_MAX} levels")
        if id(node) in self._open:
            raise self._fatal(where, "an alias refers to what contains it", "write the value out")
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        self._open.add(id(node))
        try:
            if isinstance(node, MappingNode) and node.tag == _TAG + "map":
                return self._mapping(node, path)
            if isinstance(node, SequenceNode) and node.tag == _TAG + "seq":
                return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        finally:
            self._open.discard(id(node))
        self._problem(path, f"has the YAML tag {_tag_name(node)}", "remove it: job files use no tags")
        return None

    def _mapping(self, node: MappingNode, path: KeyPath, hidden: Set[str] = frozenset()) -> dict[str, Any]:
        """The mapping's keys but those in `hidden`, which something nearer to the reader has given."""
        made: dict[str, Any] = {}
        merged: list[Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                merged.append(value_node)
                continue
            if not isinstance(key_node, ScalarNode):
                self._problem(path, "has a key that is a list or a mapping", "keys are plain words", at=_at(key_node))
                continue
            key = self._whole_text(key_node)
            if key in hidden:
                continue
            inner = (*path, key)
            if key in made:
                remedy = f"line {self._document.keys[inner].line} has it already: keep one of them"
                self._document.keys[inner] = _at(key_node)
                self._document.problems.append(Problem(inner, "is given twice", remedy, at_key=True))
                continue
            self._document.keys[inner] = _at(key_node)
            made[key] = self._value(value_node, inner)
        for source in merged:
            made.update(self._merged(source, path, hidden | made.keys()))
        return made

    def _merged(self, node: Node, path: KeyPath, hidden: Set[str]) -> dict[str, Any]:
        """`<<: *defaults`, or a list of such: of several the earlier wins."""
        found: dict[str, Any] = {}
        for source in node.value if isinstance(node, SequenceNode) else [node]:
            if not isinstance(source, MappingNode):
                self._problem(path, "merges (<<) something that is not a mapping", "merge mappings only", at=_at(node))
                continue
            if id(source) in self._open:
                raise self._fatal(_at(source), "an alias refers to what contains it", "write the value out")
            self._open.add(id(source))
            found.update(self._mapping(source, path, hidden | found.keys()))
            self._open.discard(id(source))
        return found

    def _scalar(self, node: ScalarNode, path: KeyPath) -> Any:
        text = self._whole_text(node)
        kind = str(node.tag).removeprefix(_TAG)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() in ("true", "yes", "on")
        if kind in ("int", "float"):
            number = _number(text, kind)
            if number is not None:
                return number
            self._problem(path, f"is not a number: {text[:40]}")
            return None
        if kind in ("str", "timestamp"):  # times stay text: each key says how it reads them
            quotes = 1 if node.style else 0
            if node.end_mark.column - node.start_mark.column == len(text) + 2 * quotes and "${" not in text:
                self._document.quotes[path] = quotes
            return self._expand(text, path)
        self._problem(path, f"has the YAML tag {_tag_name(node)}", "remove it: job files use no tags")
        return None

    def _whole_text(self, node: ScalarNode) -> str:
        """The scalar's text; two escapes that stand for one character (JSON's surrogate pairs) made one."""
        text: str = node.value
        if text.isascii():
            return text
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise self._fatal(
                _at(node), "has half a character: a lone surrogate", "write the character itself"
            ) from None

    def _expand(self, text: str, path: KeyPath) -> str:
        if "${" not in text:
            return text
        parts: list[str] = []
        done = 0
        changed = False
        for found in _VARIABLE.finditer(text):
            parts.append(text[done : found.start()])
            done = found.end()
            if found.group() == "$${":
                parts.append("${")
                continue
            changed = True
            parts.append(self._variable(found.group(1), text, path))
        whole = "".join(parts) + text[done:]
        return Expanded(whole, text) if changed else whole

    def _variable(self, inside: str | None, text: str, path: KeyPath) -> str:
        named = _NAME.fullmatch(inside) if inside is not None else None
        if named is None:
            remedy = "write ${NAME} or ${NAME:-default}, and $${ for the two characters themselves"
            self._problem(path, f"has a variable that cannot be read: {text[:60]}", remedy)
            return ""
        name, default = named.group(1), named.group(2)
        value = self._environ.get(name, "")
        if value or (name in self._environ and default is None):
            return value
        if default is not None:
            return str(default)
        remedy = f"set it, or give a default: ${{{name}:-...}}"
        self._problem(path, f"the environment variable {name} is not set", remedy)
        return ""

    def _problem(self, path: KeyPath, what: str, remedy: str | None = None, at: Position | None = None) -> None:
        if at is not None:
            self._document.values[path] = at
        self._document.problems.append(Problem(path, what, remedy))

    def _fatal(self, where: Position, what: str, remedy: str) -> ConfigurationError:
        return ConfigurationError(f"{self._document.name}:{where.line}:{where.column}: {what}", remedy=remedy)


def _tag_name(node: Node) -> str:
    return str(node.tag).replace(_TAG, "!!")


def _number(text: str, kind: str) -> int | float | None:
    plain = text.replace("_", "")
    if len(plain) > 400:
        return None
    try:
        if kind == "int":
            signless = plain.lstrip("+-")
            sign = -1 if plain.startswith("-") else 1
            base = {"0x": 16, "0o": 8, "0b": 2}.get(signless[:2].lower(), 10)
            return sign * int(signless if base == 10 else signless[2:], base)
        special = plain.lower().lstrip("+-")
        if special in (".inf", ".nan"):
            number = math.inf if special == ".inf" else math.nan
            return -number if plain.startswith("-") else number
        return float(plain)
    except ValueError:
        return None
