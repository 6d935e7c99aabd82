"""A replay that fails, or is stopped, leaves the tenant as it was, and is told as any failure."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import make_url
from support import alembic_projects
from support.replayed_tenants import Tenants, dump, history

from automigrator import Decision, hookimpl
from automigrator.testing.contents import execute
from automigrator.timeouts import Timeouts

FIRST = """
    op.create_table("users", sa.Column("id", sa.Integer, primary_key=True),
                    sa.Column("name", sa.String(50)))
"""
TABLE = 'op.create_table("made", sa.Column("id", sa.Integer, primary_key=True))'
UNIQUE = 'op.create_index("ix", "users", ["name"], unique=True)'
LATER = 'op.create_table("later", sa.Column("id", sa.Integer, primary_key=True))'
DOUBLE = "insert into users values (1, 'Ann'), (2, 'Ann')"
SINGLE = "insert into users values (1, 'Ann'), (2, 'Bob')"

SLOW = """
op.execute("select pg_sleep(case when exists (select from users where name = 'slow') "
           "then 60 else 0 end)")
"""


class Hooks:
    """Counts what it is asked about, and lets a test act before a migration."""

    def __init__(self, url: str = "", *statements: str) -> None:
        self.url, self.statements = url, statements
        self.failures: list[Any] = []

    @hookimpl
    async def before_migrate(self, run: Any) -> None:
        if self.statements:
            await execute(make_url(self.url), *self.statements)
            self.statements = ()

    @hookimpl
    def on_failure(self, run: Any, failure: Any) -> Decision | None:
        self.failures.append(failure)
        return None


async def proved(tenants: Tenants, *bodies: str) -> None:
    """Have a first tenant prove that these revisions may be replayed."""
    tenants.revisions = history(FIRST, *bodies)
    report = await tenants.migrate(await tenants.at("r1", SINGLE))
    assert (report.drive, report.outcome) == ("replay", "migrated")


class TestFailingStatement:
    async def test_it_is_named_and_nothing_stays(self, tenants: Tenants) -> None:
        await proved(tenants, TABLE, UNIQUE, LATER)
        url, hooks = await tenants.at("r1", DOUBLE), Hooks()
        before = dump(url)

        report = await tenants.migrate(url, plugins=[hooks])

        (failure,) = report.failures
        assert hooks.failures == [failure]
        assert (report.drive, report.outcome, report.applied) == ("replay", "failed", ())
        assert (failure.kind, failure.revision, failure.state) == ("revision", "r3", "clean")
        assert failure.statement.startswith("CREATE UNIQUE INDEX ix ON users")
        assert failure.blames == "data"
        assert dump(url) == before

    @pytest.mark.long("[postgresql]")
    async def test_after_it_was_repaired_the_next_start_replays(self, tenants: Tenants) -> None:
        await proved(tenants, TABLE, UNIQUE, LATER)
        url = await tenants.at("r1", DOUBLE)
        await tenants.migrate(url)
        await execute(make_url(url), "update users set name = 'Bob' where id = 2")

        report = await tenants.migrate(url)

        assert (report.drive, report.outcome, report.after) == ("replay", "migrated", ("r4",))

    @pytest.mark.long("[postgresql]")
    async def test_what_was_committed_on_its_own_stays(self, tenants: Tenants) -> None:
        tenants.kind = "per_migration"
        await proved(tenants, TABLE, UNIQUE, LATER)
        url = await tenants.at("r1", DOUBLE)

        report = await tenants.migrate(url)

        assert [each.revision for each in report.applied] == ["r2"]
        assert (report.after, report.failures[0].state) == (("r2",), "partial-at-boundary")


async def test_a_tenant_that_moved_meanwhile_is_looked_at_anew(tenants: Tenants) -> None:
    await proved(tenants, TABLE, LATER)
    url = await tenants.at("r1", SINGLE)
    moved = "update alembic_version set version_num = 'r2'"

    report = await tenants.migrate(url, plugins=[Hooks(url, moved)])

    assert (report.outcome, report.after) == ("migrated", ("r3",))
    assert "made" not in alembic_projects.tables(url)  # r2 was not replayed on what was at r2
    assert "later" in alembic_projects.tables(url)


class TestStopped:
    async def test_a_cancelled_replay_leaves_nothing(self, postgres_tenants: Tenants) -> None:
        await proved(postgres_tenants, TABLE, SLOW)
        url = await postgres_tenants.at("r1", "insert into users values (1, 'slow')")
        before = dump(url)
        run = asyncio.ensure_future(postgres_tenants.migrator(url).run())
        await sleeping(url)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert dump(url) == before

    async def test_a_limit_names_the_revision(self, postgres_tenants: Tenants) -> None:
        await proved(postgres_tenants, TABLE, SLOW, LATER)
        url = await postgres_tenants.at("r1", "insert into users values (1, 'slow')")
        before = dump(url)

        report = await postgres_tenants.migrate(url, timeouts=Timeouts(revision=1))

        (failure,) = report.failures
        assert (failure.kind, failure.revision, failure.state) == ("timeout", "r3", "clean")
        assert dump(url) == before

    async def test_a_killed_process_leaves_nothing_undone(self, postgres_tenants: Tenants) -> None:
        tenants = postgres_tenants
        tenants.revisions = history(FIRST, TABLE, SLOW, LATER)
        first = await tenants.at("r1", SINGLE)
        url, twin = [await tenants.at("r1", "insert into users values (1, 'slow')") for _ in "ab"]
        before = dump(url)
        with replaying(tenants, first, url) as process:
            await sleeping(url)
            os.kill(process.pid, signal.SIGKILL)
        assert dump(url) == before
        for each in (url, twin):
            await execute(make_url(each), "delete from users")
        tenants.plain(twin)

        report = await tenants.migrate(url)

        assert (report.outcome, report.after, dump(url)) == ("migrated", ("r4",), dump(twin))


@contextmanager
def replaying(tenants: Tenants, *urls: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that replays one tenant after the other."""
    command = [sys.executable, "-c", PROCESS, str(tenants.config), *urls]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        yield process
        process.communicate()


PROCESS = """
import asyncio, sys
from automigrator import Migrator, Target
from automigrator.fleet.replay.replay import Replay

async def main(config, *urls):
    replay = Replay()
    for url in urls:
        migrator = Migrator(Target(url, config), mode="migrate")
        migrator.replay = replay
        print(await migrator.run())

asyncio.run(main(*sys.argv[1:]))
"""


async def sleeping(url: str) -> None:
    """Wait until a replay sleeps in the database."""
    sql = """
        select count(*) from pg_stat_activity where datname = '{}'
        and wait_event = 'PgSleep'
    """
    sql = sql.format(make_url(url).database)
    while not alembic_projects.query(url, sql)[0][0]:  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.1)


@pytest.mark.plugins
class TestStrategies:
    """They act around a replay as around env.py."""

    async def test_a_restore_finds_nothing_to_put_back(self, tenants: Tenants) -> None:
        await proved(tenants, TABLE, UNIQUE, LATER)
        url = await tenants.at("r1", DOUBLE)
        before = dump(url)

        report = await tenants.migrate(url, recovery=["backup-restore", "log-and-continue"])

        assert (report.drive, report.outcome, report.state) == ("replay", "degraded", "clean")
        assert dump(url) == before

    @pytest.mark.long("[postgresql]")
    async def test_a_restore_undoes_what_was_committed(self, tenants: Tenants) -> None:
        tenants.kind = "per_migration"
        await proved(tenants, TABLE, UNIQUE, LATER)
        url = await tenants.at("r1", DOUBLE)
        before = dump(url)

        report = await tenants.migrate(url, recovery=["backup-restore", "log-and-continue"])

        assert (report.drive, report.outcome, report.after) == ("replay", "degraded", ("r1",))
        assert dump(url) == before
