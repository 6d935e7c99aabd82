"""Tenants of every kind, and the histories that they have: what the tests of fleets start from."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from support.alembic_projects import linear, project, revision
from support.postgres_server import Server
from support.starters import FORKSERVER

from automigrator.fleet import Fleet, databases, files, schemas
from automigrator.fleet.control import store_of
from automigrator.fleet.ledger import Ledger

SCHEMA_ENV = """
from alembic import context
from sqlalchemy import engine_from_config, pool, text

config = context.config
tenant = context.get_x_argument(as_dictionary=True)["tenant"]
engine = engine_from_config(
    config.get_section(config.config_ini_section), prefix="sqlalchemy.", poolclass=pool.NullPool
)
quoted = engine.dialect.identifier_preparer.quote_identifier(tenant)

with engine.connect() as connection:
    connection.execute(text(f"set search_path to {quoted}"))
    connection.commit()
    connection.dialect.default_schema_name = tenant
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
"""Alembic's own recipe for a schema per tenant."""


def history(
    folder: Path, *, kind: str = "generic", revisions: Callable[[Path], object] = linear
) -> Path:
    """An Alembic project without a database of its own; returns its ini."""
    return project(folder / "project", kind, "sqlite://", revisions=revisions).config


def schema_history(folder: Path, *, revisions: Callable[[Path], object] = linear) -> Path:
    """A project whose env.py is told a tenant's schema by `-x tenant=NAME`."""
    ini = history(folder, revisions=revisions)
    (ini.parent / "migrations" / "env.py").write_text(SCHEMA_ENV, "utf-8")
    return ini


def versions_of(ini: Path) -> Path:
    """The folder of a project's revisions."""
    return ini.parent / "migrations" / "versions"


def deploy(ini: Path, id: str, down: str, upgrade: str = "") -> None:
    """Add a revision to a project; by default one that makes a table of its name."""
    made = f'op.create_table("{id}", sa.Column("id", sa.Integer, primary_key=True))'
    revision(versions_of(ini), id, down, upgrade=upgrade or made)


def with_files(folder: Path, names: Sequence[str]) -> Path:
    """A folder of empty SQLite databases."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.db").touch()
    return folder


def spoil(file: Path) -> None:
    """Let the revision r2 of `linear` fail in a tenant's file at r1: its table is there already."""
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("create table alembic_version (version_num varchar(32) primary key)")
        connection.execute("insert into alembic_version values ('r1')")
        connection.execute("create table users (id integer primary key, name varchar(50))")
        connection.execute("create table posts (id integer primary key)")


def mend(file: Path) -> None:
    """Take back what stood in the way."""
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("drop table posts")


@contextmanager
def with_schemas(server: Server, database: str, names: Sequence[str]) -> Iterator[None]:
    """Empty schemas in a database."""
    for name in names:
        quoted = name.replace('"', '""')
        server.execute(f'create schema "{quoted}"', database=database)
    yield


def outcomes(report: Any) -> dict[str, str]:
    """Each tenant's outcome."""
    return {each.name: each.outcome for each in report}


def in_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """A process that runs `asyncio.run(work(*arguments))`, started."""
    process = FORKSERVER.Process(target=_run, args=(work, arguments), daemon=True)
    process.start()
    return process


def _run(work: Callable[..., Any], arguments: Sequence[Any]) -> None:
    asyncio.run(work(*arguments))


async def write_entries(control: str, names: Sequence[str], rounds: int) -> None:
    """Write the same rows again and again, as a replica does."""
    store = store_of(control, "fleet")
    ledger = Ledger(store)
    await ledger.open(nobody)
    async with ledger.writing():
        for number in range(rounds):
            for name in names:
                state: Any = "failed" if (number + len(name)) % 2 else "quarantined"
                told = {"kind": "revision", "message": str(number)}
                await ledger.note(name, "plan", state, told)
            await ledger.note(f"own-{os.getpid()}", "plan", "done")
    assert not ledger.problem, ledger.problem


async def nobody() -> None:
    """There is no tenant that could live in the control database."""


async def run_files(folder: Path, ini: Path, control: str) -> None:
    """Run a fleet of SQLite files, one tenant at a time."""
    await Fleet(files(folder, ini), mode="migrate", control=control, concurrency=1).run()


async def add_files(folder: Path, ini: Path, prefix: str) -> None:
    """Add tenants until the process is killed."""
    fleet = Fleet(files(folder, ini), mode="migrate")
    for number in range(1000):
        await fleet.add(f"{prefix}{number}")


async def add_databases(server: str, ini: Path, prefix: str) -> None:
    """Add tenants until the process is killed."""
    fleet = Fleet(databases(server, config=ini, like="%"), mode="migrate")
    for number in range(1000):
        await fleet.add(f"{prefix}{number}")


async def run_schemas(url: str, ini: Path, control: str) -> None:
    """Run a fleet of the schemas of a database whose names begin with t."""
    source = schemas(url, ini, like="t%", x=["tenant={schema}"])
    await Fleet(source, mode="migrate", control=control, concurrency=2).run()
