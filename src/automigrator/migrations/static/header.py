"""The identifiers of one revision file, by its text; None where only running it could tell."""

from __future__ import annotations

import ast
import re
from typing import NamedTuple

from automigrator.migrations.static.syntax import bound_by

NAMES = frozenset({"revision", "down_revision", "branch_labels", "depends_on"})

_DOCSTRING = (
    rb"(?:\xef\xbb\xbf)?(?:[ \t]*(?:\#[^\n]*)?\r?\n)*"
    rb'[rRuU]?"""[^"\\]*(?:"{1,2}[^"\\]+)*"""[ \t]*\r?\n'
)

_FOREIGN = rb"(?![^\n]*(?:revision|branch_labels|depends_on))"

_TEMPLATE = re.compile(
    rb"(?:" + _DOCSTRING + rb")?"
    rb"(?:\r?\n|\#[^\n]*\n|(?:import|from)[ ]" + _FOREIGN + rb"[\w., ]+\r?\n)*"
    rb"revision(?::[^=\n]*)?[ ]*=[ ]*[\"']([\w.]+)[\"']\r?\n"
    rb"down_revision(?::[^=\n]*)?[ ]*=[ ]*(?:None|[\"']([\w.]+)[\"'])\r?\n"
    rb"branch_labels(?::[^=\n]*)?[ ]*=[ ]*None\r?\n"
    rb"depends_on(?::[^=\n]*)?[ ]*=[ ]*None\r?\n"
)

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
    return _by_template(text) or _by_syntax(text)


def _by_template(text: bytes) -> Header | None:
    """The commonest file of all: one parent at most, no labels, no dependencies."""
    match = _TEMPLATE.match(text)
    if match is None:
        return None
    rest = text[match.end() :]
    for word in _SUSPICIOUS:  # a generator costs as much as the search
        if word in rest:
            return None
    down = () if match[2] is None else (match[2].decode("ascii"),)
    return Header(match[1].decode("ascii"), down)


def _by_syntax(text: bytes) -> Header | None:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return None
    values: dict[str, tuple[str, ...]] = {}
    plain: set[int] = set()
    for statement in tree.body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id=name) as target], value=value)
                | ast.AnnAssign(target=ast.Name(id=name) as target, value=ast.expr() as value)
            ) if name in NAMES:
                items = _literal(value)
                if items is None or name in values:
                    return None
                values[name] = items
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


def _literal(value: ast.expr) -> tuple[str, ...] | None:
    try:
        literal = ast.literal_eval(value)
    except (ValueError, TypeError, RecursionError):
        return None
    if literal is None:
        return ()
    items = literal if isinstance(literal, tuple | list) else (literal,)
    sound = all(isinstance(each, str) and _ID.fullmatch(each) for each in items)
    return tuple(items) if sound else None


def _rebinds(node: ast.AST, plain: set[int]) -> bool:
    """Whether a node may give one of our names another value than its plain assignment."""
    match node:
        case ast.Name(id=name, ctx=ast.Load()):
            return name in _DYNAMIC
        case ast.Attribute(attr=name):
            return name in ("__dict__", "modules", "__setattr__", *_DYNAMIC)
        case ast.alias(name="*"):
            return True
        case ast.arg():
            return False  # of its function alone
    return id(node) not in plain and not NAMES.isdisjoint(bound_by(node))
