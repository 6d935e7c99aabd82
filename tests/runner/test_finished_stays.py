"""What has committed its last revision is migrated: nothing puts it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from support.notes_application import GOOD, ROWS, Application
from support.postgres_server import Server

from automigrator import MigrationError, Target
from automigrator.backends.sqlite import reader

pytestmark = [pytest.mark.plugins, pytest.mark.long("server_that_is_full", "[postgresql", "1.5")]

ALWAYS = ("backup-restore", {"snapshot": "always"})
MORE = 'op.create_table("more", sa.Column("id", sa.Integer))'
LOCKED = """
import sqlite3, threading
other = sqlite3.connect({path!r}, check_same_thread=False, isolation_level=None)
if other.execute("SELECT version_num FROM alembic_version").fetchall() == [("r3",)]:
    other.execute("BEGIN EXCLUSIVE")
    threading.Timer({seconds}, other.close).start()
else:
    other.close()
"""
FULL = """
import asyncio, asyncpg, threading
async def limited(limit):
    server = await asyncpg.connect({dsn!r})
    try:
        (row,) = await server.fetch("SELECT version_num FROM alembic_version")
        if row[0] == "r3":
            await server.execute(f"ALTER ROLE {role} CONNECTION LIMIT {{limit}}")
            await server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
                "datname = current_database() AND pid <> pg_backend_pid()")
            return True
    finally:
        await server.close()
def run(limit):
    made = []
    thread = threading.Thread(target=lambda: made.append(asyncio.run(limited(limit))))
    thread.start()
    thread.join()
    return made == [True]
if run(0):
    threading.Timer(1.5, run, [-1]).start()
"""


def at_the_end_of_env(notes: Application, lines: str) -> None:
    env = notes.root / "migrations" / "env.py"
    env.write_text(env.read_text() + lines)


class Impatient(Application):
    """Nothing is tried again as a whole."""

    def target(self, **options: Any) -> Target:
        return super().target(**{"retry_timeout": 0.0, **options})


def deployed(root: Path, url: str) -> Application:
    notes = Impatient(root, url, kind="per_migration")
    notes.deploy(GOOD, MORE)
    return notes


@pytest.mark.parametrize("seconds", [0.5, 1.5])
async def test_a_file_that_is_locked_at_that_moment_is_looked_at_again(
    seconds: float, tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BUSY_S", 0.2)
    notes = deployed(tmp_path, sqlite_url)
    path = str(make_url(sqlite_url).database)
    at_the_end_of_env(notes, LOCKED.format(path=path, seconds=seconds))

    (report,) = (await notes.start(ALWAYS)).targets

    assert (report.outcome, report.after, report.failures) == ("migrated", ("r3",), ())
    assert (notes.notes(), notes.heads) == (ROWS, {"r3"})


async def test_so_is_one_of_a_server_that_is_full(
    tmp_path: Path, postgres_server: Server, postgres_url: str
) -> None:
    name = str(make_url(postgres_url).database)
    postgres_server.execute(f"create role {name} login createdb")
    postgres_server.execute(f"alter database {name} owner to {name}")
    try:
        owned = make_url(postgres_url).set(username=name).render_as_string(hide_password=False)
        notes = deployed(tmp_path, owned)
        dsn = postgres_url.replace("+asyncpg", "")
        at_the_end_of_env(notes, FULL.format(dsn=dsn, role=name))

        (report,) = (await notes.start(ALWAYS)).targets

        assert (report.outcome, report.after, report.failures) == ("migrated", ("r3",), ())
        assert (notes.notes(), notes.heads) == (ROWS, {"r3"})
    finally:
        postgres_server.execute(f"alter role {name} connection limit -1")
        postgres_server.drop_all(name)
        postgres_server.execute(f"drop role {name}")


@pytest.mark.long
async def test_one_that_stays_out_of_sight_is_not_put_back_and_the_next_start_finds_it(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BUSY_S", 0.2)
    notes = deployed(tmp_path, sqlite_url)
    path = str(make_url(sqlite_url).database)
    at_the_end_of_env(notes, LOCKED.format(path=path, seconds=3))
    monkeypatch.setattr(notes, "target", lambda: Impatient.target(notes, connect_timeout=0.5))

    with pytest.raises(MigrationError) as caught:
        await notes.start(ALWAYS)

    (report,) = caught.value.report.targets
    assert "a migration that has ended is never put back" in "\n".join(report.notes)
    monkeypatch.setattr(reader, "BUSY_S", 10.0)
    (again,) = (await notes.start(ALWAYS)).targets
    assert (again.outcome, notes.heads) == ("current", {"r3"})
    assert "an earlier migration had ended at r3" in "\n".join(again.notes)


async def test_an_env_py_that_raises_after_its_last_commit_has_migrated(
    notes: Application,
) -> None:
    done = f"pathlib.Path({str(notes.root / 'done')!r})"
    notes.deploy(f"import pathlib\n{done}.touch()\n{GOOD}")
    late = f"\nimport pathlib\nif {done}.exists(): raise RuntimeError('late')\n"
    at_the_end_of_env(notes, late)

    (report,) = (await notes.start(ALWAYS)).targets

    assert (report.outcome, report.after) == ("migrated", ("r2",))
    assert [each.revision for each in report.applied] == ["r2"]
    assert "after its last commit env.py raised RuntimeError: late" in "\n".join(report.notes)
    assert (notes.notes(), notes.heads) == (ROWS, {"r2"})
