"""The doctor beside a process that migrates: it waits for nothing, and says who that is."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import make_url
from support.alembic_projects import linear, tables
from support.leaders import leading

from automigrator import Migrator, Target
from automigrator.backends.sqlite import reader

Make = Callable[..., Target]

DEBRIS = "CREATE TABLE _alembic_tmp_users AS SELECT * FROM users"


@pytest.fixture
async def target(make_target: Make, database_url: str, versions: Any) -> Target:
    """At r3, and r4 is pending."""
    made = make_target(database=database_url)
    await Migrator(made, mode="migrate").run()
    linear(versions, 4)
    return made


@asynccontextmanager
async def read_by_nobody(url: str) -> AsyncIterator[None]:
    """Context manager: another connection keeps the database, or its version table, locked."""
    parsed = make_url(url)
    if parsed.drivername.startswith("sqlite"):
        with closing(sqlite3.connect(str(parsed.database), isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield
        return
    dsn = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("BEGIN; LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE")
        yield
    finally:
        await connection.close()


async def test_it_says_who_migrates_and_what_to_do(target: Target) -> None:
    async with leading(target):
        (found,) = (await Migrator(target).doctor()).targets
    told = str(found)
    assert f"  migration lock: held by {found.holder}" in told and str(os.getpid()) in told
    assert " UTC" in told.partition("held by ")[2]
    assert "what to do: wait for that process (`automigrator wait`" in told
    assert found.status.pending == ("r4",) and found.to_dict()["holder"] == found.holder
    (after,) = (await Migrator(target).doctor()).targets
    assert after.holder is None and "what to do" not in str(after)


@pytest.mark.long("postgresql")
async def test_where_the_database_is_locked_too_the_rest_is_looked_at(
    target: Target, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BUSY_S", 0.5)
    async with leading(target), read_by_nobody(database_url):
        began = time.monotonic()
        (found,) = (await Migrator(target).doctor()).targets
        took = time.monotonic() - began
    assert found.status.problem is not None and found.status.problem.kind == "lock-timeout"
    assert found.reachable and found.holder and found.record is not None
    told = str(found)
    assert "held by" in told and "what to do: wait for that process" in told
    assert "not known: whether it is damaged, and what was left behind: the database is locked" in (
        told
    )
    assert took < 20  # of the looks that wait ten seconds on a server there is one


async def test_a_repair_does_not_wait_and_says_for_whom_it_would(
    make_target: Make, sqlite_url: str, versions: Any
) -> None:
    target = make_target(database=sqlite_url)
    await Migrator(target, mode="migrate").run()
    linear(versions, 4)
    with closing(sqlite3.connect(str(make_url(sqlite_url).database))) as connection:
        connection.execute(DEBRIS)
    async with leading(target), asyncio.timeout(30):
        (found,) = (await Migrator(target).doctor(repair=True)).targets
    assert found.repairs[0] == (
        f"nothing was removed: the migration lock is held by {found.holder}; try again when "
        "that process is done"
    )
    assert found.debris and "_alembic_tmp_users" in tables(sqlite_url)
