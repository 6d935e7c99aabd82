"""A database is purged on its own word only: never for the surroundings' sake, or for Python's."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from automigrator_purge import Purge
from sqlalchemy import make_url
from support.notes_application import ROWS, UNIQUE, Application, set_aside

from automigrator import MigrationError, Run, TargetReport, hookimpl

pytestmark = pytest.mark.long(
    "[postgresql",
    "those_of_the_surroundings[",
    "hide_the_lock_that_was_in_the_way[generic",
    "table_is_recreated[deleted",
    "table_is_recreated[kept-generic",
    "sqlite-a missing file",
    "sqlite-a disk that fails",
    "sqlite-too many",
    "sqlite-a name",
    "sqlite-a missing package",
)


@pytest.fixture
def file_notes(tmp_path: Path, sqlite_url: str) -> Application:
    return Application(tmp_path, sqlite_url)


async def failed(application: Application, *recovery: Any) -> TargetReport:
    with pytest.raises(MigrationError) as info:
        await application.start(*(recovery or ("purge",)))
    (report,) = info.value.report.targets
    assert application.notes() == ROWS
    assert application.heads == {"r1"}
    return report


ELSEWHERE = """
import sqlite3
import sqlalchemy as other_sa
place = {folder!r} + "/other.db"
"""
SURROUNDINGS = {
    "a refused connection": "import socket\nsocket.create_connection(('127.0.0.1', 1))",
    "a name that is not known": "import socket\nsocket.getaddrinfo('absent.invalid', 1)",
    "a missing variable": "import os\nos.environ['ABSENT_VARIABLE']",
    "a missing file": "open('/absent/seeds.csv')",
    "a missing package": "import absent_package",
    "too many open files": "import errno\nraise OSError(errno.EMFILE, 'Too many open files')",
    "a disk that fails": "import errno\nraise OSError(errno.EIO, 'Input/output error')",
    "no memory": "raise MemoryError",
    "sys.exit": "raise SystemExit(3)",
    "a database beside it": f"{ELSEWHERE}sqlite3.connect(place).execute('SELECT * FROM absent')",
    "a damaged file beside it": (
        f"{ELSEWHERE}__import__('pathlib').Path(place).write_text('no database' * 999)\n"
        "sqlite3.connect(place).execute('SELECT * FROM absent')"
    ),
    "an engine of another database": (
        f"{ELSEWHERE}with other_sa.create_engine('sqlite:///' + place).connect() as other:\n"
        "    other.exec_driver_sql('SELECT * FROM absent')"
    ),
    "a function that is not there": "op.execute('SELECT absent(text) FROM notes')",
    "an error that was dealt with": (
        "try:\n    with op.get_bind().begin_nested(): op.execute('SELECT absent(1)')\n"
        f"except Exception: pass\n{UNIQUE}"
    ),
    "an error hidden by the clean-up": (
        "try:\n    with op.get_bind().begin_nested(): op.execute('SELECT absent(1)')\n"
        "except Exception:\n    op.drop_table('not_there')\n    raise"
    ),
}
CODE = {
    "a Python error": "raise LookupError('no luck')",
    "a Python error that the database is behind": (
        "try:\n    with op.get_bind().begin_nested(): op.execute('SELECT * FROM absent')\n"
        "except Exception: {}['absent']"
    ),
    "a Python error that a constraint is behind": (
        f"try:\n    with op.get_bind().begin_nested(): {UNIQUE}\n"
        "except Exception as error: raise RuntimeError('duplicates') from error"
    ),
}


@pytest.mark.long(
    "missing variable",
    "sys.exit",
    "a database beside it",
    "an engine of another",
    "was dealt with",
    "database is behind",
    "a function that",
)
@pytest.mark.parametrize(
    "body", [*SURROUNDINGS.values(), *CODE.values()], ids=[*SURROUNDINGS, *CODE]
)
async def test_an_error_that_is_not_the_databases_own_word_costs_no_data(
    body: str, notes: Application, tmp_path: Path
) -> None:
    notes.deploy(body.format(folder=str(tmp_path)) if body.startswith("\nimport") else body)

    report = await failed(notes)

    assert [each.blames for each in report.failures] in (["surroundings"], ["code"])
    assert not any(note.startswith("purged") for note in report.notes)
    assert report.failures[0].kind != "corrupt"
    if report.failures[0].kind == "revision":
        assert any("purge was not asked: " in note for note in report.notes)


@pytest.mark.parametrize("body", SURROUNDINGS.values(), ids=SURROUNDINGS)
async def test_python_errors_are_not_those_of_the_surroundings(
    body: str, file_notes: Application, tmp_path: Path
) -> None:
    file_notes.deploy(body.format(folder=str(tmp_path)) if body.startswith("\nimport") else body)

    report = await failed(file_notes, ("purge", {"python_errors": True}))

    assert [each.blames for each in report.failures] == ["surroundings"]


async def test_an_error_of_the_revisions_own_code_is_purged_for_where_that_is_asked_for(
    notes: Application,
) -> None:
    notes.deploy(
        "(count,) = op.get_bind().exec_driver_sql('SELECT count(*) FROM notes').one()\n"
        "if count: raise LookupError('no luck')"
    )

    (report,) = (await notes.start(("purge", {"python_errors": True}))).targets

    assert (report.outcome, report.failures[0].blames) == ("recovered", "code")
    assert notes.notes(set_aside(report)) == ROWS


@pytest.mark.long("r9-newer")
@pytest.mark.parametrize(
    ("head", "why"), [("r2", "nothing is pending"), ("r9", "newer code has migrated the database")]
)
async def test_what_somebody_has_migrated_meanwhile_is_not_purged(
    head: str, why: str, notes: Application
) -> None:
    class Somebody:
        @hookimpl
        def on_failure(self, run: Run) -> None:
            notes.execute(f"UPDATE alembic_version SET version_num = '{head}'")

    notes.deploy(UNIQUE)
    with pytest.raises(MigrationError) as info:
        await notes.start("purge", plugins=[Somebody()])

    assert why in info.value.report.targets[0].notes[0]
    assert notes.notes() == ROWS


@pytest.mark.parametrize("value", ["yes", 1])
def test_python_errors_is_true_or_false(value: Any) -> None:
    with pytest.raises(ValueError, match="python_errors must be True or False"):
        Purge(python_errors=value)


BATCH = """
op.execute("PRAGMA max_page_count = 12")
with op.batch_alter_table("notes", recreate="always") as batch:
    batch.add_column(sa.Column("more", sa.Integer))
"""


@pytest.mark.parametrize("kind", ["async", "generic"])
@pytest.mark.parametrize("options", [{}, {"set_aside": False}], ids=["kept", "deleted"])
async def test_a_disk_that_fills_up_while_a_table_is_recreated(
    options: dict[str, Any], kind: str, tmp_path: Path, sqlite_url: str
) -> None:
    """SQLite rolls back by itself, so that Alembic's clean-up fails as well."""
    notes = Application(tmp_path, sqlite_url, kind=kind)
    notes.execute(*(f"INSERT INTO notes VALUES ({n}, hex(zeroblob(1500)))" for n in range(10, 18)))
    before = notes.notes()
    notes.deploy(BATCH)

    with pytest.raises(MigrationError) as info:
        await notes.start(("purge", options))

    (report,) = info.value.report.targets
    assert [(each.kind, each.blames) for each in report.failures] == [("disk-full", "surroundings")]
    assert notes.notes() == before


CLEANS_UP = """
try:
    op.add_column("notes", sa.Column("more", sa.Integer))
except Exception:
    op.execute("DROP TABLE IF EXISTS half")
    raise
"""


@pytest.mark.parametrize("kind", ["async", "generic"])
async def test_a_clean_up_does_not_hide_the_lock_that_was_in_the_way(
    kind: str, tmp_path: Path, postgres_url: str
) -> None:
    notes = Application(tmp_path, postgres_url, kind=kind)
    notes.deploy(CLEANS_UP)
    dsn = make_url(postgres_url).set(drivername="postgresql")
    other = await asyncpg.connect(dsn.render_as_string(hide_password=False))
    await other.execute("BEGIN; SELECT count(*) FROM notes")
    starting = asyncio.create_task(notes.start("purge"))
    await asyncio.sleep(1)
    await other.close()

    (report,) = (await starting).targets

    assert (report.outcome, report.failures) == ("migrated", ())
    assert notes.notes() == ROWS
