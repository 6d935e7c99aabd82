"""Files and databases of ours: the page lists what the code names, and nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import pytest
from sqlalchemy import make_url
from support.pages import DOCS, Section, run_python, sections

from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql import names, notes
from automigrator.backends.postgresql.dump import files as dumps
from automigrator.backends.postgresql.locking import advisory, session
from automigrator.backends.sqlite import companions, lock_files
from automigrator.backends.sqlite.copying import copies
from automigrator.migrations.static import cache
from automigrator.migrations.static.layout import Layout

PAGE = DOCS / "reference" / "stored.md"
SOURCE = DOCS.parent / "src" / "automigrator"
LIVE = Path("/srv/app.db")
STAMP = "20260301T070000123456Z"


def cells(heading: str) -> set[str]:
    """What the first column of a section's table names, in code."""
    _, _, rest = PAGE.read_text("utf-8").partition(f"\n## {heading}\n")
    rows = re.findall(r"^\| ([^|]+) \|", rest.partition("\n## ")[0], re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def shown(name: str) -> str:
    """A name of the code's, as the page has it."""
    name = name.lower().replace(STAMP.lower(), "<time>")
    return re.sub(r"_[0-9a-f]{8}_(?=<time>)", "_<where>_", re.sub("_[0-9a-f]{16}$", "_<key>", name))


def test_files_beside_a_sqlite_database() -> None:
    made = [
        *(lock_files.path_of(LIVE, each) for each in suffixes(lock_files)),
        companions.journal_path(LIVE),
        companions.checksums_path(LIVE),
        companions.progress_path(LIVE),
        *(companions.beside(LIVE, f".{kind}-{STAMP}") for kind in get_args(copies.Kind)),
    ]
    named = {shown(each.name) for each in made}
    assert cells("Beside a SQLite file") - {"….partial", "….automigrator-new"} == named
    in_folder = copies.snapshot_path(LIVE, STAMP, Path("/folder")).name
    assert re.fullmatch(rf"app\.db\.[0-9a-f]{{10}}\.snapshot-{STAMP}", in_folder)


def suffixes(module: Any) -> list[str]:
    """The names that a module gives to files beside a database."""
    return [each for each in vars(module).values() if str(each).startswith(".automigrator-")]


def test_no_file_of_another_name_is_made() -> None:
    """Each text in the code that looks like the end of a name of ours is on the page."""
    page = PAGE.read_text("utf-8")
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for name in re.findall(r"^\.(?:automigrator-[\w.-]+|partial)$", node.value):
                    assert f".{name.lstrip('.')}" in page, f"{file}: {name}"


def test_types_in_a_postgresql_database() -> None:
    kinds = {shown(notes.note_name(kind, 7)) for kind in get_args(notes.Note)}
    assert cells("In a PostgreSQL database") == {names.SCHEMA_OF_OURS, *kinds}


def test_databases_on_the_server() -> None:
    kinds = {shown(names.name_beside("app", each, STAMP)) for each in get_args(names.Kind)}
    assert cells("Databases on the same server") == kinds


def test_dumps() -> None:
    url = make_url("postgresql://u@h/app")
    made = {
        shown(f"{dumps._beginning(url, kind)}{STAMP}") + ".dump" for kind in get_args(dumps.Kind)
    }
    more = {dumps._description(Path("….dump")).name, f"…{dumps._PARTIAL}"}
    assert cells("Dumps") == made | more


def test_the_cache_of_a_history(tmp_path: Path) -> None:
    layout = cast(Layout, SimpleNamespace(versions=[tmp_path]))
    made = cache._path(layout)
    assert made is not None
    name = re.sub("[0-9a-f]{16}", "<16 hex digits>", str(made.relative_to(tmp_path)))
    name = re.sub(r"cpython-\d+", "cpython-311", name)
    assert f"`<versions>/{name}`" in PAGE.read_text("utf-8")


@pytest.fixture
def locks() -> Section:
    (section,) = (each for each in sections(PAGE) if each.runs)
    return section


async def test_advisory_keys_and_names_of_sessions(locks: Section) -> None:
    told: dict[str, Any] = {}
    await run_python(locks.the("python"), told)
    for database, table in (("shop", VersionTable()), ("other", VersionTable("v", "s"))):
        (key,) = advisory.keys(database, [table])
        assert told["key_of"](database, table.schema or "public", table.name) == key
    page = PAGE.read_text("utf-8")
    assert advisory.PROTOCOL in page
    assert re.fullmatch("automigrator [0-9a-f]{16} ", session.tag_of(told["key"]))
    assert "`automigrator <key> <host>:<process>`" in page


def test_the_list_of_columns_says_how_long_and_who() -> None:
    for row in rows():
        assert all(cell.strip() for cell in row), row


def rows() -> Iterator[list[str]]:
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("|"):
            yield line.strip("|").split("|")
