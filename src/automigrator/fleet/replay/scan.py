"""Reads revisions, env.py and what they import for what makes them unsafe to replay.

Deny by default: what is not known to give the same SQL for every tenant is a finding.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from automigrator.fleet.replay.rules import (
    ATTRIBUTES,
    BUILTINS,
    DENIED,
    MODULES,
    OF_AUTOGENERATE,
    OF_CHANCE,
    OPERATIONS,
)
from automigrator.migrations.history import History
from automigrator.printable import escaped


class Unsafe(NamedTuple):
    """What is not known to be harmless, and where."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return escaped(f"{Path(self.file).name}:{self.line}: {self.reason}")


def unsafe_in_env(history: History) -> list[Unsafe]:
    """What env.py draws by chance, and where it decides by a text, as by a tenant's name.

    Raises OSError.
    """
    ((path, content),) = history.sources(()).items()
    return list(_of_env(path, content))


def unsafe_revisions(history: History, revisions: Iterable[str]) -> dict[str, list[Unsafe]]:
    """What is unsafe, by revision, for those that are.

    What they import of the application is read by their rules. Raises OSError.
    """
    found: dict[str, list[Unsafe]] = {}
    for revision in revisions:
        _, *files = history.sources([revision]).items()
        modules = history.imports(dict(files))
        each = [
            unsafe
            for path, content in (*files, *modules.items())
            for unsafe in unsafe_in(path, content, modules, path if path in modules else "")
        ]
        if each:
            found[revision] = each
    return found


def _of_env(path: str, content: bytes) -> Iterator[Unsafe]:
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        yield Unsafe(path, 1, "cannot be read as Python with its source")
        return
    imports = _Imports(tree, (), "")
    hooks = {
        value.id
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg in OF_AUTOGENERATE
        for value in ast.walk(node.value)
        if isinstance(value, ast.Name)
    }
    nodes = list(_nodes(tree, hooks))
    whole = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        dotted = imports.dotted(node) if id(node) not in whole else ""
        if dotted and (reason := _denied(dotted)) in OF_CHANCE:
            yield Unsafe(path, getattr(node, "lineno", 1), f"{dotted} {reason}")
        if isinstance(node, ast.Compare) and _by_text(node):
            yield Unsafe(path, node.lineno, "decides by a text, which may be a tenant's name")
        if isinstance(node, ast.Match):
            yield Unsafe(path, node.lineno, "decides by a pattern, which may be a tenant's name")


def _by_text(node: ast.Compare) -> bool:
    sides = [node.left, *node.comparators]
    inside = [each for side in sides for each in ast.walk(side)]
    texts = any(isinstance(each, ast.Constant) and isinstance(each.value, str) for each in sides)
    lists = any(isinstance(each, ast.List | ast.Tuple | ast.Set | ast.Dict) for each in sides)
    named = {getattr(each, "attr", None) or getattr(each, "id", None) for each in inside}
    of_all = {"__name__", "dialect", "drivername", "get_backend_name", "environ", "getenv"}
    return (texts or lists) and not (named & of_all)


def _nodes(tree: ast.AST, without: Iterable[str]) -> Iterator[ast.AST]:
    """Every node, but for the functions of these names."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and child.name in without:
            continue
        yield child
        yield from _nodes(child, without)


class _Imports:
    """The names that a file imports at its top, and what they stand for."""

    def __init__(self, tree: ast.Module, modules: Iterable[str], package: str) -> None:
        self.names: dict[str, str] = {}
        for node in tree.body:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    first = alias.name.partition(".")[0]
                    self.names[alias.asname or first] = alias.name if alias.asname else first
            elif isinstance(node, ast.ImportFrom):
                origin = _origin(node, set(modules), package)
                for alias in node.names:
                    self.names[alias.asname or alias.name] = f"{origin}.{alias.name}"

    def dotted(self, node: ast.AST) -> str:
        """What an attribute of an imported name, or such a name, stands for; empty for others."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, "")
        if isinstance(node, ast.Attribute) and (owner := self.dotted(node.value)):
            return f"{owner}.{node.attr}"
        return ""


def _origin(node: ast.ImportFrom, modules: set[str], package: str) -> str:
    module = node.module or ""
    if not node.level:
        return module
    # whether `package` is a module or a package is told by what is there
    for base in (package, package.rpartition(".")[0]):
        parts = base.split(".")
        kept = ".".join(parts[: len(parts) - node.level + 1])
        name = f"{kept}.{module}".strip(".")
        if any(each == name or each.startswith(f"{name}.") for each in modules):
            return name
    return f".{module}"


def unsafe_in(path: str, content: bytes, modules: Iterable[str], package: str) -> Iterator[Unsafe]:
    """What is unsafe in a revision, or in a module that one imports.

    `modules`: the names of those of the application. `package`: the module's own name; empty for a
    revision.
    """
    try:
        tree = ast.parse(content) if package or path.endswith(".py") else None
    except (SyntaxError, ValueError, RecursionError):
        tree = None
    if tree is None:
        yield Unsafe(path, 1, "cannot be read as Python with its source")
        return
    imports, ours = _Imports(tree, modules, package), frozenset(modules)
    nodes = list(_nodes(tree, () if package else ("downgrade",)))
    bound = {name for node in nodes for name in _bound_by(node)}
    plain = {id(each) for node in nodes for each in _harmless(node, imports)}
    whole = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        if id(node) in plain:
            continue
        reason = _reason(node, imports, bound, ours, whole, top=node in tree.body)
        if reason:
            yield Unsafe(path, getattr(node, "lineno", 1), reason)


def _harmless(node: ast.AST, imports: _Imports) -> Iterator[ast.AST]:
    """Nodes that are harmless only here: `op.get_context()` where it is asked for that block."""
    match node:
        case ast.Attribute(attr="autocommit_block", value=ast.Call(func=func, args=[])):
            if imports.dotted(func) == "alembic.op.get_context":
                yield func
        case ast.FunctionDef(decorator_list=[], name="upgrade"):
            yield node


def _bound_by(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
            yield name
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            yield name


_REFUSED: dict[type[ast.AST], str] = {
    ast.Try: "catches errors, so that it may go on in another way",
    ast.TryStar: "catches errors, so that it may go on in another way",
    ast.Global: "changes a variable that outlives it",
    ast.Nonlocal: "changes a variable that outlives it",
    ast.AsyncFunctionDef: "is asynchronous",
    ast.Await: "is asynchronous",
    ast.Delete: "deletes a name",
}


def _reason(
    node: ast.AST,
    imports: _Imports,
    bound: set[str],
    ours: frozenset[str],
    whole: set[int],
    *,
    top: bool,
) -> str:
    """Why a node is unsafe; empty where it is not. `whole`: nodes whose attribute is asked for."""
    if reason := _REFUSED.get(type(node), ""):
        return reason
    match node:
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return _import_reason(node, names, imports, ours) if top else "imports in a function"
        case ast.keyword(arg=str(name)) if name in ("autoload_with", "autoload", "bind"):
            return f"{name}= {ATTRIBUTES[name]}"
        case ast.Attribute(attr=name) if name.startswith("__"):
            return f"{name} is not known to be harmless"
        case ast.Attribute() | ast.Name(ctx=ast.Load()) if dotted := imports.dotted(node):
            return _dotted_reason(dotted, ours) if id(node) not in whole else ""
        case ast.Attribute(attr=name) if name in ATTRIBUTES:
            return f"{name} {ATTRIBUTES[name]}"
        case ast.Name(id=name, ctx=ast.Load()) if name not in bound and name not in BUILTINS:
            return f"{name} is not known to be harmless"
    return ""


def _import_reason(
    node: ast.Import | ast.ImportFrom,
    names: list[ast.alias],
    imports: _Imports,
    ours: frozenset[str],
) -> str:
    for alias in names:
        if alias.name == "*":
            return "imports every name of a module"
        dotted = imports.names[alias.asname or alias.name.partition(".")[0]]
        first = dotted.partition(".")[0]
        known = any(f"{each}.".startswith(f"{first}.") for each in (*MODULES, *ours))
        if not known and first not in sys.stdlib_module_names:
            return f"imports {dotted.strip('.')}, which is not known to be harmless"
    return ""


def _dotted_reason(dotted: str, ours: frozenset[str]) -> str:
    if dotted.startswith(
        ("sqlalchemy.func.", "sqlalchemy.sql.func.", "sqlalchemy.sql.expression.func.")
    ):
        return ""
    owner, _, name = dotted.rpartition(".")
    if owner == "alembic.op":
        return "" if name in OPERATIONS else f"op.{name} {ATTRIBUTES.get(name, _UNKNOWN)}"
    if reason := _denied(dotted):
        return f"{dotted} {reason}"
    if dotted in ("alembic", "alembic.op", "sqlalchemy"):
        return f"{dotted} is passed on"
    if any(_within(dotted, each) for each in ours):
        return ""
    if not any(_within(dotted, each) or _within(each, dotted) for each in MODULES):
        return f"{dotted} {_UNKNOWN}"
    return f"{dotted} {ATTRIBUTES[name]}" if name in ATTRIBUTES else ""


_UNKNOWN = "is not known to be harmless"


def _denied(dotted: str) -> str:
    return next((why for each, why in DENIED.items() if _within(dotted, each)), "")


def _within(dotted: str, prefix: str) -> bool:
    return f"{dotted}.".startswith(f"{prefix}.")
