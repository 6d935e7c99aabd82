"""Restoring by hand: every step of the page, after a migration that was killed half way."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from support.alembic_projects import project, revision
from support.pages import Page, Section, run_shell, run_sql
from support.postgres_server import Server

from automigrator import Migrator, Report, Target

pytestmark = pytest.mark.plugins

PAGE = Page("restoring")

MIGRATOR = """
import os
from automigrator import Migrator, Target
options = {"snapshot": "always", "copy": os.environ["COPY"], "folder": os.environ.get("FOLDER")}
target = Target(os.environ["DATABASE_URL"], "alembic.ini", recovery=[("backup-restore", options)])
migrator = Migrator(target)
if __name__ == "__main__":
    migrator.run_sync(mode="migrate")
"""


def test_every_section_is_played() -> None:
    assert PAGE.unplayed() == []


class Application:
    """One that was killed in r2, which had committed half of itself, with a row written before."""

    def __init__(self, folder: Path, url: str, **environment: str) -> None:
        self.folder = folder
        self.url = url if ":///" not in url else f"sqlite+aiosqlite:///{folder / 'app.db'}"
        self.environment = {"DATABASE_URL": self.url, "AUTOMIGRATOR_APP": "wiring:migrator"}
        self.environment |= {"COPY": "auto"} | environment
        versions = project(folder, "async", self.url, revisions=lambda folder: None).versions
        (folder / "wiring.py").write_text(MIGRATOR, "utf-8")
        revision(versions, "r1", None, upgrade="op.execute('create table notes (id integer)')")
        self.migrate()
        self.insert()
        revision(
            versions,
            "r2",
            "r1",
            imports="import os, signal",
            upgrade="""
            with op.get_context().autocommit_block():
                op.execute("delete from notes")
            os.kill(os.getpid(), signal.SIGKILL)
            """,
        )
        killed = subprocess.run(
            [sys.executable, "wiring.py"],
            cwd=folder,
            env=os.environ | self.environment,
            capture_output=True,
            check=False,
        )
        assert killed.returncode == -9, killed.stderr
        self.repaired = revision(versions, "r2", "r1", upgrade="pass")

    def insert(self) -> None:
        with closing(sqlite3.connect(self.folder / "app.db")) as connection, connection:
            connection.execute("insert into notes values (7)")

    def notes(self) -> list[tuple[int]]:
        with closing(sqlite3.connect(self.folder / "app.db")) as connection:
            return connection.execute("select id from notes").fetchall()

    def migrate(self) -> Report:
        return Migrator(Target(self.url, self.folder / "alembic.ini"), mode="migrate").run_sync()

    def type(self, commands: str, **more: str) -> str:
        return run_shell(commands, self.folder, **self.environment, **more)


class OnPostgreSQL(Application):
    def __init__(self, folder: Path, server: Server, name: str, copy: str) -> None:
        self.server, self.name = server, name
        server.create(name)
        url = make_url(server.url(name))
        super().__init__(
            folder,
            server.url(name),
            COPY=copy,
            FOLDER=str(folder / "backups"),
            OWNER=url.username or "",
            **{
                f"PG{key}": str(value)
                for key, value in (
                    ("HOST", url.host),
                    ("PORT", url.port),
                    ("USER", url.username),
                    ("PASSWORD", url.password),
                    ("DATABASE", name),
                )
            },
        )

    def insert(self) -> None:
        self.server.execute(f"revoke connect on database {self.name} from public")
        self.server.execute(f"alter database {self.name} set statement_timeout = '7min'")
        self.server.execute("insert into notes values (7)", database=self.name)

    def properties(self) -> Any:
        """Of the database itself: its owner, who may do what, its settings."""
        (row,) = self.server.execute(
            "select datdba, array(select unnest(datacl)::text order by 1), setconfig"
            " from pg_database d left join pg_db_role_setting on setdatabase = d.oid"
            " where datname = $1",
            self.name,
        )
        return tuple(row)

    def notes(self) -> list[tuple[int]]:
        rows = self.server.execute("select id from notes", database=self.name)
        return [tuple(row) for row in rows]


@pytest.fixture
def killed(tmp_path: Path) -> Application:
    application = Application(tmp_path, "sqlite+aiosqlite:///app.db")
    assert application.notes() == [] and (tmp_path / "app.db.automigrator-journal.json").exists()
    return application


@PAGE.plays("Afterwards")
@pytest.mark.long
def test_a_start_after_the_steps_migrates_again(section: Section, killed: Application) -> None:
    _, put = PAGE.sections["With the command"].all("sh")
    killed.type(put)
    healthy(killed)


def healthy(application: Application) -> None:
    """The row is back, nothing is open, and the next start migrates."""
    assert application.notes() == [(7,)]
    (afterwards,) = PAGE.sections["Afterwards"].all("sh")
    said = application.type(afterwards)
    assert "at r1, 1 pending to r2" in said and "journal" not in said and "failed" not in said
    (report,) = application.migrate().targets
    assert [each.revision for each in report.applied] == ["r2"]
    assert application.notes() == [(7,)]


@PAGE.plays("With the command")
@pytest.mark.long
def test_the_command_puts_a_copy_back(section: Section, killed: Application) -> None:
    find, put = section.all("sh")
    assert "app.db.snapshot-" in killed.type(find)
    said = killed.type(put)
    assert "from an unknown revision" not in said
    assert "app: at r1, 1 pending to r2: r2" in said
    assert killed.notes() == [(7,)]


@PAGE.plays("SQLite without automigrator")
@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="sqlite3 is not installed")
def test_a_sqlite_copy_is_put_back_with_a_shell(section: Section, killed: Application) -> None:
    look, aside, put, _ = section.all("sh")
    assert killed.type(look).split() == ["ok", "r1"]
    killed.type(aside)
    killed.type(put)
    assert sorted(path.name for path in killed.folder.glob("app.db*")) == [
        "app.db",
        "app.db.automigrator-checksums.json",
        "app.db.automigrator-lock",
        *sorted(path.name for path in killed.folder.glob("app.db.snapshot-*")),
    ]
    healthy(killed)


@PAGE.plays("SQLite: a copy of your own")
@pytest.mark.parametrize(("mode", "looks"), [("delete", True), ("wal", True), ("wal", False)])
@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="sqlite3 is not installed")
def test_a_copy_that_cp_made_is_put_back_with_what_is_in_its_log(
    section: Section, mode: str, looks: bool, tmp_path: Path
) -> None:
    """`cp` of an open database, with a row that is in its log alone, before a bad migration."""

    class Copied(Application):
        def insert(self) -> None:
            with closing(sqlite3.connect(self.folder / "app.db")) as connection:
                connection.execute(f"PRAGMA journal_mode = {mode}")
                with connection:
                    connection.execute("insert into notes values (7)")
                for log in ("", "-wal"):
                    if (file := self.folder / f"app.db{log}").exists():
                        shutil.copy(file, self.folder / f"mine.db{log}")

    killed = Copied(tmp_path, "sqlite+aiosqlite:///app.db")
    assert (tmp_path / "mine.db-wal").exists() == (mode == "wal")
    look, aside, put = section.all("sh")
    if looks:  # SQLite moves the log into the copy then
        assert killed.type(look).split() == ["ok", "r1"]
    killed.type(aside)
    killed.type(put)
    healthy(killed)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="sqlite3 is not installed")
def test_a_sqlite_copy_is_put_back_under_an_open_connection(killed: Application) -> None:
    *_, over = PAGE.sections["SQLite without automigrator"].all("sh")
    with closing(sqlite3.connect(killed.folder / "app.db")) as connection:
        assert connection.execute("select * from notes").fetchall() == []
        killed.type(over)
        assert connection.execute("select * from notes").fetchall() == [(7,)]
    assert (killed.folder / "app.db.before-restore").exists()
    (killed.folder / "app.db.automigrator-journal.json").unlink()
    healthy(killed)


@PAGE.plays("PostgreSQL: a template copy")
@pytest.mark.long
def test_a_template_copy_is_renamed(
    section: Section, tmp_path: Path, postgres_server: Server, postgres_name: str
) -> None:
    killed = OnPostgreSQL(tmp_path, postgres_server, postgres_name, "template")
    assert killed.notes() == []
    before = killed.properties()
    find, rename = section.all("sql")
    (copy,) = (
        row["datname"]
        for row in postgres_server.execute(find.rstrip(";\n"))
        if row["datname"].startswith(f"{killed.name}_")
    )
    rename = re.sub(r"shop__automigrator_snapshot_\w+", copy, rename)
    rename = re.sub(r"\bshop(?=\b|_before)", killed.name, rename)
    postgres_server.close()
    run_sql(rename, postgres_server)
    assert killed.properties() == before
    healthy(killed)


@PAGE.plays("PostgreSQL: a dump")
@pytest.mark.long
@pytest.mark.skipif(shutil.which("pg_restore") is None, reason="pg_restore is not installed")
def test_a_dump_is_restored_beside_the_database(
    section: Section, tmp_path: Path, postgres_server: Server, postgres_name: str
) -> None:
    (tmp_path / "backups").mkdir(mode=0o700)
    killed = OnPostgreSQL(tmp_path, postgres_server, postgres_name, "dump")
    assert killed.notes() == []
    restore, rename = section.all("sh")
    assert killed.type(restore).split()[-1] == "r1"
    assert killed.notes() == []
    killed.type(rename)
    healthy(killed)
