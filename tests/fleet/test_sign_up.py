"""A new tenant at sign-up: at head when it is there, and nobody's by mistake."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support import fleets
from support.alembic_projects import heads, tables
from support.fleets import in_process, outcomes

from automigrator import ConfigurationError, MigrationError, RefusedError, Target
from automigrator.fleet import Fleet, FleetError, databases, schemas


def url_of(folder: Path, name: str) -> str:
    return f"sqlite+aiosqlite:///{folder / name}.db"


def schema_of(folder: Path, name: str) -> list[Any]:
    with closing(sqlite3.connect(folder / f"{name}.db")) as connection:
        return connection.execute("select type, name, sql from sqlite_master").fetchall()


def ours(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".automigrator")]


class TestFiles:
    async def test_a_copy_is_what_the_revisions_make(
        self, fleet_of: Callable[..., Fleet], folder: Path
    ) -> None:
        fleet = fleet_of("a")
        await fleet.run()
        report = await fleet.add("new")
        assert (report.outcome, report.notes) == ("migrated", ("copied of a template at head",))
        assert fleet.ready("new") and heads(url_of(folder, "new")) == {"r3"}
        assert schema_of(folder, "new") == schema_of(folder, "a")
        assert os.stat(folder / "new.db").st_mode == os.stat(folder / "a.db").st_mode
        assert outcomes(await fleet.run()) == {"a": "current", "new": "current"}

    async def test_the_template_is_made_once_for_each_state_of_the_files(
        self, fleet_of: Callable[..., Fleet], folder: Path, ini: Path
    ) -> None:
        fleet = fleet_of("a")
        await asyncio.gather(*(fleet.add(f"n{number}") for number in range(10)))
        (template,) = ours(folder)
        fleets.deploy(ini, "r4", "r3")
        fleet = fleet_of("a")
        await fleet.add("later")
        assert heads(url_of(folder, "later")) == {"r4"}
        assert len(ours(folder)) == 2 and template in ours(folder)

    async def test_one_that_is_there_is_not_touched(
        self, fleet_of: Callable[..., Fleet], folder: Path
    ) -> None:
        fleet = fleet_of("a")
        await fleet.run()
        before = (folder / "a.db").read_bytes()
        with pytest.raises(RefusedError, match="already; it was not touched"):
            await fleet.add("a")
        assert (folder / "a.db").read_bytes() == before
        for name in ("../a", ".automigrator-x", "a\n"):
            with pytest.raises(ConfigurationError):
                await fleet.add(name)

    async def test_of_sign_ups_with_one_name_one_succeeds(
        self, fleet_of: Callable[..., Fleet]
    ) -> None:
        fleet = fleet_of("a")
        ended = await asyncio.gather(*(fleet.add("new") for _ in range(5)), return_exceptions=True)
        refused = [each for each in ended if isinstance(each, RefusedError)]
        assert len(refused) == 4 and fleet.ready("new")

    async def test_a_strangers_template_is_not_copied(
        self, fleet_of: Callable[..., Fleet], folder: Path
    ) -> None:
        fleet = fleet_of("a")
        await fleet.add("one")
        (template,) = ours(folder)
        os.chmod(folder / template, 0o666)
        with pytest.raises(RefusedError, match="it is not trusted"):
            await fleet.add("two")
        assert not (folder / "two.db").exists()

    async def test_revisions_that_fail_leave_nothing(
        self, fleet_of: Callable[..., Fleet], folder: Path, ini: Path
    ) -> None:
        fleets.deploy(ini, "r4", "r3", 'op.execute("select * from absent")')
        fleet = fleet_of("a")
        with pytest.raises(MigrationError):
            await fleet.add("new")
        assert os.listdir(folder) == ["a.db"]

    async def test_a_tenant_that_env_py_is_told_of_runs_its_own_revisions(
        self, folder: Path, ini: Path
    ) -> None:
        fleets.with_files(folder, [])
        target = Target(url_of(folder, "new"), ini, x=["tenant=new"], name="new")
        fleet = Fleet([], mode="migrate")
        report = await fleet.add(target)
        assert (report.applied, heads(url_of(folder, "new"))) == (3, {"r3"})
        with pytest.raises(ConfigurationError, match="pass a Target"):
            await fleet.add("other")

    @pytest.mark.long
    async def test_a_kill_leaves_no_tenant_that_seems_to_be_at_head(
        self, fleet_of: Callable[..., Fleet], folder: Path, ini: Path
    ) -> None:
        await fleet_of("a").add("first")
        for number in range(40):
            process = in_process(fleets.add_files, folder, ini, f"k{number}-")
            while f"k{number}-0.db" not in os.listdir(folder):  # noqa: ASYNC110 - of a process
                await asyncio.sleep(0.001)
            await asyncio.sleep(number / 4000)
            process.kill()
            process.join()
        fleet = fleet_of("a")
        for name in (each for each in os.listdir(folder) if each.endswith(".db")):
            found = heads(url_of(folder, name.removesuffix(".db")))
            assert found == {"r3"} or os.stat(folder / name).st_size == 0
        assert (await fleet.run()).at_head


class TestDatabases:
    @pytest.fixture
    def fleet(self, postgres_server: Any, postgres_name: str, ini: Path) -> Iterator[Fleet]:
        server = postgres_server.url("postgres")
        yield Fleet(databases(server, config=ini, like=f"{postgres_name}%"), mode="migrate")
        postgres_server.drop_all("fleet__automigrator_")

    async def test_a_database_is_copied_of_a_closed_template_of_ours(
        self, fleet: Fleet, postgres_server: Any, postgres_name: str
    ) -> None:
        names = [f"{postgres_name}_{number}" for number in range(3)]
        await asyncio.gather(*map(fleet.add, names))
        for name in names:
            assert heads(postgres_server.url(name)) == {"r3"}
            assert tables(postgres_server.url(name)) == {"users", "posts", "alembic_version"}
        (template,) = postgres_server.databases("fleet__automigrator_")
        ((open_,),) = postgres_server.execute(
            "select datallowconn from pg_database where datname = $1", template
        )
        assert not open_ and "_template_" in template
        assert (await fleet.run()).counts == {"current": 3}
        with pytest.raises(RefusedError, match="already; it was not touched"):
            await fleet.add(names[0])
        with pytest.raises(ConfigurationError, match="reserved"):
            await fleet.add("pg_evil")

    async def test_a_template_that_somebody_opened_is_not_copied(
        self, fleet: Fleet, postgres_server: Any, postgres_name: str
    ) -> None:
        await fleet.add(f"{postgres_name}_a")
        (template,) = postgres_server.databases("fleet__automigrator_")
        postgres_server.execute(f'alter database "{template}" allow_connections true')
        with pytest.raises(RefusedError, match="may be connected to"):
            await fleet.add(f"{postgres_name}_b")

    async def test_a_strangers_template_is_not_copied(
        self, fleet: Fleet, postgres_server: Any, postgres_name: str
    ) -> None:
        await fleet.add(f"{postgres_name}_a")
        (template,) = postgres_server.databases("fleet__automigrator_")
        stranger = f"{postgres_name}_stranger"
        postgres_server.execute(f"create role {stranger}")
        try:
            postgres_server.execute(f'alter database "{template}" owner to {stranger}')
            with pytest.raises(RefusedError, match=f"belongs to role '{stranger}'"):
                await fleet.add(f"{postgres_name}_b")
        finally:
            postgres_server.drop(template)
            postgres_server.execute(f"drop role {stranger}")

    async def test_revisions_that_fail_leave_nothing(
        self, fleet: Fleet, postgres_server: Any, postgres_name: str, ini: Path
    ) -> None:
        fleets.deploy(ini, "r4", "r3", 'op.execute("select * from absent")')
        with pytest.raises(MigrationError):
            await fleet.add(f"{postgres_name}_a")
        assert postgres_server.databases("fleet__automigrator_") == []
        assert postgres_server.databases(postgres_name) == []

    @pytest.mark.long
    async def test_a_kill_leaves_no_tenant_that_seems_to_be_at_head(
        self, fleet: Fleet, postgres_server: Any, postgres_name: str, ini: Path
    ) -> None:
        await fleet.add(f"{postgres_name}_first")
        server = postgres_server.url("postgres")
        for number in range(15):
            prefix = f"{postgres_name}_k{number}_"
            process = in_process(fleets.add_databases, server, ini, prefix)
            while f"{prefix}0" not in postgres_server.databases(prefix):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            await asyncio.sleep(number / 100)
            process.kill()
            process.join()
        await asyncio.sleep(1)  # the server ends what a killed client has begun
        for name in postgres_server.databases(postgres_name):
            assert heads(postgres_server.url(name)) == {"r3"}, name


class TestSchemas:
    async def test_a_schema_is_made_and_migrated(
        self, url: str, execute: Callable[[str], Any], tmp_path: Path
    ) -> None:
        ini = fleets.schema_history(tmp_path)
        fleet = Fleet(schemas(url, ini, like="t%", x=["tenant={schema}"]), mode="migrate")
        report = await fleet.add("t1")
        assert (report.outcome, report.applied) == ("migrated", 3)
        assert tables(url) == {"t1.users", "t1.posts", "t1.alembic_version"}
        assert execute("select obj_description('t1'::regnamespace, 'pg_namespace')")[0][0] is None
        execute("create schema t2")
        for name in ("t1", "t2"):
            with pytest.raises(RefusedError, match="already; it was not touched"):
                await fleet.add(name)
        for name in ("public", "automigrator", "pg_x"):
            with pytest.raises(ConfigurationError, match="reserved"):
                await fleet.add(name)

    async def test_tables_that_all_tenants_share_are_in_nobodys_way(
        self, url: str, execute: Callable[[str], Any], tmp_path: Path
    ) -> None:
        ini = fleets.schema_history(tmp_path)
        execute("create table customers (name text)")
        for name in ("t1", "t2"):
            execute(f"create schema {name}")
        execute("create table t2.users (id integer)")
        fleet = Fleet(schemas(url, ini, like="t%", x=["tenant={schema}"]), mode="migrate")
        status = await fleet.check()
        assert status.counts == {"pending": 1, "problem": 1}
        report = await fleet.run()
        assert outcomes(report) == {"t1": "migrated", "t2": "failed"}
        failure = report["t2"].failure  # what is in it is somebody's
        assert failure is not None and failure["kind"] == "unversioned"

    async def test_one_that_failed_is_gone_on_with(
        self, url: str, execute: Callable[[str], Any], tmp_path: Path
    ) -> None:
        ini = fleets.schema_history(tmp_path)
        fleets.deploy(ini, "r4", "r3", 'op.execute("select * from public.later")')
        fleet = Fleet(schemas(url, ini, like="t%", x=["tenant={schema}"]), mode="migrate")
        with pytest.raises(FleetError, match="t1: failed"):
            await fleet.add("t1")
        assert not fleet.ready("t1")
        execute("create table public.later (id integer)")
        assert (await fleet.add("t1")).at_head and fleet.ready("t1")
