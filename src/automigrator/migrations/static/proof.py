"""What an env.py's syntax proves: one version table, and revisions where the options say.

Each path through the file is followed, and the functions that it calls; it must call
`context.configure` once, then `context.run_migrations`. What is written in any other way than the
plain one is not followed: nothing is proved then, and env.py is asked instead.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from automigrator.migrations.static.layout import Proof
from automigrator.migrations.static.syntax import bound_by, texts

_STEPS = ("configure", "run_migrations")

_OF_CONTEXT = {*_STEPS, "begin_transaction", "config", "get_x_argument", "is_offline_mode"}

_DEFAULTS = {"version_table": "'alembic_version'", "version_table_schema": "None"}

_READERS = {"bool", "hasattr", "id", "isinstance", "print", "repr", "str", "type"}

_FOLDERS = re.compile(r"version_locations|script_location|revision_map|^script$")

# what decides which version table is found, or is written where each tenant has one
_WHERE = re.compile(
    r"(?i)search_path|schema_translate|default_schema_name|version_table_impl|tenant"
    r"|\bset\s+((local|session)\s+)?(schema|role|session\s|authorization|$|%|\{)"
)

# what may call more than it names, migrate by itself, or swallow an error
_HIDDEN = re.compile(
    r"exec|eval|globals|locals|vars|__import__|_getframe|currentframe|suppress|upgrade"
    r"|MigrationContext|EnvironmentContext|alembic\.(command|config|context|runtime)(\..*)?"
)

_MIGRATES = re.compile(r"(?i)migrate|migrations|upgrade")

_LEAVES = ast.Return | ast.Break | ast.Continue

Function = ast.FunctionDef | ast.AsyncFunctionDef

Paths = frozenset[str]
"""The steps that may have been taken at a point of the file, by their first letters."""


class _UnclearError(Exception):
    """Raised where the syntax does not tell; it says nothing against env.py."""


@lru_cache(maxsize=64)  # targets of one application mostly share an env.py
def proof_of(text: bytes) -> Proof:
    """What the text of an env.py proves."""
    try:
        tree = ast.parse(text)
        found = {each for node in ast.walk(tree) for each in texts(node)}
        folders = not any(map(_FOLDERS.search, found))
        elsewhere = any(map(_WHERE.search, found))
        once, usual = _migrates_once(tree)
        once = once and not any(map(_HIDDEN.fullmatch, found))
        return Proof(folders and once and usual and not elsewhere, folders, once)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Proof()


def _migrates_once(tree: ast.Module) -> tuple[bool, bool]:
    """Whether it migrates once, and with Alembic's default version table."""
    try:
        walk = _Walk(tree)
        online, offline = (walk.paths(offline=mode) for mode in (False, True))
    except _UnclearError:
        return False, False
    return online == {"cr"} and offline <= {"cr", ""}, walk.usual


class _Walk:
    """A walk along every path of a file. Raises _UnclearError."""

    def __init__(self, tree: ast.Module) -> None:
        self._tree, self._offline = tree, False
        self.usual = True
        """Whether each `configure` leaves the version table at Alembic's default."""
        nodes = list(ast.walk(tree))
        bound = Counter(name for node in nodes for name in bound_by(node))
        arguments = Counter(node.arg for node in nodes if isinstance(node, ast.arg))
        imported = [
            each.asname or each.name
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and (node.module, node.level) == ("alembic", 0)
            for each in node.names
            if each.name == "context"
        ]
        _must(len(imported) == 1 and bound["asyncio"] <= 1)
        self._context = imported[0]
        _must((bound - arguments)[self._context] == 1)
        self._functions: dict[str, Function] = {}
        """Those that lead to a migration."""
        functions = [node for node in nodes if isinstance(node, Function)]
        while more := {
            each.name: each
            for each in functions
            if each.name not in self._functions and self._leads(each)
        }:
            self._functions |= more
        for each in self._functions.values():
            _must(bound[each.name] == 1 and not each.decorator_list)
            _must(not _any(ast.Yield | ast.YieldFrom, each))
            _must(all(getattr(arg, "arg", None) != self._context for arg in ast.walk(each.args)))
        self._refuse_hidden_ways(nodes, {each.name for each in functions})
        self._calling: list[Function] = []
        self._returned: Paths = frozenset()

    def paths(self, *, offline: bool) -> Paths:
        """The steps that each path through the file takes in one of Alembic's modes."""
        self._offline = offline
        return self._block(self._tree.body, frozenset({""}))

    def _refuse_hidden_ways(self, nodes: list[ast.AST], local: set[str]) -> None:
        plain = {
            id(node.value.func)
            for node in nodes
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        }
        used = {
            id(node.value)
            for node in nodes
            if isinstance(node, ast.Attribute) and node.attr in _OF_CONTEXT
            if isinstance(node.ctx, ast.Load)
        }
        lent = {
            each.id
            for call in nodes
            if isinstance(call, ast.Call) and self._is_way(call.func)
            for value in (*call.args, *(k.value for k in call.keywords if k.arg == "connection"))
            for each in ast.walk(value)
            if isinstance(each, ast.Name)
        }
        for node in nodes:
            match node:
                case ast.ImportFrom(module="alembic", names=names):
                    _must(all(each.name in ("context", "op") for each in names))
                case ast.alias(name=name, asname=alias):
                    _must(name != "*" and (alias is None or not _MIGRATES.search(name)))
                case ast.Import(names=names):
                    _must(all(each.name.partition(".")[0] != "alembic" for each in names))
                case ast.Constant(value=value):
                    _must(value not in _STEPS)
                case ast.Name(id=name) if name == self._context and isinstance(node.ctx, ast.Load):
                    _must(id(node) in used)
                case ast.Name(id="import_module") | ast.Attribute(attr="import_module"):
                    _must(id(node) in plain)
                case ast.Attribute(attr=name) if name in _STEPS:
                    _must(self._is_way(node))
                case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name) as func):
                    if not self._is_way(func):
                        ours = isinstance(func, ast.Name) and name in local
                        _must(ours or not _MIGRATES.search(name))
                        values = (*node.args, *(keyword.value for keyword in node.keywords))
                        given = {each.id for each in values if isinstance(each, ast.Name)}
                        _must(name in _READERS or lent.isdisjoint(given))
                    if name == "execution_options":
                        _must(all(keyword.arg for keyword in node.keywords))
                    if name == "run_sync":  # it lends the connection
                        first = node.args[0] if node.args else None
                        _must(isinstance(first, ast.Name) and first.id in local)

    def _is_way(self, node: ast.AST) -> bool:
        """Whether a node names what leads to a migration."""
        match node:
            case ast.Name(id=name):
                return name in self._functions
            case ast.Attribute(attr=name, value=ast.Name(id=self._context)):
                return name in _STEPS
        return False

    def _leads(self, *nodes: ast.AST | None) -> bool:
        """Whether something within these nodes leads to a migration."""
        return any(self._is_way(each) for node in nodes if node for each in ast.walk(node))

    def _block(self, statements: Iterable[ast.stmt], paths: Paths) -> Paths:
        for statement in statements:
            paths = self._statement(statement, paths)
        return paths

    def _statement(self, node: ast.stmt, paths: Paths) -> Paths:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                _must(not self._leads(*node.decorator_list, node.args, node.returns))
                return paths
            case ast.If(test=test, body=body, orelse=orelse):
                return self._branched(test, body, orelse, paths)
            case ast.With(items=items, body=body) | ast.AsyncWith(items=items, body=body):
                _must(not self._leads(*items))
                return self._block(body, paths)
            case ast.Try(body=body, orelse=orelse) if self._leads(node):
                after = [*(each.body for each in node.handlers), node.finalbody]
                inner = [each for statements in after for each in statements]
                _must(not self._leads(*node.handlers, *node.finalbody))
                _must(not any(_any(_LEAVES, each) for each in inner))
                _must(all(isinstance(each.body[-1], ast.Raise) for each in node.handlers))
                return self._block([*body, *orelse], paths)
            case ast.Expr(value=value) | ast.Assign(value=value) | ast.Return(value=value) if (
                self._leads(node)
            ):
                _must(sum(map(self._is_way, ast.walk(node))) == 1)
                paths = self._called(value, paths)
            case _:
                _must(not self._leads(node))
        if _any(ast.Return, node):
            self._returned |= paths
        return frozenset() if isinstance(node, ast.Return | ast.Raise) else paths

    def _branched(
        self, test: ast.expr, body: list[ast.stmt], orelse: list[ast.stmt], paths: Paths
    ) -> Paths:
        """Both branches, or the one of this mode where the test asks for the mode."""
        match test:
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self._branched(operand, orelse, body, paths)
            case ast.Call(func=ast.Attribute(attr="is_offline_mode", value=ast.Name(id=name))) if (
                name == self._context
            ):
                return self._block(body if self._offline else orelse, paths)
        _must(not self._leads(test))
        return self._block(body, paths) | self._block(orelse, paths)

    def _called(self, value: ast.expr | None, paths: Paths) -> Paths:
        """Follow the one thing that leads to a migration, where it is called here and now."""
        match value:
            case (
                ast.Await(value=ast.Call(func=ast.Name(id=name)))
                | ast.Call(
                    func=ast.Attribute(attr="run", value=ast.Name(id="asyncio"))
                    | ast.Attribute(attr="run_until_complete"),
                    args=[ast.Call(func=ast.Name(id=name))],
                )
            ) if name in self._functions:
                return self._within(self._functions[name], ast.AsyncFunctionDef, paths)
            case (
                ast.Call(func=ast.Name(id=name))
                | ast.Await(
                    value=ast.Call(
                        func=ast.Attribute(attr="run_sync"), args=[ast.Name(id=name), *_]
                    )
                )
            ) if name in self._functions:
                return self._within(self._functions[name], ast.FunctionDef, paths)
            case ast.Call(func=ast.Attribute(attr=step) as func) if self._is_way(func):
                if step == "configure":
                    self.usual = self.usual and _keeps_defaults(value)
                _must(not any(step[0] in path for path in paths))
                return frozenset(path + step[0] for path in paths)
        raise _UnclearError

    def _within(self, function: Function, kind: type[Function], paths: Paths) -> Paths:
        _must(isinstance(function, kind) and function not in self._calling)
        self._calling.append(function)
        outer, self._returned = self._returned, frozenset()
        paths = self._block(function.body, paths) | self._returned
        self._returned = outer
        self._calling.pop()
        return paths


def _must(plain: bool) -> None:
    if not plain:
        raise _UnclearError


def _any(kind: Any, tree: ast.AST) -> bool:
    return any(isinstance(node, kind) for node in ast.walk(tree))


def _keeps_defaults(call: ast.Call) -> bool:
    """Only Alembic's default version table is known without asking env.py."""
    if len(call.args) > 1 or any(isinstance(each, ast.Starred) for each in call.args):
        return False
    return all(
        each.arg is not None and _DEFAULTS.get(each.arg) in (None, ast.unparse(each.value))
        for each in call.keywords
    )
