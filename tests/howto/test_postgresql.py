"""The page on PostgreSQL: its recipe for roles, poolers, tokens, and what blocks a revision."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine as engine_of
from support import alembic_projects
from support.pages import Page, Section, run_python, run_sql
from support.pgbouncer import BINARY, pooled
from support.postgres_server import Server, stoppable

from automigrator import MigrationError, Migrator, Run, Target, Timeouts, hookimpl

pytestmark = pytest.mark.plugins

PAGE = Page("postgresql")
ROLES = "Roles: the least that is needed"


def test_every_section_is_played() -> None:
    assert PAGE.unplayed() == []


@pytest.fixture
def shop(postgres_server: Server, postgres_name: str, folder: Path) -> Iterator[Shop]:
    """The recipe for roles, carried out for a database and roles of the test's own name."""
    made = Shop(postgres_server, postgres_name)
    for script, database in zip(PAGE.sections[ROLES].all("sql"), (None, made.name), strict=True):
        run_sql(made.renamed(script), postgres_server, database)
    yield made
    postgres_server.drop_all(made.name)
    for role in ("", "_migrate", "_owner"):
        postgres_server.execute(f"drop role {made.name}{role}")


class Shop:
    """The page's shop, under another name."""

    def __init__(self, server: Server, name: str) -> None:
        self.server, self.name = server, name

    def renamed(self, script: str) -> str:
        return re.sub(r"\bshop\b(?=_|\W)|\bshop(?=_owner|_migrate)", self.name, script)

    def url(self, role: str = "") -> str:
        url = make_url(self.server.url(self.name)).set(username=self.name + role)
        return url.render_as_string(hide_password=False)

    def execute(self, sql: str) -> list[Any]:
        return self.server.execute(sql, database=self.name)


def told_before() -> dict[str, Any]:
    """What the page's first block has imported."""
    return {"os": os, "Migrator": Migrator, "Target": Target, "create_async_engine": engine_of}


def demand_password(server: Server, role: str) -> None:
    """The tests' server trusts everybody else."""
    ((file,),) = server.execute("show hba_file")
    rules = Path(file).read_text("utf-8")
    Path(file).write_text(f"host all {role} 0.0.0.0/0 scram-sha-256\n{rules}", "utf-8")
    server.execute("select pg_reload_conf()")


async def closed(names: dict[str, Any]) -> None:
    await names["engine"].dispose()


@PAGE.plays("PostgreSQL: poolers, managed servers, roles and fail-over")
async def test_the_applications_role_looks_and_the_other_one_migrates(
    section: Section, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", shop.url())
    monkeypatch.setenv("MIGRATION_URL", shop.url("_migrate"))
    names: dict[str, Any] = {}
    for source in section.all("python"):
        await run_python(source, names)
    await closed(names)
    owners = shop.execute("select distinct tableowner from pg_tables where schemaname = 'public'")
    assert owners == [(f"{shop.name}_owner",)]


@PAGE.plays(ROLES)
@pytest.mark.long
async def test_the_least_rights_are_enough_for_what_the_table_says(
    section: Section, shop: Shop, folder: Path
) -> None:
    target = Target(shop.url(), "alembic.ini", migrate_with=shop.url("_migrate"))
    assert (await Migrator(target, mode="migrate").run()).outcome == "migrated"
    may = "select has_table_privilege($1, 'users', 'insert')"
    may += ", has_schema_privilege($1, 'public', 'create')"
    assert shop.server.execute(may, shop.name, database=shop.name) == [(True, False)]

    alembic_projects.revision(
        folder / "migrations" / "versions", "r4", "r3", upgrade="op.execute('select 1/0')"
    )
    refused = "this role may not create database"
    absent = make_url(shop.url("_migrate")).set(database=f"{shop.name}_absent")
    with pytest.raises(MigrationError, match=refused):
        await Migrator(Target(absent, "alembic.ini"), mode="migrate").run()
    for options in (
        {"recovery": ["purge"]},
        {"recovery": [("backup-restore", {"snapshot": "always"})]},
        {"rehearse": True},
    ):
        with pytest.raises(MigrationError, match=refused):
            await Migrator(target, mode="migrate", **options).run()  # type: ignore[arg-type]
    # what was counted belongs to the owner: the application's own role reads it
    found = await Migrator(Target(shop.url(), "alembic.ini")).doctor()
    assert "failed starts in a row at these revisions: 2" in str(found)


@pytest.mark.long
async def test_a_dump_needs_no_right_to_create_databases(shop: Shop, folder: Path) -> None:
    target = Target(shop.url(), "alembic.ini", migrate_with=shop.url("_migrate"))
    await Migrator(target, mode="migrate").run()
    (folder / "dumps").mkdir(mode=0o700)
    taken = await Migrator(target).take_snapshot(how="dump", folder=folder / "dumps")
    assert taken.whole and taken.kind == "dump"


@PAGE.plays("PgBouncer")
@pytest.mark.skipif(BINARY is None, reason="pgbouncer is not installed")
@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.long
async def test_a_pool_for_the_application_and_a_direct_url_for_migrations(
    section: Section,
    mode: str,
    postgres_url: str,
    folder: Path,
    pooler_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pooled(postgres_url, pooler_folder, mode) as url:
        monkeypatch.setenv("POOLED_URL", url)
        monkeypatch.setenv("MIGRATION_URL", postgres_url)
        names = told_before()
        with_pool, _, without = section.the("python").rpartition("report =")
        await run_python(with_pool, names)
        run = Migrator(Target(names["engine"], "alembic.ini"), mode="migrate").run()
        if mode == "transaction":
            with pytest.raises(MigrationError) as refused:
                await run
            said = str(refused.value).splitlines()[0].replace(make_url(url).database or "", "shop")
            assert said == section.the("text").strip()
        else:
            assert (await run).outcome == "migrated"
        await run_python(f"report ={without}", names)
        # nothing is pending now: no lock is needed, whatever the pooler's mode
        quick = await Migrator(Target(names["engine"], "alembic.ini"), mode="migrate").run()
        assert quick.outcome == "current"
        await closed(names)


@PAGE.plays("Managed servers")
@pytest.mark.long
@pytest.mark.parametrize("how", ["the page's", "connect_args", "async_creator"])
async def test_tokens_are_fetched_for_each_connection(
    section: Section, how: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stoppable() as (server, _):
        server.execute("create role clerk login password 'a-token'")
        demand_password(server, "clerk")
        server.execute("create database shop owner clerk")
        url = make_url(server.url("shop")).set(username="clerk", password=None)
        monkeypatch.setenv("URL_WITHOUT_PASSWORD", url.render_as_string())
        fetched: list[float] = []

        def fetch_token() -> str:
            fetched.append(time.monotonic())
            return "a-token"

        names = told_before() | {"fetch_token": fetch_token, "asyncpg": asyncpg}
        source = section.the("python")
        engine = "create_async_engine(os.environ['URL_WITHOUT_PASSWORD'], "
        run = source[source.index("report =") :]
        if how == "connect_args":
            source = f"engine = {engine}connect_args={{'password': fetch_token}})\n{run}"
        elif how == "async_creator":
            source = f"""
async def connect(*a, **k):
    return await asyncpg.connect(
        host={url.host!r}, port={url.port}, user="clerk", database="shop", password=fetch_token()
    )
engine = {engine}async_creator=connect)
{run}"""
        await run_python(source, names)
        await closed(names)
        report = names["report"]
        assert len(fetched) > 1
        note = "the migration lock is held in database 'shop' itself"
        assert any(note in each for each in report["shop"].notes) is (how == "async_creator")
        server.close()


class Asking:
    """Asks the page's question while the revision is tried again."""

    def __init__(self, rows: list[Any], server: Server, section: Section) -> None:
        self._rows, self._server, self._sql = rows, server, section.the("sql").rstrip(";\n")

    @hookimpl
    async def before_migrate(self, run: Run) -> None:
        self._asking = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        while not any(row["application_name"] == "report" for row in self._rows):
            await asyncio.sleep(0.05)
            self._rows += await asyncio.to_thread(self._server.execute, self._sql)


@PAGE.plays("Blocked by somebody's transaction")
@pytest.mark.long
async def test_who_is_in_the_way_is_named(
    section: Section, postgres_server: Server, postgres_url: str, folder: Path
) -> None:
    target = Target(postgres_url, "alembic.ini", timeouts=Timeouts(retry=5))
    await Migrator(target, mode="migrate").run()
    alembic_projects.revision(
        folder / "migrations" / "versions",
        "r4",
        "r3",
        upgrade='op.add_column("users", sa.Column("nick", sa.String))',
    )
    report = await asyncpg.connect(postgres_url.replace("+asyncpg", ""))
    await report.execute("set application_name = 'report'; begin; select from users")
    asked: list[Any] = []
    migrator = Migrator(target, mode="migrate", plugins=[Asking(asked, postgres_server, section)])
    with pytest.raises(MigrationError) as failed:
        await migrator.run()
    await report.close()
    assert "report" in {row["application_name"] for row in asked}
    said = str(failed.value).replace(target.name, "shop")
    said = re.sub(r"pid \d+", "pid 4711", re.sub(r"for \d+ s", "for 2 s", said))
    said = re.sub(r"(database: ).*", r"\1postgresql+asyncpg://shop:***@db/shop", said)
    said = re.sub(r"user \w+", "user postgres", said)
    assert said.splitlines() == section.the("text").splitlines()
