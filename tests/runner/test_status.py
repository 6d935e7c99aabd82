"""check(), plan() and a run with nothing to do tell how databases stand, and change nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import create_async_engine
from support import postgres_server
from support.alembic_projects import contents, linear, revision, tables

from automigrator import MigrationError, Migrator, PendingError, Target
from automigrator.errors import EnvError

pytestmark = pytest.mark.long(
    "postgresql", "[sqlite-multidb", "folder[multidb", "folder[version_table", "folder[ignores"
)

Make = Callable[..., Target]

KINDS = ["generic", "async", "multidb", "version_table", "ignores_connection"]
SOME_KINDS = ["async", "multidb", "version_table"]


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What multidb's offline mode would write files into."""
    monkeypatch.chdir(tmp_path)


def everything_in(folder: Path) -> dict[str, Any]:
    """Each file below `folder` with its inode, time and bytes; Python's caches are none of ours."""
    return {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


async def migrated(target: Target) -> Target:
    await Migrator(target, mode="migrate").run()
    return target


async def check(target: Target) -> None:
    await Migrator(target).check()


async def plan(target: Target) -> None:
    await Migrator(target).plan()


async def plan_with_sql(target: Target) -> None:
    with suppress(EnvError):  # the offline mode of one names another version table
        await Migrator(target).plan(sql=True)


async def test_a_database_that_a_killed_process_was_changing_is_not_current(
    make_target: Make, tmp_path: Path
) -> None:
    target = await migrated(make_target(database=f"sqlite+aiosqlite:///{tmp_path / 'app.db'}"))
    gone = str(tmp_path / "app.db.snapshot-20260101T000000Z")
    entry = {"state": "migrating", "snapshot": gone, "before": ["r3"], "after": ["r3"], "at": 1}
    (tmp_path / "app.db.automigrator-journal.json").write_text(json.dumps(entry))
    status = await Migrator(target).check()
    assert (status.targets[0].unfinished, status.current) == (True, False)
    assert status.to_dict()["targets"][0]["unfinished"] is True
    assert "the next run ends what it began" in str(status)
    with pytest.raises(PendingError, match="the next run ends what it began"):
        await Migrator(target, mode="check").run()
    await Migrator(target, mode="migrate").run()
    assert (await Migrator(target).check()).current


async def checked_run(target: Target) -> None:
    with pytest.raises(PendingError):
        await Migrator(target, mode="check").run()


LOOKS = [check, plan, plan_with_sql, checked_run]


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("kind", KINDS)
async def test_looking_at_an_absent_file_makes_neither_it_nor_its_folder(
    look: Callable[[Target], Any], kind: str, make_target: Make, tmp_path: Path
) -> None:
    folder = tmp_path / "not" / "there"
    target = make_target(kind=kind, database=f"sqlite+aiosqlite:///{folder / 'app.db'}")
    before = everything_in(tmp_path)

    await look(target)

    assert not (tmp_path / "not").exists()
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("kind", SOME_KINDS)
async def test_looking_at_an_absent_postgresql_database_does_not_create_it(
    kind: str,
    make_target: Make,
    postgres_name: str,
    postgres_server: postgres_server.Server,
) -> None:
    target = make_target(kind=kind, database=postgres_server.url(postgres_name))

    for look in LOOKS:
        await look(target)

        assert postgres_server.databases(postgres_name) == []


@pytest.mark.long("False-plan]", "False-checked_run", "True-check]", "True-plan")
@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("wal", [False, True])
async def test_looking_at_a_file_with_something_pending_touches_no_byte_and_leaves_no_sidecar(
    look: Callable[[Target], Any],
    wal: bool,
    make_target: Make,
    sqlite_url: str,
    tmp_path: Path,
    versions: Path,
) -> None:
    engine = create_async_engine(sqlite_url)
    async with engine.connect() as connection:
        await connection.exec_driver_sql(f"PRAGMA journal_mode={'WAL' if wal else 'DELETE'}")
    await engine.dispose()
    target = await migrated(make_target(database=sqlite_url))
    revision(versions, "r4", "r3")
    before = everything_in(tmp_path)

    await look(target)

    assert everything_in(tmp_path) == before


@pytest.mark.long("[multidb", "[version_table", "[ignores")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_run_with_nothing_pending_touches_no_byte(
    kind: str, make_target: Make, sqlite_url: str, tmp_path: Path
) -> None:
    target = await migrated(make_target(kind=kind, database=sqlite_url))
    before = everything_in(tmp_path)

    report = await Migrator(target, mode="migrate").run()

    assert report.outcome == "current"
    assert everything_in(tmp_path) == before


@pytest.mark.long("version_table")
@pytest.mark.parametrize("kind", ["async", "version_table"])
async def test_a_run_with_nothing_pending_only_reads(
    kind: str, make_target: Make, database_url: str
) -> None:
    engine = create_async_engine(database_url)
    options: dict[str, Any] = {}
    if kind == "version_table":  # an env.py that must be asked runs DDL of its own
        schema = "meta" if engine.dialect.name == "postgresql" else None
        options = {"version_table": "my_versions", "version_table_schema": schema}
    target = await migrated(make_target(kind=kind, database=engine, **options))
    before = contents(database_url)
    written: list[str] = []

    @event.listens_for(Engine, "before_cursor_execute")
    def _watch(connection: object, cursor: object, statement: str, *_: object) -> None:
        if not re.match(r"\s*(select|show|with|pragma [\w.]+(\(|$))", statement, re.IGNORECASE):
            written.append(statement)

    try:
        report = await Migrator(target, mode="migrate").run()
    finally:
        event.remove(Engine, "before_cursor_execute", _watch)
    await engine.dispose()

    assert report.outcome == "current"
    assert written == []
    assert contents(database_url) == before
    assert report.targets[0].drive is None
    assert not report.targets[0].leader


@pytest.mark.long("version_table")
@pytest.mark.parametrize("kind", SOME_KINDS)
async def test_looking_at_a_database_with_something_pending_changes_no_row_and_no_table(
    kind: str, make_target: Make, database_url: str
) -> None:
    target = make_target(kind=kind)
    await migrated(Target(database_url, target.config, name=target.name, revision="r2"))
    before = contents(database_url)

    for look in LOOKS:
        await look(target)

        assert contents(database_url) == before


@pytest.mark.long("version_table")
@pytest.mark.parametrize("kind", SOME_KINDS)
async def test_a_check_tells_what_is_pending_and_then_that_nothing_is(
    kind: str, make_target: Make, database_url: str
) -> None:
    target = make_target(kind=kind)

    (status,) = (await Migrator(target).check()).targets
    assert not status.current
    assert status.problem is None
    assert (status.heads, status.wanted) == ((), ("r3",))
    assert status.pending == ("r1", "r2", "r3")
    assert tables(database_url) == set()

    await migrated(target)

    (status,) = (await Migrator(target).check()).targets
    assert status.current
    assert (status.heads, status.wanted, status.pending) == (("r3",), ("r3",), ())


async def test_a_check_of_an_absent_database_says_that_it_is_absent(
    make_target: Make, tmp_path: Path
) -> None:
    target = make_target(database=f"sqlite+aiosqlite:///{tmp_path / 'absent.db'}")

    (status,) = (await Migrator(target).check()).targets

    assert not status.exists and not status.current
    assert status.pending == ("r1", "r2", "r3")


async def test_a_check_tells_the_problem_that_a_run_would_meet(
    make_target: Make, database_url: str, versions: Path
) -> None:
    target = await migrated(make_target())
    (versions / "r3_.py").unlink()

    (status,) = (await Migrator(target).check()).targets
    with pytest.raises(MigrationError) as caught:
        await migrated(target)

    assert status.problem is not None
    met = caught.value.report.targets[0].failures[0]
    assert (status.problem.kind, status.problem.message) == (met.kind, met.message)


@pytest.mark.long("version_table")
@pytest.mark.parametrize("kind", SOME_KINDS)
async def test_a_plan_lists_the_revisions_in_the_order_a_run_applies_them(
    kind: str, make_target: Make, database_url: str
) -> None:
    target = make_target(lambda folder: linear(folder, 6), kind=kind)

    (plan,) = await Migrator(target).plan()
    report = await Migrator(target, mode="migrate").run()

    planned = [r.revision for r in plan.revisions]
    assert planned == [a.revision for a in report.targets[0].applied]
    assert plan.revisions[1].down_revision == ("r1",)
    assert (plan.before, plan.after) == ((), ("r6",))


@pytest.mark.long("pyproject")
@pytest.mark.parametrize("kind", ["generic", "pyproject_async"])
async def test_the_sql_of_a_plan_makes_the_database_that_a_run_makes(
    kind: str, make_target: Make, database_url: str, other_url: str
) -> None:
    target = make_target(kind=kind)

    (plan,) = await Migrator(target).plan(sql=True)
    await migrated(target)

    assert plan.sql is not None
    engine = create_async_engine(other_url)
    async with engine.begin() as connection:
        lines = [line for line in plan.sql.splitlines() if not line.startswith("--")]
        for statement in "\n".join(lines).split(";"):
            if statement.strip() and statement.strip() not in ("BEGIN", "COMMIT"):
                await connection.exec_driver_sql(statement)
    await engine.dispose()
    assert contents(other_url) == contents(database_url)


async def test_the_sql_of_a_plan_starts_where_the_database_is(
    make_target: Make, database_url: str, versions: Path
) -> None:
    target = await migrated(make_target(lambda folder: linear(folder, 2)))
    linear(versions, 3)

    (plan,) = await Migrator(target).plan(sql=True)

    assert [r.revision for r in plan.revisions] == ["r3"]
    assert plan.sql is not None
    assert "ALTER TABLE users" in plan.sql
    assert "CREATE TABLE" not in plan.sql


async def test_answers_are_alike(make_target: Make, sqlite_url: str) -> None:
    migrator = Migrator(
        make_target(database=sqlite_url, name="one"),
        make_target(database=f"{sqlite_url}2", folder="two", name="two"),
    )
    plans = await migrator.plan(sql=True)
    answers: dict[str, Any] = {
        "check": await migrator.check(),
        "plan": plans,
        "doctor": await migrator.doctor(),
    }
    answers["run"] = await migrator.run(mode="migrate")
    answers["rollback"] = await migrator.rollback("base", target="one")

    for answer in answers.values():
        names = [part.name for part in answer]
        assert names == ["one"] + ["two"] * (answer is not answers["rollback"])
        assert list(answer) == list(answer.targets) == [answer[name] for name in names]
        assert all(f"{name}: " in str(answer) for name in names)
        told = json.loads(json.dumps(answer.to_dict()))
        assert [part["name"] for part in told["targets"]] == names
        with pytest.raises(KeyError):
            answer["three"]
    assert str(plans).count("CREATE TABLE users") == 2
    assert "CREATE TABLE" not in str(await migrator.plan())
    one, two = plans  # it was a tuple once
    assert (plans[0], plans[-1], plans[:], len(plans)) == (one, two, (one, two), 2)


async def test_the_gate_does_not_govern_looking(
    make_target: Make, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUN_MIGRATIONS", "0")
    migrator = Migrator(make_target())

    assert (await migrator.check()).targets[0].pending == ("r1", "r2", "r3")
    assert len((await migrator.plan())[0].revisions) == 3
