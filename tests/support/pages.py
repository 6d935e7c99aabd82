"""Pages of the docs, and how their blocks are run."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from support import alembic_projects
from support.postgres_server import Server

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```([\w-]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
SHOWN = {"text", "mermaid", "html", "json"}
"""Languages of blocks that only show something: nothing runs them."""


class Block(NamedTuple):
    language: str
    text: str


class Section(NamedTuple):
    """The blocks under one heading, in order."""

    heading: str
    blocks: tuple[Block, ...]

    def all(self, language: str) -> list[str]:
        return [text for said, text in self.blocks if said == language]

    def the(self, language: str) -> str:
        """The one block of that language."""
        (text,) = self.all(language)
        return text

    @property
    def runs(self) -> bool:
        return any(block.language not in SHOWN for block in self.blocks)


class Page:
    """A page whose blocks are run by the tests of one module, section by section."""

    def __init__(self, name: str) -> None:
        self.path = DOCS / f"{name}.md"
        self.sections = {each.heading: each for each in sections(self.path)}
        self._played: set[str] = set()

    def plays(self, *headings: str) -> pytest.MarkDecorator:
        """Mark a test: it gets these sections as one `section`, and runs their blocks."""
        self._played.update(headings)
        blocks = (block for each in headings for block in self.sections[each].blocks)
        section = Section(headings[0], tuple(blocks))
        return pytest.mark.parametrize("section", [section], ids=[section.heading.lower()])

    def unplayed(self) -> list[str]:
        """Headings of sections whose blocks no test runs."""
        runs = [heading for heading, section in self.sections.items() if section.runs]
        return [heading for heading in runs if heading not in self._played]


def sections(path: Path) -> list[Section]:
    """What a page holds under each of its headings."""
    text = path.read_text("utf-8")
    spans = [match.span() for match in BLOCK.finditer(text)]
    headings = [
        match
        for match in HEADING.finditer(text)
        if not any(first <= match.start() < last for first, last in spans)
    ]
    ends = [*(match.start() for match in headings[1:]), len(text)]
    return [
        Section(match[1], tuple(Block(*each) for each in BLOCK.findall(text[match.end() : end])))
        for match, end in zip(headings, ends, strict=True)
    ]


def script(name: str) -> ModuleType:
    """A script of the docs, as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def run_python(source: str, names: dict[str, Any], name: str = "a block of a page") -> None:
    """Run a block as an asyncio console does; it keeps its names in `names`."""
    code = compile(source, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    answer = eval(code, names)
    if inspect.isawaitable(answer):
        await answer


def run_shell(commands: str, folder: Path, **environment: str) -> str:
    """Run a block in bash, which stops at the first error; what it printed on stdout."""
    return shell(commands, folder, environment).stdout


def shell(
    commands: str, folder: Path, environment: Mapping[str, str], ends_with: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run commands in bash, and look at the exit code. Our own commands are found first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env={**os.environ, **environment, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == ends_with, f"{ended.returncode}: {ended.stdout}{ended.stderr}"
    return ended


def run_sql(script: str, server: Server, database: str | None = None) -> None:
    """Run a script's statements one by one, as psql does."""
    for statement in script.split(";\n"):
        lines = [line for line in statement.splitlines() if not line.startswith("--")]
        if "".join(lines).strip():
            server.execute("\n".join(lines), database=database)


def furnish(folder: Path) -> None:
    """Put there what the pages work on: an alembic.ini, an older one, two that fail."""
    alembic_projects.project(folder, "async", "sqlite+aiosqlite:///app.db")
    failing = {
        "broken": ("device.db", "op.execute('SELECT * FROM absent')"),
        "unique": ("duplicates.db", "op.create_index('one', 'notes', ['text'], unique=True)"),
    }
    for name, (file, upgrade) in failing.items():
        with closing(sqlite3.connect(folder / file)) as connection, connection:
            connection.execute("CREATE TABLE notes (text)")
            connection.execute("INSERT INTO notes VALUES ('twice'), ('twice')")
            connection.execute("CREATE TABLE alembic_version (version_num PRIMARY KEY)")
            connection.execute("INSERT INTO alembic_version VALUES ('r1')")

        def revisions(folder: Path, upgrade: str = upgrade) -> None:
            table = 'op.create_table("notes", sa.Column("text", sa.Text))'
            alembic_projects.revision(folder, "r1", None, upgrade=table)
            alembic_projects.revision(folder, "r2", "r1", upgrade=upgrade)

        alembic_projects.project(
            folder / name, "async", f"sqlite+aiosqlite:///{file}", revisions=revisions
        )
    alembic_projects.project(
        folder / "older",
        "async",
        "sqlite+aiosqlite:///app.db",
        revisions=lambda versions: alembic_projects.linear(versions, 2),
    )
