"""The names and strings in a Python file's syntax."""

from __future__ import annotations

import ast
from collections.abc import Iterator


def texts(node: ast.AST) -> Iterator[str]:
    """Every string and identifier of a node; no comment."""
    for _, value in ast.iter_fields(node):
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str | bytes):
                yield each if isinstance(each, str) else each.decode("latin-1")


def bound_by(node: ast.AST) -> Iterator[str]:
    """Every name that a node binds, a parameter's included."""
    match node:
        case ast.Name(ctx=ast.Load()) | ast.Attribute() | ast.Constant() | ast.keyword():
            return
        case ast.alias():
            yield node.asname or node.name.partition(".")[0]
        case _ if not isinstance(node, ast.ImportFrom):
            yield from texts(node)
