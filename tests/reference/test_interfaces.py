"""Interfaces for programs: every table is the code's, every JSON document is printed as it says."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.alembic_projects import project
from support.pages import DOCS
from support.terminal import Shell

from automigrator.backends import registry
from automigrator.cli import explanation
from automigrator.exits import Exit
from automigrator.failure import KINDS
from automigrator.fleet.executors import registry as executors
from automigrator.hooks import strategies

PAGE = DOCS / "reference" / "interfaces.md"
SOURCE = DOCS.parent / "src" / "automigrator"
APPLICATION = """
from automigrator import Migrator, Target
target = Target("sqlite+aiosqlite:///app.db", "alembic.ini", recovery=["log-and-continue"])
migrator = Migrator(target)
"""
COMMANDS = (
    "status",
    "plan",
    "run",
    "check",
    "wait",
    "doctor",
    "rollback -1 --yes",
    "clear --yes",
    "accept --yes",
    "snapshots take",
    "snapshots list",
    "snapshots restore {copy} --yes",
    "snapshots prune --keep 1 --yes",
    "plugins",
    "explain disk-full",
    "rollback absent --yes",
)
"""In this order; the last one is an error."""
LIST = re.compile(r'\[\s+("[^"]*"(?:,\s+"[^"]*")*)\s+\]')
"""A list of texts alone: it is shown in one line."""


def rows(heading: str) -> Iterator[list[str]]:
    """The cells of the table under a heading."""
    _, _, rest = PAGE.read_text("utf-8").partition(f"\n## {heading}\n")
    for line in rest.partition("\n## ")[0].splitlines():
        if line.startswith("| ") and "---" not in line:
            yield [cell.strip() for cell in line.strip("|").split("|")]


def test_the_exit_codes() -> None:
    _, *listed = rows("Exit codes")
    said = {int(code): row[1].strip("`") for row in listed for code in row[0].split(", ")}
    assert said == {1: "", **{int(code): code.outcome for code in Exit}}


def test_the_entry_point_groups() -> None:
    _, *listed = rows("Entry points")
    modules = (strategies, registry, executors)
    groups = {each.ENTRY_POINT_GROUP for each in modules}
    assert {row[0].strip("`") for row in listed} == groups
    named = "|".join(re.escape(each) for each in groups)
    for file in DOCS.parent.glob("plugins/*/pyproject.toml"):
        found = re.findall(r'entry-points\."?(automigrator[\w.]*)', file.read_text("utf-8"))
        assert all(re.fullmatch(named, each) for each in found)


def test_each_kind_of_failure_has_a_section_that_explain_prints() -> None:
    page = (DOCS / "failures.md").read_text("utf-8")
    assert {name for name, _ in explanation.MEANING.findall(page)} == KINDS


def test_the_environment_variables() -> None:
    _, *listed = rows("Environment variables")
    said = {row[0].strip("`") for row in listed}
    read = {name for file in SOURCE.rglob("*.py") for name in variables_in(file)}
    # PATH has a sentence; SQLite and Python read the others themselves, and Rich NO_COLOR
    assert read - {"PATH"} <= said
    assert said - read == {"NO_COLOR", "PYTHONDONTWRITEBYTECODE", "SQLITE_TMPDIR"}


def variables_in(file: Path) -> Iterator[str]:
    """What a module takes from the environment; all of PostgreSQL's are one."""
    tree = ast.parse(file.read_text("utf-8"))
    constants = {
        name.id: value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        for name, value in pairs(target, node.value)
        if isinstance(name, ast.Name) and isinstance(value, ast.Constant)
    }
    for node in ast.walk(tree):
        key: ast.expr | None = None
        match node:
            case ast.Call(func=ast.Attribute(attr="get", value=value), args=[key, *_]) if (
                "os.environ" in ast.unparse(value)
            ):
                pass
            case ast.Subscript(value=value, slice=key) if "os.environ" in ast.unparse(value):
                pass
            case ast.Compare(left=key, comparators=[value]) if "os.environ" in ast.unparse(value):
                pass
            case _:
                continue
        name = key.value if isinstance(key, ast.Constant) else constants.get(ast.unparse(key))
        if isinstance(name, str):
            yield "PG…" if name.startswith("PG") else name
    yield from (
        value
        for name, value in constants.items()
        if name.endswith("VARIABLE") or name in ("APP", "FLEET")
        if isinstance(value, str)
    )


def pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        yield from zip(target.elts, value.elts, strict=False)  # `a, *b = ...` names less
    else:
        yield target, value


@pytest.mark.plugins
@pytest.mark.long
def test_each_document_is_as_the_page_says(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    project(tmp_path, "async", "sqlite+aiosqlite:///app.db")
    (tmp_path / "app.py").write_text(APPLICATION, "utf-8")
    shell = Shell(tmp_path, {"AUTOMIGRATOR_APP": "app:migrator"})
    copy, text = "", PAGE.read_text("utf-8").partition("\n### ")[0].rstrip()
    for command in COMMANDS:
        document = shell(*command.format(copy=copy).split(), "--json").document
        if command == "snapshots take":
            copy = document["result"]["targets"][0]["snapshot"]["place"]
        shown = json.dumps(replaced(document, tmp_path), indent=2, ensure_ascii=False)
        shown = LIST.sub(lambda found: f"[{' '.join(found[1].split())}]", shown)
        title = command.format(copy="app.db.snapshot-20260301T070000000000Z-1")
        text += f"\n\n### `{title}`\n\n```json\n{shown}\n```"
    if request.config.getoption("--write-table"):
        PAGE.write_text(f"{text}\n", "utf-8")
    assert PAGE.read_text("utf-8") == f"{text}\n"


def replaced(value: Any, folder: Path, key: str = "") -> Any:
    """A document without what differs from run to run."""
    match value:
        case dict():
            return {name: replaced(each, folder, name) for name, each in value.items()}
        case list():
            return [replaced(each, folder, key) for each in value]
        case float():
            return 0.01
        case int() if key == "size":
            return 20480
        case str():
            value = value.replace(str(folder), "/srv/app")
            value = re.sub(r"\d{8}T\d{6,12}Z", "20260301T070000000000Z", value)
            value = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+", "2026-03-01T07:00:00", value)
            return re.sub(r"\b\d+\.\d+ s\b", "0.01 s", value)
    return value
