"""A new database that begins with a schema file: it equals a replay, or every revision is run."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from support.alembic_projects import contents, query, revision

from automigrator import MigrationError, Migrator, RefusedError, Report, Target
from automigrator.backends.contract import schema_file

pytestmark = [
    pytest.mark.usefixtures("database_url"),
    pytest.mark.long("postgresql-env", "postgresql-none", "postgresql-x", "postgresql-the"),
    pytest.mark.skipif(shutil.which("pg_dump") is None, reason="no PostgreSQL client programs"),
]

Make = Callable[..., Target]

ODD = "it's 100% :odd, \\\\ \\n;\\n-- line {x}"

ROWS = f"""
op.create_table(
    "parents",
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("a text", sa.String(200), server_default="x'y"),
    sa.Column("data", sa.LargeBinary),
    sa.Column("ratio", sa.Float),
)
op.create_table(
    "children",
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("parent", sa.Integer, sa.ForeignKey("parents.id")),
)
op.create_index("by_parent", "children", ["parent"])
parents = sa.table("parents", *map(sa.column, ["id", "a text", "data", "ratio"]))
op.bulk_insert(parents, [
    {{"id": 1, "a text": "{ODD}", "data": b"\\0\\1\\xff", "ratio": 0.1 + 0.2}},
    {{"id": 2, "a text": None, "data": None, "ratio": -1e300}},
])
children = sa.table("children", *map(sa.column, ["id", "parent"]))
op.bulk_insert(children, [{{"id": 5, "parent": 2}}])
"""

ONLY = {
    "sqlite": """
        op.execute("CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT, x INT)")
        op.execute("INSERT INTO counted (x) VALUES (1), (2)")
        op.execute("DELETE FROM counted WHERE x = 2")
        op.execute("CREATE VIEW seen AS SELECT x FROM counted")
        op.execute("CREATE TRIGGER t AFTER INSERT ON counted BEGIN UPDATE counted SET x = 7; END")
        op.execute("PRAGMA user_version=12")
    """,
    "postgresql": """
        op.execute("CREATE SCHEMA apart")
        op.execute("CREATE TYPE mood AS ENUM ('sad', 'glad')")
        op.execute("CREATE TABLE apart.counted (id serial PRIMARY KEY, m mood DEFAULT 'sad',"
                   " n int GENERATED ALWAYS AS IDENTITY,"
                   " twice int GENERATED ALWAYS AS (7 * 2) STORED)")
        op.execute("INSERT INTO apart.counted (m) VALUES ('glad'), ('sad')")
        op.execute("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN\\n"
                   "SET LOCAL statement_timeout = 0;\\nRETURN NEW; END $$")
        op.execute("CREATE TRIGGER t BEFORE UPDATE ON apart.counted"
                   " FOR EACH ROW EXECUTE FUNCTION f()")
        op.execute("COMMENT ON TABLE apart.counted IS 'it''s\\n\\\\\\\\restrict x'")
        op.execute("GRANT SELECT ON apart.counted TO PUBLIC")
    """,
}


def rich(kind: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        revision(folder, "r1", None, upgrade=ROWS, downgrade="pass")
        revision(folder, "r2", "r1", upgrade=ONLY[kind])

    return write


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "schema.sql"


@pytest.fixture
def target(make_target: Make, database_url: str, file: Path) -> Target:
    kind = make_url(database_url).get_backend_name()
    return make_target(rich(kind), name="app", bootstrap=file)


_DUMPED: dict[str, str] = {}


@pytest.fixture
async def dumped(target: Target, file: Path, database_url: str) -> Path:
    """The schema file of r1 and r2, which is the same for every folder and database of a kind."""
    kind = make_url(database_url).get_backend_name()
    if kind not in _DUMPED:
        await Migrator(target).dump_schema()
    _DUMPED[kind] = copied(file, _DUMPED.get(kind))
    return file


def copied(file: Path, text: str | None) -> str:
    """Write a file, or read it where nothing is to be written."""
    if text is not None:
        file.write_text(text, "utf-8")
    return file.read_text("utf-8")


async def start(target: Target) -> Report:
    return await Migrator(target, mode="migrate").run()


def spoil(path: Path, *, remove: bool = False) -> None:
    if remove:
        path.unlink()
    else:
        path.write_text(path.read_text("utf-8").replace("children", "infants") + "\n# edited\n")


def add(file: Path, statement: str) -> None:
    """Let a schema file end with another statement."""
    made = schema_file.read(file)
    assert not isinstance(made, str)
    file.write_text(made._replace(statements=(*made.statements, statement)).dumped(), "utf-8")


def ran(report: Report) -> list[str]:
    return [each.revision for each in report.targets[0].applied]


async def test_it_makes_what_the_revisions_make(
    target: Target, dumped: Path, database_url: str
) -> None:
    assert await Migrator(target).check_schema() == ()

    report = await start(target)
    assert (report.outcome, ran(report), report.targets[0].after) == ("migrated", [], ("r2",))
    assert report.targets[0].notes == ()
    found = contents(database_url)
    assert len(found["parents"]) == 2 and len(found["children"]) == 1
    assert (await start(target)).outcome == "current"


async def test_later_revisions_are_applied_on_top(
    target: Target, dumped: Path, versions: Path, database_url: str
) -> None:
    revision(versions, "r3", "r2", upgrade='op.add_column("children", sa.Column("x", sa.Integer))')
    assert await Migrator(target).check_schema() == ()
    report = await start(target)
    assert (report.outcome, ran(report)) == ("migrated", ["r3"])
    assert query(database_url, "SELECT x FROM children")[0][0] is None


@pytest.mark.parametrize("what", ["a revision", "env.py", "the file", "none", "x"])
async def test_where_it_does_not_fit_every_revision_is_run(
    target: Target, dumped: Path, versions: Path, what: str
) -> None:
    changed = {"a revision": versions / "r1_.py", "env.py": versions.parent / "env.py"}
    if what == "x":
        target = target._replace(x=["a=b"])
    else:
        spoil(changed.get(what, dumped), remove=what == "none")
    assert await Migrator(target).check_schema()
    report = await start(target)
    assert (report.outcome, ran(report)) == ("migrated", ["r1", "r2"])
    (note,) = report.targets[0].notes
    assert "schema.sql was not used" in note and "every revision is run" in note


async def test_a_database_with_something_in_it_is_migrated_as_ever(
    target: Target, dumped: Path
) -> None:
    await start(target._replace(bootstrap=None, revision="r1"))
    report = await start(target)
    assert (report.outcome, ran(report), report.targets[0].notes) == ("migrated", ["r2"], ())


async def test_what_differs_from_run_to_run_is_no_schema_file(
    target: Target, file: Path, versions: Path
) -> None:
    revision(
        versions,
        "r3",
        "r2",
        imports="import uuid",
        upgrade='op.execute(f"UPDATE parents SET \\"a text\\" = \'{uuid.uuid4()}\'")',
    )
    with pytest.raises(RefusedError, match="rows of .*parents, column .*a text"):
        await Migrator(target).dump_schema()
    assert file.name not in os.listdir(file.parent)


async def test_the_targets_own_database_stays_as_it_is(
    target: Target, file: Path, database_url: str
) -> None:
    await start(target._replace(bootstrap=None, revision="r1"))
    before = contents(database_url)
    await Migrator(target).dump_schema()
    await Migrator(target).check_schema()
    assert contents(database_url) == before


async def test_a_statement_that_the_database_refuses_changes_nothing(
    target: Target, dumped: Path, database_url: str
) -> None:
    add(dumped, "SELECT broken")
    with pytest.raises(MigrationError) as caught:
        await start(target)
    (failure,) = caught.value.report.targets[0].failures
    assert failure.state == "clean" and "schema dump" in failure.advice
    assert contents(database_url) == {}


START = """
import asyncio, sys
from automigrator import Migrator, Target

url, config, file = sys.argv[1:]
migrator = Migrator(Target(url, config, bootstrap=file), mode="migrate")

async def follow():
    async for event in migrator.events():
        print(event.name, flush=True)

async def main():
    following = asyncio.create_task(follow())
    await asyncio.sleep(0)
    await migrator.run()

asyncio.run(main())
"""

ENDLESS = {
    "postgresql": "SELECT pg_sleep(600)",
    "sqlite": "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x FROM c) SELECT max(x) FROM c",
}


async def test_killed_in_the_middle_the_next_start_begins_anew(
    target: Target, dumped: Path, database_url: str
) -> None:
    """When all that the file says was done, and nothing was committed."""
    whole = copied(dumped, None)
    add(dumped, ENDLESS[make_url(database_url).get_backend_name()])
    arguments = [sys.executable, "-c", START, database_url, str(target.config), str(dumped)]
    killed = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    assert killed.stdout is not None
    while b"bootstrap-started" not in (line := await killed.stdout.readline()):
        assert line, "it ended by itself"
    await asyncio.sleep(0.5)
    killed.kill()
    assert await killed.wait() == -signal.SIGKILL

    copied(dumped, whole)
    report = await start(target)
    assert (report.outcome, ran(report)) == ("migrated", [])
    assert len(contents(database_url)["parents"]) == 2


def test_only_a_path_or_a_callable_is_taken(make_target: Make) -> None:
    options: dict[str, Any] = {"bootstrap": 3}
    with pytest.raises(Exception, match="bootstrap must be callable"):
        make_target(**options)
