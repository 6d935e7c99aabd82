"""Finds in a revision's code what may commit in its middle, to decide whether a copy is taken."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

_NAMES = frozenset(
    (
        *("autocommit_block", "executescript", "commit", "isolation_level", "autocommit"),
        *("driver_connection", "dbapi_connection", "raw_connection", "set_session"),
        *("create_engine", "create_async_engine"),
    )
)

_SQL = re.compile(r"^\s*(commit|end|rollback|abort)\b|;\s*(commit|rollback)\b", re.IGNORECASE)

_WORDS = re.compile("|".join((*_NAMES, r"\bend\b", "rollback", "abort")), re.IGNORECASE)


def may_commit(text: str) -> bool:
    """Whether code other than `downgrade` commits, or leaves SQLAlchemy's connection.

    A word in a comment or a docstring is none. What functions of other modules do is not known:
    a failure is judged by the commits that were observed.
    """
    if not _WORDS.search(text):
        return False  # to parse a thousand files takes half a second
    try:
        return any(map(_commits, _nodes(ast.parse(text))))
    except (SyntaxError, ValueError, RecursionError):
        return True


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but the docstrings and the function `downgrade`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef) and child.name == "downgrade":
            continue
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        yield child
        yield from _nodes(child)


def _commits(node: ast.AST) -> bool:
    match node:
        case ast.Attribute(attr=name) | ast.Name(id=name) | ast.keyword(arg=str(name)):
            return name in _NAMES
        case ast.alias(name=name):
            return name in _NAMES
        case ast.Constant(value=str(text)):
            return _SQL.search(text) is not None
    return False
