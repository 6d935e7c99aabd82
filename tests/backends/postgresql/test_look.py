"""One look at a PostgreSQL database: heads, debris, and a limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import NullPool, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from support.postgres_backends import TABLE, TABLES, VERSIONS, stamped
from support.postgres_server import Server

from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql.backend import PostgreSQL


async def test_heads_are_seen_per_version_table_and_schema(
    backend: PostgreSQL, do: Callable[..., Any]
) -> None:
    there, odd = VersionTable("alembic_version", "meta"), VersionTable('Odd:"Name', "public")
    do(
        "create schema meta",
        VERSIONS.format("meta.alembic_version"),
        VERSIONS.format('"Odd:""Name"'),
        "insert into meta.alembic_version values ('b'), ('a')",
    )
    sight = await backend.look([TABLE, there, odd, VersionTable("x", "no_such_schema")])
    assert sight.heads[TABLE] is None
    assert sight.heads[there] == ("a", "b")
    assert sight.heads[odd] == ()


@pytest.mark.long("statements1", "statements3", "statements5", "statements7", "statements8")
@pytest.mark.parametrize(
    ("statements", "asked", "expected"),
    [
        ((), TABLE, False),
        ((VERSIONS.format("alembic_version"),), TABLE, False),
        (("create table users ()",), TABLE, True),
        (("create table users (a int) partition by list (a)",), TABLE, True),
        (("create schema theirs", "create table theirs.users ()"), TABLE, False),
        (("create extension if not exists plpgsql", "create view v as select 1"), TABLE, False),
        (("create schema m", "create table users ()"), VersionTable(schema="m"), True),
        (("create schema m", "create table m.users ()"), VersionTable(schema="m"), True),
        (
            ("create schema m", "create table users ()", VERSIONS.format("alembic_version")),
            VersionTable(schema="m"),
            False,
        ),
        (("create schema m",), VersionTable(schema="m"), False),
    ],
)
async def test_only_tables_that_may_be_the_targets_count(
    backend: PostgreSQL,
    do: Callable[..., Any],
    statements: tuple[str, ...],
    asked: VersionTable,
    expected: bool,
) -> None:
    do(*statements)
    assert (await backend.look([asked])).has_tables is expected


async def test_a_locked_version_table_ends_a_look_with_a_lock_timeout(
    backend: PostgreSQL, postgres_server: Server, live: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from automigrator.backends.postgresql import looks

    stamped(postgres_server, live, "r1")
    monkeypatch.setattr(looks, "BUSY_S", 0.1)
    engine = create_async_engine(postgres_server.url(live), poolclass=NullPool)
    async with engine.connect() as other:
        await other.execute(text("lock table alembic_version in access exclusive mode"))
        with pytest.raises(DBAPIError) as caught:
            await backend.look(TABLES)
    assert backend.classify(caught.value).kind == "lock-timeout"


async def test_an_invalid_index_is_debris(backend: PostgreSQL, do: Callable[..., Any]) -> None:
    do("create table t (id int)", "insert into t values (1), (1)")
    assert await backend.debris() == ()
    with pytest.raises(asyncpg.UniqueViolationError):
        do("create unique index concurrently t_id on t (id)")
    assert "public.t_id" in (await backend.debris())[0]
