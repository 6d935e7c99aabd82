"""The lock of a PostgreSQL target: one holder, wherever it is taken."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any, Literal

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from support.postgres_backends import TABLE, TABLES, made, silent
from support.postgres_server import Server

from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql import notes, sql
from automigrator.backends.postgresql.backend import PostgreSQL
from automigrator.backends.postgresql.locking import advisory
from automigrator.errors import LockLostError, LockTimeoutError


async def test_one_holder_at_a_time_and_the_other_is_told_who(
    backend: PostgreSQL, postgres_url: str, live: str
) -> None:
    told: list[str] = []
    async with backend.lock(TABLES, 5, silent):
        began = time.monotonic()
        with pytest.raises(
            TimeoutError, match=f"{live}.*held by PostgreSQL session .*automigrator"
        ) as caught:
            async with made(postgres_url).lock(TABLES, 0.2, lambda _, who: told.append(who)):
                pass
        assert 0.2 <= time.monotonic() - began < 3
        assert backend.classify(caught.value).kind == "lock-timeout"
        async with made(postgres_url).lock([VersionTable("another")], 1, silent):
            pass
    assert told
    async with made(postgres_url).lock(TABLES, 1, silent) as hold:
        assert hold.waited_s < 1


async def test_several_version_tables_are_locked_together_in_one_order(
    backend: PostgreSQL, postgres_url: str
) -> None:
    both = [VersionTable("a"), VersionTable("b")]
    assert advisory.keys("x", both) == advisory.keys("x", both[::-1])

    async def turn(tables: list[VersionTable]) -> None:
        async with made(postgres_url).lock(tables, 20, silent):
            await asyncio.sleep(0.02)

    await asyncio.gather(*(turn(both if n % 2 else both[::-1]) for n in range(6)))
    async with backend.lock([both[1]], 1, silent):
        with pytest.raises(TimeoutError):
            async with made(postgres_url).lock(both, 0.1, silent):
                pass
        async with made(postgres_url).lock([both[0]], 1, silent):
            pass


async def test_the_lock_leaves_the_target_free_of_sessions_and_of_transactions(
    backend: PostgreSQL, postgres_server: Server, live: str
) -> None:
    async with backend.lock(TABLES, 1, silent):
        rows = postgres_server.execute(
            "select datname, state, xact_start from pg_stat_activity "
            "where starts_with(application_name, 'automigrator ')"
        )
        assert [tuple(row) for row in rows] == [("postgres", "idle", None)]


async def test_without_a_maintenance_database_the_lock_is_in_the_target(
    postgres_url: str, live: str
) -> None:
    first, second = (made(postgres_url, "no_such_database") for _ in range(2))
    async with first.lock(TABLES, 1, silent):
        with pytest.raises(TimeoutError):
            async with second.lock(TABLES, 0.1, silent):
                pass


async def test_those_who_reach_other_maintenance_databases_share_the_lock(
    backend: PostgreSQL, postgres_server: Server, postgres_name: str, postgres_url: str
) -> None:
    desk = f"{postgres_name}_desk"
    postgres_server.execute(f"create database {desk}")
    elsewhere = made(postgres_url, desk)
    for first, second in ((backend, elsewhere), (elsewhere, backend)):
        told: list[str] = []
        async with first.lock(TABLES, 5, silent):
            with pytest.raises(LockTimeoutError, match="PostgreSQL session"):
                async with second.lock(TABLES, 0.2, lambda _, who, told=told: told.append(who)):
                    pass
            assert told and told[0].startswith("PostgreSQL session")
        async with second.lock(TABLES, 5, silent):
            pass


@pytest.mark.long
async def test_many_in_several_maintenance_databases_take_turns(
    postgres_server: Server, postgres_name: str, postgres_url: str
) -> None:
    desk = f"{postgres_name}_desk"
    postgres_server.execute(f"create database {desk}")
    inside: list[int] = []
    most: list[int] = []

    async def lead(number: int) -> None:
        # the target itself is where those lock who reach no maintenance database
        maintenance = (None, desk, f"{postgres_name}_none")[number % 3]
        async with made(postgres_url, maintenance).lock(TABLES, 60, silent):
            inside.append(number)
            most.append(len(inside))
            await asyncio.sleep(0.01)
            inside.remove(number)

    await asyncio.gather(*(lead(number) for number in range(12)))
    assert most == [1] * 12


async def test_a_lock_whose_session_is_another_one_by_now_is_lost(backend: PostgreSQL) -> None:
    """A pooler may hand the same session back as long as that is watched, and another later."""
    async with backend.lock(TABLES, 1, silent) as hold:
        await hold.confirm()
        hold.pid += 1
        with pytest.raises(LockLostError, match="pooler in transaction mode"):
            await hold.confirm()


async def test_a_cancelled_wait_leaves_no_lock(backend: PostgreSQL, postgres_url: str) -> None:
    async def wait() -> None:
        async with made(postgres_url).lock(TABLES, 30, silent):
            pass

    async with backend.lock(TABLES, 1, silent):
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0.2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with made(postgres_url).lock(TABLES, 1, silent):
        pass


def test_the_keys_of_a_target_never_change() -> None:
    """Two releases that meet in a rolling deployment must lock each other out."""
    assert advisory.keys("app", [TABLE, VersionTable("v", "s")]) == [
        3751124143632928745,
        8132862976386083798,
    ]
    assert advisory.keys("app", [VersionTable(schema="public")]) == advisory.keys("app", [TABLE])


async def test_a_lock_is_not_taken_for_lost_while_a_failed_rename_is_rolled_back(
    backend: PostgreSQL,
) -> None:
    async with backend.lock(TABLES, 5, silent) as held:
        admin = held.admin
        await admin.execute(text("BEGIN"))
        with pytest.raises(DBAPIError):
            await admin.execute(text("ALTER DATABASE no_such_database RENAME TO other"))
        await held.confirm()
        await admin.execute(text("ROLLBACK"))
        await held.confirm("1/2")


NOTES = pytest.mark.parametrize("kind", ["last", "dump"])


@pytest.mark.long("dump")
@NOTES
async def test_a_holder_that_was_frozen_writes_no_note_over_the_next_ones(
    backend: PostgreSQL,
    postgres_url: str,
    postgres_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    kind: Literal["last", "dump"],
) -> None:
    confirmed, thawed = asyncio.Event(), asyncio.Event()

    async def frozen(*arguments: Any) -> None:
        confirmed.set()
        await thawed.wait()
        await sql.run_together(*arguments)

    monkeypatch.setattr(notes, "run_together", frozen)
    async with AsyncExitStack() as first:
        early = await first.enter_async_context(backend.lock(TABLES, 5, silent))
        late = asyncio.create_task(early.write_note(kind, early.key, lambda _: "early"))
        await confirmed.wait()
        monkeypatch.undo()
        postgres_server.execute(f"select pg_terminate_backend({early.pid})")
        async with made(postgres_url).lock(TABLES, 5, silent) as hold:
            await hold.write_note(kind, hold.key, lambda _: "next")
            thawed.set()
            with pytest.raises(asyncpg.InterfaceError, match="closed"):
                await late
            assert await notes.read_note(hold.access, kind, hold.key) == "next"


@pytest.mark.long("dump")
@NOTES
async def test_a_holder_that_has_lost_its_lock_writes_no_note(
    backend: PostgreSQL,
    postgres_url: str,
    postgres_server: Server,
    kind: Literal["last", "dump"],
) -> None:
    async with backend.lock(TABLES, 5, silent) as early:
        postgres_server.execute(f"select pg_terminate_backend({early.pid})")
        with pytest.raises(LockLostError):
            await early.write_note(kind, early.key, lambda _: "early")
        assert await notes.read_note(early.access, kind, early.key) is None
