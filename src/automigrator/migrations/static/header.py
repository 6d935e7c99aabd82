"""The identifiers of one revision file, by its text; None where only running it could tell."""

from __future__ import annotations

import ast
import re
from typing import NamedTuple

NAMES = frozenset({"revision", "down_revision", "branch_labels", "depends_on"})

_STRING = rb"""(?:"[\w.]+"|'[\w.]+')"""

_MANY = rb"(?:\([^()\[\]#]*\)|\[[^()\[\]#]*\])"

_LINE = re.compile(
    rb"(?:"
    rb"(?P<name>revision|down_revision|branch_labels|depends_on)[ \t]*(?::[^=\n]*)?=[ \t]*"
    rb"(?P<value>None|" + _STRING + rb"|" + _MANY + rb")[ \t]*(?:\#[^\n]*)?"
    rb"|\#[^\n]*"
    rb"|import[ ][\w.]+(?:[ ]as[ ]\w+)?[ \t]*"
    rb"|from[ ][\w.]+[ ]import[ ]\w+(?:[ ]as[ ]\w+)?(?:,[ ]*\w+(?:[ ]as[ ]\w+)?)*[ \t]*"
    rb")?\r?\n"
)

_DOCSTRING = (
    rb"(?:\xef\xbb\xbf)?(?:[ \t]*(?:\#[^\n]*)?\r?\n)*"
    rb'[rRuU]?"""[^"\\]*(?:"{1,2}[^"\\]+)*"""[ \t]*\r?\n'
)

_OPENING = re.compile(_DOCSTRING)

_FOREIGN = rb"(?![^\n]*(?:revision|branch_labels|depends_on))"

_TEMPLATE = re.compile(
    rb"(?:" + _DOCSTRING + rb")?"
    rb"(?:\r?\n|\#[^\n]*\n|(?:import|from)[ ]" + _FOREIGN + rb"[\w., ]+\r?\n)*"
    rb"revision(?::[^=\n]*)?[ ]*=[ ]*[\"']([\w.]+)[\"']\r?\n"
    rb"down_revision(?::[^=\n]*)?[ ]*=[ ]*(?:None|[\"']([\w.]+)[\"'])\r?\n"
    rb"branch_labels(?::[^=\n]*)?[ ]*=[ ]*None\r?\n"
    rb"depends_on(?::[^=\n]*)?[ ]*=[ ]*None\r?\n"
)

_ITEMS = re.compile(rb"[\(\[]\s*(?:" + _STRING + rb"\s*,\s*)*(?:" + _STRING + rb"\s*)?[\)\]]")

_EACH = re.compile(_STRING)

_ID = re.compile(r"[\w.]+")

# what below the header may rebind a name, or fill the module in other ways
_SUSPICIOUS = (
    b"revision",
    b"branch_labels",
    b"depends_on",
    b"import *",
    b"globals",
    b"locals",
    b"vars",
    b"exec",
    b"eval",
    b"attr",
    b"__dict__",
    b"modules",
)

_DYNAMIC = frozenset({"globals", "locals", "vars", "exec", "eval", "setattr", "delattr"})


class Header(NamedTuple):
    """What a revision file says about itself, as Alembic would read it."""

    revision: str
    down: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


def header_of(text: bytes) -> Header | None:
    """Read by pattern where the file is as Alembic's template writes it, else by its syntax."""
    return _by_template(text) or _by_pattern(text) or _by_syntax(text)


def _by_template(text: bytes) -> Header | None:
    """The commonest file of all: one parent at most, no labels, no dependencies."""
    match = _TEMPLATE.match(text)
    if match is None or _suspicious(text[match.end() :]):
        return None
    revision, down = match[1], match[2]
    if down is None:
        return Header(revision.decode("ascii"))
    return Header(revision.decode("ascii"), (down.decode("ascii"),))


def _by_pattern(text: bytes) -> Header | None:
    docstring = _OPENING.match(text)
    position = docstring.end() if docstring else 0
    values: dict[bytes, tuple[str, ...]] = {}
    match = _LINE.match
    while line := match(text, position):
        name = line["name"]
        position = line.end()
        if name is None:
            if text[line.start() : line.start() + 1] in b"if" and _named_in(line[0]):
                return None  # an import of one of our names
            continue
        items = _items(line["value"])
        if items is None or name in values:
            return None
        values[name] = items
    if _suspicious(text[position:]):
        return None
    if b"down_revision" not in values or len(values.get(b"revision", ())) != 1:
        return None
    return Header(
        values[b"revision"][0],
        values[b"down_revision"],
        values.get(b"depends_on", ()),
        values.get(b"branch_labels", ()),
    )


def _suspicious(rest: bytes) -> bool:
    for word in _SUSPICIOUS:  # noqa: SIM110 - a generator costs as much as the search
        if word in rest:
            return True
    return False


def _named_in(line: bytes) -> bool:
    return any(name in line for name in (b"revision", b"branch_labels", b"depends_on"))


def _items(value: bytes) -> tuple[str, ...] | None:
    if value == b"None":
        return ()
    if value[:1] in b"\"'":
        return (value[1:-1].decode("ascii"),) if value.isascii() else None
    if not value.isascii() or not _ITEMS.fullmatch(value):
        return None
    # one string in parentheses is no tuple, and means the same
    return tuple(item[1:-1].decode() for item in _EACH.findall(value))


def _by_syntax(text: bytes) -> Header | None:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return None
    values: dict[str, tuple[str, ...]] = {}
    plain: set[int] = set()
    for statement in tree.body:
        target = _target(statement)
        if target is None:
            continue
        items = _literal(statement.value)  # type: ignore[attr-defined]  # both kinds have one
        if items is None or target.id in values:
            return None
        values[target.id] = items
        plain.add(id(target))
    if any(_rebinds(node, plain) for node in ast.walk(tree)):
        return None
    if "down_revision" not in values or len(values.get("revision", ())) != 1:
        return None
    return Header(
        values["revision"][0],
        values["down_revision"],
        values.get("depends_on", ()),
        values.get("branch_labels", ()),
    )


def _target(statement: ast.stmt) -> ast.Name | None:
    """The name of ours that a plain top-level assignment binds."""
    match statement:
        case ast.Assign(targets=[ast.Name() as target]) if target.id in NAMES:
            return target
        case ast.AnnAssign(target=ast.Name() as target, value=ast.expr()) if target.id in NAMES:
            return target
    return None


def _literal(value: ast.expr) -> tuple[str, ...] | None:
    match value:
        case ast.Constant(value=None):
            return ()
        case ast.Constant(value=str(text)):
            return (text,) if _ID.fullmatch(text) else None
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            items: list[str] = []
            for element in elements:
                if not isinstance(element, ast.Constant) or not isinstance(element.value, str):
                    return None
                if not _ID.fullmatch(element.value):
                    return None
                items.append(element.value)
            return tuple(items)
    return None


def _rebinds(node: ast.AST, plain: set[int]) -> bool:
    """Whether a node may give one of our names another value than its plain assignment."""
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
            return name in NAMES and id(node) not in plain
        case ast.Name(id=name):
            return name in _DYNAMIC
        case ast.Attribute(attr=name):
            return name in ("__dict__", "modules", "__setattr__", *_DYNAMIC)
        case ast.alias():
            return node.name == "*" or (node.asname or node.name.partition(".")[0]) in NAMES
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return node.name in NAMES
        case ast.Global(names=names) | ast.Nonlocal(names=names):
            return not NAMES.isdisjoint(names)
        case ast.ExceptHandler(name=name) | ast.MatchAs(name=name) | ast.MatchStar(name=name):
            return name in NAMES
        case ast.MatchMapping(rest=rest):
            return rest in NAMES
    return False
