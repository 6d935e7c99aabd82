"""What an env.py's syntax proves: one version table, and revisions where the options say.

Each path through the file is followed, and the functions that it calls; the calls of
`context.configure` and of `context.run_migrations` are counted. What cannot be followed is not
proved, and env.py is asked instead.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from typing import Any

from automigrator.migrations.static.layout import Proof
from automigrator.migrations.static.names import Function, Names, Unclear, strings

_DEFAULTS = {"version_table": "alembic_version", "version_table_schema": None}

_FOLDERS = re.compile(r"version_locations|script_location|revision_map|^script$")

_ONCE = (1, 1)

Counts = frozenset[tuple[int, int]]

"""How often the two may have been called at a point of the file."""

_NOWHERE: Counts = frozenset()


def proof_of(text: bytes) -> Proof:
    """What the text of an env.py proves."""
    try:
        tree = ast.parse(text)
        folders = not any(map(_FOLDERS.search, strings(tree)))
        return Proof(folders and _migrates_once(tree), folders)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Proof()


def _migrates_once(tree: ast.Module) -> bool:
    try:
        names = Names(tree)
        online = _Walk(names, offline=False).file(tree)
        offline = _Walk(names, offline=True).file(tree)
    except Unclear:
        return False
    return online == {_ONCE} and offline <= {_ONCE, (0, 0)}


class _Walk:
    """A walk along every path of a file, in one of Alembic's modes."""

    def __init__(self, names: Names, *, offline: bool) -> None:
        self._names = names
        self._offline = offline
        self._calling: list[Function] = []
        self._returned = _NOWHERE
        self._raised = _NOWHERE
        """The counts wherever an error may arise, in the innermost `try`."""

    def file(self, tree: ast.Module) -> Counts:
        return self._block(tree.body, frozenset({(0, 0)}))

    def _block(self, statements: Iterable[ast.stmt], counts: Counts) -> Counts:
        for statement in statements:
            self._raised |= counts
            counts = self._statement(statement, counts)
            self._raised |= counts
            if not counts:
                break
        return counts

    def _statement(self, node: ast.stmt, counts: Counts) -> Counts:
        match node:
            case ast.Expr(
                value=ast.Call(func=ast.Attribute(value=ast.Name(id="sys"), attr="exit"))
            ):
                self._must_not_lead(node)
                return _NOWHERE
            case ast.Expr(value=value) | ast.AnnAssign(value=value):
                return _NOWHERE if _exits(value) else self._value(value, counts)
            case ast.Assign(value=value, targets=targets):
                self._must_not_lead(*targets)
                return self._value(value, counts)
            case ast.Return(value=value):
                self._returned |= self._value(value, counts)
                return _NOWHERE
            case ast.Raise() | ast.Break() | ast.Continue():
                self._must_not_lead(node)
                return _NOWHERE
            case ast.If():
                return self._branched(node, self._block, counts)
            case ast.With(items=items, body=body) | ast.AsyncWith(items=items, body=body):
                if self._names.leads(node) and any(map(self._names.suppresses, items)):
                    raise Unclear("errors are swallowed", node)
                for item in items:
                    counts = self._value(item.context_expr, counts)
                return self._block(body, counts)
            case ast.Try():
                return self._try(node, counts)
            case ast.For() | ast.AsyncFor() | ast.While():
                self._must_not_lead(node)
                self._block([*node.body, *node.orelse], counts)  # for what it returns
                return counts
            case ast.Match(subject=subject, cases=cases):
                counts = self._value(subject, counts)
                self._must_not_lead(
                    *(part for each in cases for part in (each.pattern, each.guard))
                )
                return counts.union(*(self._block(each.body, counts) for each in cases))
            case ast.TryStar():
                raise Unclear("several handlers", node)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._must_not_lead(*node.decorator_list, node.args, node.returns)
                return counts
        self._must_not_lead(node)
        return counts

    def _try(self, node: ast.Try, counts: Counts) -> Counts:
        outer, self._raised = self._raised, _NOWHERE
        self._must_not_lead(*node.finalbody, *(handler.type for handler in node.handlers))
        final = [inner for each in node.finalbody for inner in ast.walk(each)]
        if any(isinstance(each, ast.Return | ast.Break | ast.Continue) for each in final):
            raise Unclear("an error is swallowed", node)
        after = self._block(node.body, counts)
        caught = self._raised
        after = self._block(node.orelse, after)
        for handler in node.handlers:
            after |= self._block(handler.body, caught)
        self._raised |= outer
        return after

    def _value(self, node: ast.expr | None, counts: Counts) -> Counts:
        if node is None or not self._names.leads(node):
            return counts
        match node:
            case ast.Call():
                return self._call(node, counts)
            case ast.Await(value=ast.Call(func=ast.Attribute(attr="run_sync")) as call):
                function = self._names.function(call.args[0]) if call.args else None
                if isinstance(function, ast.FunctionDef):
                    self._must_not_lead(call.func, *call.args[1:], *call.keywords)
                    return self._within(function, counts)
            case ast.Await(value=ast.Call(func=func) as call):
                function = self._names.function(func)
                if isinstance(function, ast.AsyncFunctionDef):
                    self._must_not_lead(*call.args, *call.keywords)
                    return self._within(function, counts)
                return self._value(call, counts)
            case ast.Await(value=value) | ast.Attribute(value=value):
                return self._value(value, counts)
            case ast.IfExp():
                return self._branched(node, self._value, counts)
        raise Unclear("not a plain call", node)

    def _branched(
        self, node: ast.If | ast.IfExp, read: Callable[[Any, Counts], Counts], counts: Counts
    ) -> Counts:
        """Both branches, or the one of this mode where the test asks for the mode."""
        counts = self._value(node.test, counts)
        offline = self._asks_for_offline(node.test)
        if offline is not None:
            return read(node.body if offline == self._offline else node.orelse, counts)
        return read(node.body, counts) | read(node.orelse, counts)

    def _call(self, call: ast.Call, counts: Counts) -> Counts:
        step = self._names.of_context(call.func)
        function = self._names.function(call.func)
        if step in ("configure", "run_migrations"):
            self._must_not_lead(*call.args, *call.keywords)
            if step == "configure":
                _check_options(call)
            if any(times[step == "run_migrations"] for times in counts):
                raise Unclear(f"a second {step}", call)
            return frozenset((1, r) if step == "configure" else (c, 1) for c, r in counts)
        if isinstance(function, ast.FunctionDef):
            self._must_not_lead(*call.args, *call.keywords)
            return self._within(function, counts)
        if self._runs_a_coroutine(call.func) and call.args:
            coroutine = call.args[0]
            if isinstance(coroutine, ast.Call):
                function = self._names.function(coroutine.func)
                if isinstance(function, ast.AsyncFunctionDef):
                    self._must_not_lead(*coroutine.args, *coroutine.keywords)
                    self._must_not_lead(call.func, *call.args[1:], *call.keywords)
                    return self._within(function, counts)
        counts = self._value(call.func, counts)
        for value in (*call.args, *(keyword.value for keyword in call.keywords)):
            counts = self._value(value, counts)
        return counts

    def _within(self, function: Function, counts: Counts) -> Counts:
        if function in self._calling:
            raise Unclear("a function calls itself", function)
        self._calling.append(function)
        outer, self._returned = self._returned, _NOWHERE
        counts = self._block(function.body, counts) | self._returned
        self._returned = outer
        self._calling.pop()
        return counts

    def _runs_a_coroutine(self, func: ast.expr) -> bool:
        match func:
            case ast.Attribute(attr="run", value=ast.Name(id="asyncio")):
                return self._names.asyncio
            case ast.Attribute(attr="run_until_complete"):
                return True
        return False

    def _asks_for_offline(self, test: ast.expr) -> bool | None:
        """The mode that `test` asks for; None where it asks something else."""
        match test:
            case ast.Call(func=func) if self._names.of_context(func) == "is_offline_mode":
                return True
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                asked = self._asks_for_offline(operand)
                return None if asked is None else not asked
        return None

    def _must_not_lead(self, *nodes: ast.AST | None) -> None:
        if self._names.leads(*nodes):
            raise Unclear("more than a plain call", next(filter(None, nodes)))


def _exits(value: ast.expr | None) -> bool:
    match value:
        case ast.Call(func=ast.Attribute(attr="exit", value=ast.Name(id="sys")), args=args):
            return all(isinstance(each, ast.Constant) for each in args)
    return False


def _check_options(call: ast.Call) -> None:
    """Only Alembic's default version table is known without asking env.py."""
    if len(call.args) > 1 or any(isinstance(each, ast.Starred) for each in call.args):
        raise Unclear("options by position", call)
    for keyword in call.keywords:
        if keyword.arg is None:
            raise Unclear("**options", call)
        if keyword.arg in _DEFAULTS:
            value = keyword.value
            if not isinstance(value, ast.Constant) or value.value != _DEFAULTS[keyword.arg]:
                raise Unclear(f"{keyword.arg} of its own", call)
