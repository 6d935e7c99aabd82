"""The house: which package may import which, read from the imports themselves.

Type-only and function-local imports count like any other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import automigrator

ROOT = Path(automigrator.__file__).parent
PACKAGE = "automigrator"

TIERS = (
    {"__init__", "testing", "cli", "asgi"},
    {"prometheus", "fleet"},
    {"cohort"},
    {"migrator"},
    {"runner"},
    {"hooks", "migrations"},
    {"events", "backends"},
    {"target"},
    {"retention", "rehearsal", "timeouts"},
    {"support"},
    {"errors"},
    {"report"},
    {"failure", "_version"},
)
"""From the top down; a module imports its own tier's packages only where they are its own."""

FACES = {"__init__", "testing", "asgi", "prometheus", "fleet"}
"""What users import from; their modules pass on what others define."""

LONGEST, LARGEST = 350, 26
"""Lines of a module, and files of a package."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


@cache  # read by the tests alone: every process collects this file
def trees() -> Mapping[str, ast.Module]:
    return {name: ast.parse(path.read_text("utf-8")) for name, path in MODULES.items()}


def imported(tree: ast.Module) -> Iterator[str]:
    """Every module of ours that a module imports, by its name within the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def arrows() -> Mapping[str, set[str]]:
    """From each module to those of ours that it imports."""
    found: dict[str, set[str]] = {}
    for name, tree in trees().items():
        ours = {each.removeprefix(f"{PACKAGE}.") for each in imported(tree)}
        found[name] = {each for each in ours if each in MODULES and each != name}
        if PACKAGE in imported(tree) and name != "__init__":
            found[name].add("__init__")
    return found


def room(module: str) -> str:
    """The package at the root, or the root module, that a module is in."""
    rooms = {
        "__main__": "cli",
        "exits": "errors",
        "operations": "migrator",
        "readiness": "report",
        "status": "report",
        "measurement": "report",
        "rehearsed": "report",
        "frozen": "failure",
        "printable": "failure",
    }
    return rooms.get(module, module.partition(".")[0])


def tier(module: str) -> int:
    return next(number for number, rooms in enumerate(TIERS) if room(module) in rooms)


def test_no_module_imports_upward() -> None:
    upward = [
        f"{name} imports {other}"
        for name, others in arrows().items()
        for other in sorted(others)
        if tier(other) < tier(name) or (tier(other) == tier(name) and room(other) != room(name))
    ]
    assert not upward, "\n".join(upward)


def test_no_modules_import_each_other_in_a_circle() -> None:
    circles = [" -> ".join(circle) for circle in strongly_connected(arrows())]
    assert not circles, "\n".join(circles)


def test_the_kinds_of_database_are_strangers_and_named_by_the_registry_alone() -> None:
    kinds = ("backends.sqlite", "backends.postgresql")

    def kind(module: str) -> str | None:
        return next((each for each in kinds if f"{module}.".startswith(f"{each}.")), None)

    strangers = [
        f"{name} imports {other}"
        for name, others in arrows().items()
        for other in sorted(others)
        if kind(other) not in (None, kind(name)) and name != "backends.registry"
    ]
    assert not strangers, "\n".join(strangers)


def test_only_the_migrations_package_imports_alembic() -> None:
    others = [
        name
        for name, tree in trees().items()
        if room(name) != "migrations"
        and any(each.partition(".")[0] == "alembic" for each in imported(tree))
    ]
    assert not others


def test_modules_are_short_and_packages_small() -> None:
    long = [n for n, path in MODULES.items() if len(path.read_text().splitlines()) > LONGEST]
    assert not long
    folders = {path.parent for path in MODULES.values()}
    assert not [each for each in folders if len(list(each.glob("*.py"))) > LARGEST]


def test_no_module_only_passes_things_on() -> None:
    passing = [
        name
        for name, tree in trees().items()
        if name not in FACES and tree.body[1:] and not any(map(defines, tree.body))
    ]
    assert not passing


def defines(node: ast.stmt) -> bool:
    """Whether a statement makes something of its own; `__all__` lists what others made."""
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return any(getattr(target, "id", "") != "__all__" for target in targets)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def strongly_connected(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Each circle's modules, by Tarjan's algorithm (SIAM J. Comput. 1:2, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    circles: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            circle = [stack.pop()]
            while circle[-1] != node:
                circle.append(stack.pop())
            if len(circle) > 1:
                circles.append(sorted(circle))

    for node in graph:
        if node not in index:
            visit(node)
    return circles
