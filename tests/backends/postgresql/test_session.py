"""The connections that env.py opens to PostgreSQL: identity, settings, interruption."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import URL, NullPool, create_engine, make_url, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from support.postgres_backends import TABLE, TABLES, VERSIONS
from support.postgres_server import Server

from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql.backend import PostgreSQL


async def test_drivers_agree_on_which_database_it_is(
    backend: PostgreSQL, postgres_server: Server, postgres_url: str
) -> None:
    async def through(url: URL | str) -> Any:
        engine = create_async_engine(url, poolclass=NullPool)
        async with engine.connect() as connection:
            await connection.execute(text("set timezone to 'Asia/Tokyo'"))
            return await connection.run_sync(backend.sessions.identity)

    ours = await through(postgres_url)
    psycopg = make_url(postgres_url).set(drivername="postgresql+psycopg")
    assert await through(psycopg) == ours
    engine = create_engine(psycopg, poolclass=NullPool)
    with engine.connect() as connection:
        assert backend.sessions.identity(connection) == ours
    assert await through(postgres_server.admin) != ours


async def test_a_version_table_is_found_again_from_a_connection_with_another_search_path(
    backend: PostgreSQL, do: Callable[..., Any]
) -> None:
    do("create schema tenant", VERSIONS.format("tenant.alembic_version"))
    await backend.look(TABLES)

    def resolved(connection: Connection) -> VersionTable:
        return backend.sessions.resolve(connection, TABLE)

    engine = backend.engine()
    async with engine.connect() as connection:
        assert await connection.run_sync(resolved) == TABLE
        await connection.execute(text("set search_path to tenant"))
        found = await connection.run_sync(resolved)
        assert found == VersionTable(schema="tenant")
        await connection.execute(text("set search_path to public, tenant"))
        assert await connection.run_sync(resolved) == found
        await connection.execute(text("set search_path to public"))
        mapped = await connection.execution_options(schema_translate_map={None: "mapped"})
        assert await mapped.run_sync(resolved) == VersionTable(schema="mapped")
    await backend.release(engine)
    assert (await backend.look([found])).heads == {found: ()}


SLEEP = text("select pg_sleep(30)")


def test_a_statement_of_a_sync_driver_is_interrupted_from_another_thread(
    backend: PostgreSQL, postgres_url: str
) -> None:
    url = make_url(postgres_url).set(drivername="postgresql+psycopg")
    with create_engine(url, poolclass=NullPool).connect() as connection:
        stop = backend.sessions.interrupter(connection)
        assert stop is not None
        timer = threading.Timer(0.2, stop)
        timer.start()
        with pytest.raises(DBAPIError) as caught:
            connection.execute(SLEEP)
        timer.join()
    assert backend.classify(caught.value).kind == "timeout"


async def test_a_statement_in_another_threads_loop_is_interrupted_on_the_server_too(
    backend: PostgreSQL, postgres_url: str, postgres_server: Server, live: str
) -> None:
    found: list[Callable[[], None] | None] = []

    began = threading.Event()

    def sleep(connection: Connection) -> None:
        found.append(backend.sessions.interrupter(connection))
        began.set()
        connection.execute(SLEEP)

    async def work() -> None:
        engine = create_async_engine(postgres_url, poolclass=NullPool)
        async with engine.connect() as connection:
            await connection.run_sync(sleep)

    ended: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:  # noqa: BLE001 - looked at below
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert await asyncio.to_thread(began.wait, 5)
    await asyncio.sleep(0.2)
    stop = found[0]
    assert stop is not None
    stop()
    await asyncio.to_thread(thread.join, 5)
    assert isinstance(ended[0], asyncio.CancelledError)
    query = "select 1 from pg_stat_activity where datname = $1 and state = 'active'"
    assert postgres_server.execute(query, live) == []
