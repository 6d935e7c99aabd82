"""A first installation that is killed half way: the next start completes it, undoes it, or says."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compatibility.applications import DIES, Deployed, makes_notes, makes_settings
from compatibility.release import Release
from sqlalchemy import make_url
from support.notes_application import BROKEN, CREATE, GOOD

from automigrator import MigrationError, Migrator

pytestmark = [
    pytest.mark.plugins,
    pytest.mark.skipif(shutil.which("pg_dump") is None, reason="no PostgreSQL client programs"),
    pytest.mark.long("template", "dump", "fails_half_way", "runs_again", "cancelled"),
]

COMMITS = """
with op.get_context().autocommit_block():
    op.execute("CREATE TABLE half (id INTEGER)")
    op.execute("INSERT INTO half VALUES (1)")
"""
"""Makes a table, and commits that."""
TWICE = COMMITS.replace("TABLE half", "TABLE IF NOT EXISTS half")
"""Can run again, and then writes twice."""
FILL = 'op.execute("INSERT INTO half VALUES (2)")'
MOMENTS = {
    "create": ("event create-started",),
    "created": ("event created",),
    "bootstrap": ("event bootstrap-started",),
    "bootstrapped": ("event bootstrapped",),
    "r1": ("event revision-started",),
    "r2": ("event revision-started", "event revision-started"),
    "r2 done": ("event revision-done", "event revision-done"),
}
"""When an installation dies."""
HALF = "began to install into this database when it was empty"


@pytest.fixture(params=["sqlite", "template", "dump"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Deployed:
    """An application without a revision, whose database is empty; one for each way of copying."""
    kind = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    found = Deployed(tmp_path, request.getfixturevalue(kind), copy=request.param, started=False)
    found.count = 0
    return found


def without_database(app: Deployed) -> None:
    url = make_url(app.url)
    if app.is_postgres:
        admin = Deployed(app.root / "admin", app.url_of("postgres"), started=False)
        admin.execute(f"DROP DATABASE {url.database}")
    else:
        Path(str(url.database)).unlink(missing_ok=True)


def dies_once(app: Deployed) -> str:
    flag = str(app.root / "died")
    first = f"import os\nif not os.path.exists({flag!r}):\n    open({flag!r}, 'w').close()"
    return f"\n{first}\n    {DIES}\n"


def per_migration(app: Deployed) -> None:
    env = app.config.with_name("migrations") / "env.py"
    env.write_text(env.read_text().replace("connection=", PER_MIGRATION))


PER_MIGRATION = "transaction_per_migration=True, connection="
BOOTSTRAPS: dict[str, Callable[..., Any] | None] = {
    "plain": None,
    "at r1": makes_notes,
    "from base": makes_settings,
}


@pytest.mark.long
@pytest.mark.parametrize("app", ["sqlite", "template"], indirect=True)
@pytest.mark.parametrize("backup", [True, False], ids=["backup", "whole"])
@pytest.mark.parametrize("bootstrap", BOOTSTRAPS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_step_the_next_start_completes_it(
    moment: str, bootstrap: str, backup: bool, new: Release, app: Deployed
) -> None:
    """With a revision that commits in its middle, before and after which it is killed."""
    skipped = {"plain": ("boot",), "at r1": ("r2",), "from base": ()}[bootstrap]
    if moment.startswith(skipped):
        pytest.skip("there is no such moment")
    without_database(app)
    per_migration(app)
    app.deploy(CREATE, GOOD)
    target = {"bootstrap": BOOTSTRAPS[bootstrap]}
    recovery = [app.backup()] if backup else []
    new.killed(app.start_with(*recovery, target=target, dies_at=MOMENTS[moment]))

    ended = new.run(app.start_with(*recovery, target=target))

    assert ended.outcome in ("migrated", "current"), ended.said
    assert app.heads == {"r2"}
    expected = {"alembic_version", "notes", "tags"}
    assert app.tables == expected | ({"settings"} if bootstrap == "from base" else set())


@pytest.mark.long("r2", "r1-baseline")
@pytest.mark.parametrize("options", [{}, {"baseline": "r1"}], ids=["plain", "baseline"])
@pytest.mark.parametrize("where", ["r1", "r2"])
def test_half_of_a_revision_is_undone_with_a_snapshot(
    where: str, options: dict[str, Any], new: Release, app: Deployed
) -> None:
    half = COMMITS + dies_once(app) + FILL
    app.deploy(*((half, CREATE) if where == "r1" else (CREATE, half)))
    new.killed(app.start_with(app.backup(), target=options))
    assert app.rows("SELECT id FROM half") == [(1,)]

    ended = new.run(app.start_with(app.backup(), target=options))

    assert ended.outcome == "migrated" and "put back from" in ended.said
    assert app.rows("SELECT id FROM half ORDER BY id") == [(1,), (2,)]
    assert (app.heads, app.tables) == ({"r2"}, {"alembic_version", "notes", "half"})


def test_one_that_fails_half_way_is_undone_with_a_snapshot(new: Release, app: Deployed) -> None:
    app.deploy(COMMITS + BROKEN)

    ended = new.run(app.start_with(app.backup()))

    assert ended.outcome == "failed" and "restored from" in ended.said
    assert ended.report["state"] == "clean" and app.tables == set()


@pytest.mark.long("failed", "uncounted", "killed-nothing", "killed-base-")
@pytest.mark.parametrize("app", ["sqlite", "template"], indirect=True)
@pytest.mark.parametrize("baseline", [None, "r1", "base"], ids=["nothing", "r1", "base"])
@pytest.mark.parametrize("end", ["killed", "failed", "uncounted"])
async def test_without_one_nothing_is_run_or_stamped_on_it_and_words_say_so(
    end: str, baseline: str | None, new: Release, app: Deployed
) -> None:
    options = {"baseline": baseline}
    app.deploy(COMMITS + (BROKEN if end == "failed" else dies_once(app)) + "\n" + CREATE, GOOD)
    limit = {"max_failed_starts": 0} if end == "uncounted" else {}
    start = app.start_with(target=options, **limit)
    if end == "failed":
        assert new.run(start).outcome == "failed"
    else:
        new.killed(start)
    app.mended()  # another plan

    ended = new.run(start)

    assert ended.outcome == "failed" and HALF in ended.said
    (failure,) = ended.report["failures"]
    assert failure["kind"] == "unversioned" and "delete the database" in failure["advice"]
    assert (app.heads, app.tables) == (set(), {"alembic_version", "half"})
    assert new.run(start).said.count(HALF) > 0  # and goes on to say so
    await Migrator(app.target(**options)).clear()
    assert HALF not in new.run(start).said


def test_what_runs_again_after_a_kill_is_told(new: Release, app: Deployed) -> None:
    app.deploy(CREATE, TWICE + dies_once(app))
    new.killed(app.start_with())

    ended = new.run(app.start_with())

    assert ended.outcome == "migrated"
    assert "half of it may be in the database, and it runs again" in ended.said
    assert app.rows("SELECT id FROM half") == [(1,), (1,)]  # as the command line does


def test_an_empty_version_table_beside_tables_is_told_where_nothing_was_noted(
    new: Release, app: Deployed
) -> None:
    app.deploy(CREATE)
    app.execute("CREATE TABLE half (id INTEGER)", "CREATE TABLE alembic_version (version_num TEXT)")

    ended = new.run(app.start_with())

    assert ended.outcome == "failed"
    assert "is there, and empty: an installation may have begun and stopped" in ended.said


@pytest.mark.parametrize("app", ["sqlite", "template"], indirect=True)
async def test_one_that_is_cancelled_half_way_is_told_as_well(app: Deployed) -> None:
    app.deploy(f"{COMMITS}\nimport time\ntime.sleep(1)\n{CREATE}")
    migrator = Migrator(app.target(), mode="migrate")
    events = migrator.events()
    task = asyncio.create_task(migrator.run())
    async for event in events:
        if event.name == "revision-started":
            break
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (app.heads, app.tables) == (set(), {"alembic_version", "half"})

    with pytest.raises(MigrationError, match=HALF):
        await Migrator(app.target(baseline="r1"), mode="migrate").run()
