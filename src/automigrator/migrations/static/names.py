"""The names in an env.py that lead to a migration, by its syntax; Unclear where more may."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator

Function = ast.FunctionDef | ast.AsyncFunctionDef

_STEPS = ("configure", "run_migrations")

_OF_CONTEXT = {
    *_STEPS,
    "begin_transaction",
    "config",
    "execute",
    "get_bind",
    "get_head_revision",
    "get_head_revisions",
    "get_revision_argument",
    "get_starting_revision_argument",
    "get_tag_argument",
    "get_x_argument",
    "is_offline_mode",
    "is_transactional_ddl",
    "static_output",
}

_DYNAMIC = {"exec", "eval", "globals", "locals", "vars", "__import__", "_getframe", "currentframe"}

_READERS = {"bool", "hasattr", "id", "isinstance", "print", "repr", "str", "type"}

# what decides which version table is found, or is written where each tenant has one
_WHERE = re.compile(
    r"(?i)search_path|schema_translate|default_schema_name|version_table_impl|tenant"
    r"|\bset\s+((local|session)\s+)?(schema|role|session\s|authorization|$|%|\{)"
)

_MIGRATES = re.compile(r"(?i)migrate|migrations|upgrade")


class Unclear(Exception):
    """Raised where the syntax does not tell; it says nothing against env.py."""

    def __init__(self, why: str, node: ast.AST | None = None) -> None:
        super().__init__(f"{why}, line {getattr(node, 'lineno', '?')}")


def strings(tree: ast.AST) -> Iterator[str]:
    """Every string and every identifier of a tree; no comment."""
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)):
                yield text
            case ast.Constant(value=bytes(raw)):
                yield raw.decode("latin-1")
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name
            case ast.keyword(arg=str(name)) | ast.alias(name=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name


class Names:
    """What the names of an env.py stand for. Raises Unclear where one may stand for more."""

    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree
        self._nodes = list(ast.walk(tree))
        self._parents = {
            id(child): node for node in self._nodes for child in ast.iter_child_nodes(node)
        }
        self._bound = Counter(name for node in self._nodes for name in _bound_by(node))
        self._imported = dict(imported for node in self._nodes for imported in _imported_by(node))
        self.asyncio = self._imported.get("asyncio") == "asyncio" and self._bound["asyncio"] == 1
        self._context = self._imported_context()
        self._of_context = self._uses_of_context()
        self._functions: dict[str, Function] = {}
        self._leading: set[int] = set()
        """Every node that is a way to a migration, or has one within."""
        self._follow_functions()
        self._refuse_hidden_ways()
        self._refuse_lent_connections()

    def leads(self, *nodes: ast.AST | None) -> bool:
        """Whether something within these nodes leads to a migration."""
        return any(id(node) in self._leading for node in nodes)

    def function(self, node: ast.AST) -> Function | None:
        """The function of env.py that a name stands for, if it leads to a migration."""
        return self._functions.get(node.id) if isinstance(node, ast.Name) else None

    def of_context(self, node: ast.AST) -> str | None:
        """The name of what a node takes of Alembic's context."""
        use = self._of_context.get(id(node))
        return use.attr if use is not None else None

    def suppresses(self, manager: ast.AST) -> bool:
        """Whether a context manager is the one that swallows errors."""
        return any(self._origin(name).endswith("suppress") for name in strings(manager))

    def _origin(self, name: str) -> str:
        return self._imported.get(name, name)

    def _imported_context(self) -> str:
        """The name under which the file has Alembic's context, which it must import plainly."""
        for node in self._nodes:
            match node:
                case ast.Import(names=names) if any(
                    each.name.partition(".")[0] == "alembic" for each in names
                ):
                    raise Unclear("Alembic under its own name", node)
                case ast.ImportFrom(module=module, names=names):
                    for each in names:
                        if each.name == "*" or module in ("alembic.context", "alembic.command"):
                            raise Unclear(f"from {module} import {each.name}", node)
                        if module == "alembic" and each.name not in ("context", "op"):
                            raise Unclear(f"from {module} import {each.name}", node)
        found = [
            each.asname or each.name
            for node in self._tree.body
            if isinstance(node, ast.ImportFrom) and node.module == "alembic"
            for each in node.names
            if each.name == "context" and not node.level
        ]
        arguments = [node.arg for node in self._nodes if isinstance(node, ast.arg)]
        if len(found) != 1 or self._bound[found[0]] - arguments.count(found[0]) != 1:
            raise Unclear("not one import of Alembic's context")
        return found[0]

    def _uses_of_context(self) -> dict[int, ast.Attribute]:
        shadowed: set[int] = set()
        for node in self._nodes:
            if isinstance(node, Function | ast.Lambda) and any(
                isinstance(each, ast.arg) and each.arg == self._context
                for each in ast.walk(node.args)
            ):
                body = node.body if isinstance(node.body, list) else [node.body]
                shadowed |= {id(inner) for each in body for inner in ast.walk(each)}
        uses: dict[int, ast.Attribute] = {}
        for node in self._nodes:
            if isinstance(node, ast.Name) and node.id == self._context and id(node) not in shadowed:
                use = self._parents[id(node)]
                if not isinstance(use, ast.Attribute) or not isinstance(use.ctx, ast.Load):
                    raise Unclear("the context is handed on", node)
                if use.attr not in _OF_CONTEXT:
                    raise Unclear(f"context.{use.attr}", node)
                if use.attr in _STEPS and not self._is_called(use):
                    raise Unclear(f"context.{use.attr} is handed on", node)
                uses[id(use)] = use
        return uses

    def _is_called(self, node: ast.AST) -> bool:
        parent = self._parents[id(node)]
        return isinstance(parent, ast.Call) and parent.func is node

    def _follow_functions(self) -> None:
        """Find what leads to a migration: functions, and what calls them."""
        names: dict[str, list[ast.AST]] = {}
        for node in self._nodes:
            if isinstance(node, ast.Name):
                names.setdefault(node.id, []).append(node)
        found: list[ast.AST] = [each for each in self._of_context.values() if each.attr in _STEPS]
        while found:
            outer: ast.AST | None = found.pop()
            while outer is not None and id(outer) not in self._leading:
                self._leading.add(id(outer))
                if isinstance(outer, Function):
                    self._check_function(outer)
                    self._functions[outer.name] = outer
                    found += names.get(outer.name, ())
                outer = self._parents.get(id(outer))

    def _check_function(self, function: Function) -> None:
        if self._bound[function.name] != 1 or function.decorator_list:
            raise Unclear(f"{function.name} may stand for something else", function)
        if any(isinstance(each, ast.Yield | ast.YieldFrom) for each in ast.walk(function)):
            raise Unclear(f"{function.name} is a generator", function)

    def _refuse_hidden_ways(self) -> None:
        local = {node.name for node in self._nodes if isinstance(node, Function)}
        for node in self._nodes:
            match node:
                case ast.Constant(value=str(name)) if name in (*_STEPS, "upgrade"):
                    raise Unclear(f"{name} by its name", node)
                case ast.Name(id=name) | ast.Attribute(attr=name) if name in _DYNAMIC:
                    raise Unclear(name, node)
                case ast.Name(id=name) | ast.Attribute(attr=name) if name == "import_module":
                    call = self._parents[id(node)]
                    statement = self._parents.get(id(call))
                    if not (self._is_called(node) and isinstance(statement, ast.Expr)):
                        raise Unclear("a module by its name", node)
                case ast.Attribute(attr=name, value=value) if (
                    name in _STEPS and id(node) not in self._of_context
                ):
                    origin = self._origin(value.id) if isinstance(value, ast.Name) else ""
                    if name != "configure" or not origin or origin.startswith("alembic"):
                        raise Unclear(f"another {name}", node)
                case ast.Call(func=func) if id(func) not in self._of_context:
                    name = _name_of(func)
                    last = self._origin(name).rpartition(".")[2]
                    if last in ("EnvironmentContext", "MigrationContext"):
                        raise Unclear("a context of its own", node)
                    if name not in local and (_MIGRATES.search(name) or _MIGRATES.search(last)):
                        raise Unclear(f"{name} may migrate", node)
                    if name == "execution_options" and any(not k.arg for k in node.keywords):
                        raise Unclear("options of a connection", node)
        if any(map(_WHERE.search, strings(self._tree))):
            raise Unclear("a word that decides which version table is found")

    def _refuse_lent_connections(self) -> None:
        """A helper that is given the connection may set where its tables are found."""
        calls = [node for node in self._nodes if isinstance(node, ast.Call)]
        lent: set[str] = set()
        for call in calls:
            if self.of_context(call.func) == "configure":
                given = [*call.args, *(k.value for k in call.keywords if k.arg == "connection")]
                lent |= {each.id for each in given if isinstance(each, ast.Name)}
        for call in calls:
            if _name_of(call.func) == "run_sync" and call.args:
                function = self.function(call.args[0])
                if function is not None:
                    lent |= {each.arg for each in function.args.args[:1]}
        for call in calls:
            given = [*call.args, *(keyword.value for keyword in call.keywords)]
            if (
                any(isinstance(each, ast.Name) and each.id in lent for each in given)
                and self.of_context(call.func) is None
                and self.function(call.func) is None
                and _name_of(call.func) not in _READERS
            ):
                raise Unclear("the connection is lent", call)


def _name_of(function: ast.expr) -> str:
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _imported_by(node: ast.AST) -> Iterator[tuple[str, str]]:
    """The names that an import binds, with what they are in full."""
    if isinstance(node, ast.Import):
        for each in node.names:
            yield each.asname or each.name.partition(".")[0], each.name
    elif isinstance(node, ast.ImportFrom):
        for each in node.names:
            yield each.asname or each.name, f"{node.module or ''}.{each.name}"


def _bound_by(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.arg(arg=name):
            yield name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.ExceptHandler(name=str(name)) | ast.MatchMapping(rest=str(name)):
            yield name
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name
        case ast.Global(names=names) | ast.Nonlocal(names=names):
            yield from names
        case _:
            for name, _ in _imported_by(node):
                yield name
