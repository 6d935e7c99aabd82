"""What the runs of a cohort share, and that each is what it would be by itself."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from support import alembic_projects, postgres_server
from support.alembic_projects import linear, revision
from support.leaders import leading
from support.postgres_server import Server
from support.tenants import Connections, Tenants, brought

from automigrator import Event, Run, Target, TargetReport, hookimpl
from automigrator.cohort import Cohort
from automigrator.runner.fast_path import wanted_rows

HEADS, TABLES = {"r3"}, {"users", "posts"}
HELD = "select count(*) from pg_locks where locktype = 'advisory' and mode = 'ExclusiveLock'"
BROKEN = 'op.execute("select * from absent")'


def told(report: TargetReport) -> dict[str, Any]:
    """A report without its times, and without what names the tenant."""
    found = report.to_dict()
    name = found.pop("name")
    for each in ("elapsed_s", "waited_s"):
        del found[each]
    for each in found["applied"]:
        del each["seconds"]
    return {key: re.sub(name, "<name>", repr(value)) for key, value in found.items()}


class Heard:
    """A plugin that keeps the names of the events."""

    def __init__(self) -> None:
        self.names: list[str] = []

    @hookimpl
    def on_event(self, event: Event) -> None:
        self.names.append(event.name)


class Waiting:
    """A plugin that knows when its run waits for another one."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    @hookimpl
    def on_event(self, event: Event) -> None:
        if event.name == "waiting":
            self.begun.set()


class TestShared:
    async def test_env_runs_once_for_each_tenant_after_the_first(
        self, tenants: Tenants, cohort: Cohort
    ) -> None:
        runs = []
        for name in ("a", "b", "c"):
            report = await brought(cohort, tenants.schema(name))
            assert (report.outcome, report.after) == ("migrated", ("r3",))
            assert tenants.heads(name) == HEADS
            assert tenants.tables(name) == TABLES
            runs.append(tenants.ran)
        assert runs == [2, 1, 1]

    async def test_one_connection_is_opened_for_each_tenant_after_the_first(
        self, tenants: Tenants, cohort: Cohort
    ) -> None:
        targets = [tenants.schema(name) for name in ("a", "b", "c")]
        opened = []
        for target in targets:
            with Connections() as connections:
                await brought(cohort, target)
            opened.append(connections.count)
        assert opened == [4, 1, 1]

    async def test_each_database_has_connections_of_its_own_and_the_locks_session_goes_on(
        self, tmp_path: Path, postgres_url: str, empty_databases: Any, cohort: Cohort
    ) -> None:
        tenants = Tenants(tmp_path, postgres_url)
        with empty_databases.lent() as url, empty_databases.lent() as other:
            async with cohort:
                opened = []
                for each in (postgres_url, url, other):
                    with Connections() as connections:
                        report = await brought(cohort, tenants.database(each))
                    assert report.outcome == "migrated"
                    assert alembic_projects.heads(each) == HEADS
                    opened.append(connections.count)
        assert opened == [3, 2, 2]

    @pytest.mark.long
    async def test_each_server_has_its_own(self, tmp_path: Path, cohort: Cohort) -> None:
        with postgres_server.stoppable() as (one, _), postgres_server.stoppable() as (other, _):
            servers, locks = (one, other), []

            class Locked:
                @hookimpl
                def before_migrate(self, run: Run) -> None:
                    locks.append([each.execute(HELD)[0][0] for each in servers])

            tenants = Tenants(tmp_path, one.url("tenant"))
            async with cohort:
                for server in servers:
                    server.create("tenant")
                    target = tenants.database(server.url("tenant"))
                    report = await brought(cohort, target, plugins=[Locked()])
                    assert report.outcome == "migrated"
                    assert alembic_projects.heads(server.url("tenant")) == HEADS
            assert locks == [[1, 0], [0, 1]]

    @pytest.mark.parametrize("listens", [False, True])
    async def test_reports_and_events_are_those_of_a_run_by_itself(
        self, listens: bool, tenants: Tenants, cohort: Cohort
    ) -> None:
        found: list[Any] = []
        await brought(cohort, tenants.schema("first"))
        for name, within in (("alone", None), ("within", cohort)):
            for _ in ("pending", "none pending"):
                heard = Heard()
                plugins = [heard] if listens else []
                report = await brought(within, tenants.schema(name), plugins=plugins)
                found.append((told(report), heard.names))
        assert found[2:] == found[:2]

    async def test_sqlite_files_share_the_history(
        self, tmp_path: Path, sqlite_url: str, cohort: Cohort
    ) -> None:
        project = alembic_projects.project(tmp_path, "generic", sqlite_url)
        for name in ("a", "b"):
            url = f"sqlite+aiosqlite:///{tmp_path / name}.db"
            report = await brought(cohort, Target(url, project.config, name=name))
            assert report.outcome == "migrated"
            assert alembic_projects.heads(url) == HEADS
        assert len(cohort._commons.histories._read) == 1  # type: ignore[union-attr]


class TestDifferent:
    """Where a tenant is not like those before."""

    async def test_a_revision_that_is_added_is_applied_to_the_next(
        self, tenants: Tenants, cohort: Cohort
    ) -> None:
        await brought(cohort, tenants.schema("a"))
        linear(tenants.versions, 4)
        assert (await brought(cohort, tenants.schema("b"))).after == ("r4",)
        assert (await brought(cohort, tenants.schema("a"))).after == ("r4",)

    async def test_a_revision_whose_text_changes_runs_as_it_is_now(
        self, tenants: Tenants, cohort: Cohort
    ) -> None:
        plans = []

        class Plan:
            @hookimpl
            def after_migrate(self, run: Run, report: TargetReport) -> None:
                plans.append(state_of(cohort, run))

        await brought(cohort, tenants.schema("a"), plugins=[Plan()])
        create = 'op.create_table("other", sa.Column("id", sa.Integer, primary_key=True))'
        revision(tenants.versions, "r3", "r2", upgrade=create)
        await brought(cohort, tenants.schema("b"), plugins=[Plan()])
        assert tenants.tables("b") == {*TABLES, "other"}
        assert len(set(plans)) == 2

    async def test_an_env_that_changes_is_asked_anew(
        self, tenants: Tenants, cohort: Cohort
    ) -> None:
        await brought(cohort, tenants.schema("a"))
        text = tenants.env.read_text("utf-8")
        tenants.env.write_text(f"{text}# changed\n", "utf-8")
        _ = tenants.ran
        await brought(cohort, tenants.schema("b"))
        assert tenants.ran == 2

    async def test_a_module_that_a_revision_imports_makes_another_plan(
        self, tenants: Tenants, tmp_path: Path, cohort: Cohort
    ) -> None:
        helper = tmp_path / "tenants_helper.py"
        helper.write_text("x = 1\n")
        revision(tenants.versions, "r4", "r3", upgrade="pass", imports="import tenants_helper")
        target = tenants.schema("a")
        await brought(cohort, target)
        (known,) = cohort._commons.histories._read.values()  # type: ignore[union-attr]
        assert known.is_current
        helper.write_text("x = 1234\n")
        assert not known.is_current

    async def test_revisions_are_loaded_for_each_tenant_as_plain_alembic_loads_them(
        self, tmp_path: Path, postgres_url: str, cohort: Cohort
    ) -> None:
        body = """
        seen.append(1)
        op.create_table(f"t{len(seen)}", sa.Column("id", sa.Integer, primary_key=True))
        """

        def revisions(folder: Path) -> None:
            revision(folder, "r1", None, upgrade=body, header="seen = []")

        tenants = Tenants(tmp_path, postgres_url, revisions)
        for name in ("a", "b", "c"):
            await brought(cohort, tenants.schema(name))
            assert tenants.tables(name) == {"t1"}

    ELSEWHERE = """
from alembic import context
from sqlalchemy import create_engine, text

name = context.config.attributes["name"]
engine = create_engine(context.config.get_main_option("sqlalchemy.url"))
for each in name.split():
    with engine.connect() as connection:
        connection.execute(text(f"set search_path = {each}"))
        connection.commit()
        context.configure(connection=connection, version_table_schema=each)
        with context.begin_transaction():
            context.run_migrations()
engine.dispose()
"""

    async def test_an_env_that_finds_other_heads_than_the_look_is_asked(
        self, tmp_path: Path, postgres_url: str, cohort: Cohort
    ) -> None:
        tenants = Tenants(tmp_path, postgres_url, env=self.ELSEWHERE)

        def target(name: str, leads_to: str) -> Target:
            return tenants.schema(
                name,
                version_table="alembic_version",
                version_table_schema=name,
                attributes={"name": leads_to},
            )

        await brought(cohort, target("a", "a"))
        assert tenants.ran == 2
        await brought(cohort, target("b", "b"))
        reports = [await brought(each, target("c", "b")) for each in (cohort, None)]
        assert told(reports[0]) == told(reports[1])
        assert tenants.heads("b") == HEADS
        assert tenants.tables("c") == set()

    async def test_an_env_that_serves_more_version_tables_than_one_is_asked(
        self, tmp_path: Path, postgres_url: str, cohort: Cohort
    ) -> None:
        tenants = Tenants(tmp_path, postgres_url, env=self.ELSEWHERE)
        for name in ("a", "b", "c"):
            tenants.schema(name)

        async def ended(name: str, leads_to: str, within: Cohort | None) -> TargetReport:
            target = tenants.schema(
                name,
                version_table="alembic_version",
                version_table_schema=name.rstrip("_"),
                attributes={"name": leads_to},
            )
            return await brought(within, target)

        await ended("a", "a", cohort)
        report = await ended("b", "b c", cohort)
        assert tenants.heads("b") == tenants.heads("c") == HEADS
        assert report.outcome == "migrated"
        assert [each.revision for each in report.applied][:3] == ["r1", "r2", "r3"]


class TestFailing:
    async def test_a_tenant_that_is_ahead_fails_by_itself(
        self, tenants: Tenants, cohort: Cohort
    ) -> None:
        await brought(cohort, tenants.schema("a"))
        target = tenants.schema("b")
        await brought(cohort, target)
        tenants.execute("update b.alembic_version set version_num = 'newer'")
        assert (await brought(cohort, target)).failures[0].kind == "ahead"
        assert (await brought(cohort, tenants.schema("c"))).outcome == "migrated"

    async def test_an_unversioned_one_too(self, tenants: Tenants, cohort: Cohort) -> None:
        await brought(cohort, tenants.schema("a"))
        target = tenants.schema("b")
        tenants.execute("create table b.users (id int)")
        report = await brought(cohort, target)
        assert [each.kind for each in report.failures] == ["unversioned"]
        assert tenants.tables("b") == {"users"}

    async def test_one_whose_revision_fails_is_reported_as_by_itself(
        self, tenants: Tenants, cohort: Cohort
    ) -> None:
        await brought(cohort, tenants.schema("first"))
        reports = []
        for name, within in (("alone", None), ("within", cohort)):
            target = tenants.schema(name)
            tenants.execute(f"create view {name}.posts as select 1")
            tenants.execute(f"create table {name}.alembic_version (version_num varchar(32))")
            tenants.execute(f"create table {name}.users (id int primary key)")
            tenants.execute(f"insert into {name}.alembic_version values ('r1')")
            reports.append(told(await brought(within, target)))
            assert tenants.heads(name) == {"r1"}
        alone, within = reports
        assert alone == within
        assert "'failed_starts': 1" in str(within) or within["failed_starts"] == "1"

    @pytest.mark.plugins
    @pytest.mark.parametrize("recovery", ["backup-restore", "purge"])
    async def test_strategies_act_for_it_alone(
        self, recovery: str, tmp_path: Path, postgres_url: str, empty_databases: Any, cohort: Cohort
    ) -> None:
        tenants = Tenants(tmp_path, postgres_url)
        with empty_databases.lent() as url, empty_databases.lent() as last:
            async with cohort:
                assert (await brought(cohort, tenants.database(postgres_url))).applied
                alembic_projects.query(url, "create view posts as select 1")
                if recovery == "backup-restore":
                    alembic_projects.query(url, "create table kept (id int)")
                options = {"recovery": [recovery], "baseline": "r1"}
                alembic_projects.query(url, "create table users (id int primary key)")
                report = await brought(cohort, tenants.database(url, **options))
                if recovery == "purge":
                    assert report.outcome == "recovered"
                    assert alembic_projects.heads(url) == HEADS
                else:
                    assert report.outcome == "failed"
                    assert "kept" in alembic_projects.tables(url)
                assert (await brought(cohort, tenants.database(last))).outcome == "migrated"


class TestLock:
    async def test_a_migrator_by_itself_is_waited_for(
        self, tenants: Tenants, cohort: Cohort
    ) -> None:
        await brought(cohort, tenants.schema("a"))
        target = tenants.schema("b")
        async with leading(target):
            waiting = Waiting()
            waits = asyncio.create_task(brought(cohort, target, plugins=[waiting]))
            await waiting.begun.wait()
            assert not waits.done()
        report = await waits
        assert (report.outcome, report.leader) == ("current", False)

    async def test_and_waits_for_a_run_of_the_cohort(
        self, tenants: Tenants, cohort: Cohort
    ) -> None:
        await brought(cohort, tenants.schema("a"))
        target, held, done = tenants.schema("b"), asyncio.Event(), asyncio.Event()

        class Holding:
            @hookimpl
            async def before_migrate(self, run: Run) -> None:
                held.set()
                await done.wait()

        leads = asyncio.create_task(brought(cohort, target, plugins=[Holding()]))
        await held.wait()
        waiting = Waiting()
        waits = asyncio.create_task(brought(None, target, plugins=[waiting]))
        await waiting.begun.wait()
        done.set()
        assert (await leads).outcome == "migrated"
        assert (await waits).outcome == "current"

    async def test_a_session_that_is_kept_holds_nothing(
        self, tenants: Tenants, cohort: Cohort
    ) -> None:
        await brought(cohort, tenants.schema("a"))
        (sessions,) = cohort._commons.connections._sessions.values()
        assert len(sessions) == 1
        found = tenants.execute("select count(*) from pg_locks where locktype = 'advisory'")
        assert found == [(0,)]

    async def test_one_that_is_gone_is_replaced(
        self, tenants: Tenants, postgres_server: Server, cohort: Cohort
    ) -> None:
        await brought(cohort, tenants.schema("a"))
        (sessions,) = cohort._commons.connections._sessions.values()
        postgres_server.execute(f"select pg_terminate_backend({sessions[0].known.pid})")
        assert (await brought(cohort, tenants.schema("b"))).outcome == "migrated"

    async def test_one_that_is_lost_fails_its_own_run_alone(
        self, tenants: Tenants, postgres_server: Server, cohort: Cohort
    ) -> None:
        await brought(cohort, tenants.schema("a"))
        held, done = asyncio.Event(), asyncio.Event()
        pids: list[int] = []

        class Lost:
            @hookimpl
            async def before_migrate(self, run: Run) -> None:
                pids.append(run.hold.pid)  # type: ignore[union-attr]
                held.set()
                await done.wait()

        target = tenants.schema("b")
        loses = asyncio.create_task(brought(cohort, target, plugins=[Lost()]))
        await held.wait()
        other = asyncio.create_task(brought(cohort, tenants.schema("c")))
        assert (await other).outcome == "migrated"
        postgres_server.execute(f"select pg_terminate_backend({pids[0]})")
        done.set()
        report = await loses
        assert report.outcome == "failed"
        assert tenants.tables("b") == set()
        assert (await brought(cohort, target)).outcome == "migrated"


def state_of(cohort: Cohort, run: Run) -> str:
    """The digests that the history of a cohort has made."""
    (known,) = cohort._commons.histories._read.values()  # type: ignore[union-attr]
    return str(sorted(known.history._digests.values()))


class TestHeads:
    async def test_they_are_read_with_one_connection(
        self, tenants: Tenants, cohort: Cohort
    ) -> None:
        targets = [tenants.schema(f"t{n}") for n in range(6)]
        for target in targets[:3]:
            await brought(cohort, target)
        tenants.execute("update t2.alembic_version set version_num = 'r2'")
        tenants.execute("create view t5.alembic_version as select 'r3'::text as version_num")
        await cohort.aclose()
        with Connections() as connections:
            found = await cohort.heads(targets)
        assert connections.count == 1
        assert found == {
            "t0": ("r3",),
            "t1": ("r3",),
            "t2": ("r2",),
            "t3": (),
            "t4": (),
            "t5": None,
        }
        assert [each.name for each in await cohort.lacking(targets)] == ["t2", "t3", "t4", "t5"]

    async def test_those_that_lack_something_go_straight_to_their_lock(
        self, tenants: Tenants, cohort: Cohort
    ) -> None:
        target = tenants.schema("a")
        assert await cohort.lacking([target]) == (target,)
        assert (await brought(cohort, target)).outcome == "migrated"
        assert await cohort.lacking([target]) == ()
        assert wanted_rows(target) == {"r3"}

    async def test_none_tells_where_a_killed_migration_is_open(
        self, tenants: Tenants, cohort: Cohort
    ) -> None:
        target = tenants.schema("a")
        await brought(cohort, target)
        tenants.execute("create schema if not exists automigrator")
        tenants.execute("create domain automigrator.dump_1 as text")
        opened = '{"automigrator": {"state": "migrating"}}'
        tenants.execute(f"comment on domain automigrator.dump_1 is '{opened}'")
        assert await cohort.heads([target]) == {"a": None}
        assert await cohort.lacking([target]) == (target,)

    async def test_databases_that_are_not_there_and_files(
        self, tmp_path: Path, tenants: Tenants, cohort: Cohort
    ) -> None:
        absent = Target(f"{tenants.url}_absent", tenants.config, name="absent")
        file = Target(f"sqlite+aiosqlite:///{tmp_path / 'a.db'}", tenants.config, name="file")
        assert await cohort.heads([absent, file]) == {"absent": None, "file": ()}
