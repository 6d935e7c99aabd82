"""A side database takes the place of the target, and the old one is set aside."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import NullPool, text
from sqlalchemy.ext.asyncio import create_async_engine
from support.postgres_backends import TABLES, VERSIONS, beside, silent, stamped
from support.postgres_server import Server

from automigrator.backends.postgresql.backend import PostgreSQL
from automigrator.errors import RefusedError
from automigrator.retention import Limits


@pytest.mark.long
async def test_databases_set_aside_are_pruned_by_age_when_asked_and_the_newest_never(
    backend: PostgreSQL, postgres_server: Server, filled: str
) -> None:
    names = [f"{filled}__automigrator_purged_20200{n}01T000000000000Z" for n in (1, 2)]
    for name in names:
        postgres_server.create(name)
    async with backend.lock(TABLES, 5, silent) as hold:
        assert await hold.snapshots.prune(Limits(1, max_age=timedelta(days=1))) == ()
        assert await hold.sides.prune_set_aside(Limits(None)) == ()
        assert await hold.sides.prune_set_aside(Limits(None, max_age=timedelta(days=30))) == (
            names[0],
        )
        assert await hold.sides.prune_set_aside(Limits(1)) == ()
    assert beside(postgres_server, filled) == ["purged"]


async def test_a_side_database_takes_over_and_the_old_one_is_set_aside(
    backend: PostgreSQL, postgres_server: Server, filled: str, do: Callable[..., Any]
) -> None:
    do(
        f"comment on database {filled} is 'theirs'",
        f"alter database {filled} set work_mem to '5MB'",
    )
    async with backend.lock(TABLES, 5, silent) as hold:
        async with hold.sides.fresh("s2") as side:
            assert side.url.database == side.place
            async with side.engine.begin() as connection:
                assert await connection.scalar(text("show work_mem")) == "5MB"
            stamped(postgres_server, side.place, "r9")
            aside = await hold.sides.take_over(side, "s2", TABLES)
        assert aside == f"{filled}__automigrator_purged_s2"
        assert (await backend.look(TABLES)).unfinished
        await hold.close_journal()
        assert not (await backend.look(TABLES)).unfinished
        assert await hold.recover() is None
    rows = postgres_server.execute("select id from users", database=aside)
    assert [row[0] for row in rows] == [7]
    assert (await backend.look(TABLES)).all_heads() == ("r9",)
    assert (
        do(
            "select shobj_description(oid, 'pg_database') from pg_database "
            "where datname = current_database()"
        )[0][0]
        == "theirs"
    )
    assert beside(postgres_server, filled) == ["purged"]


async def test_a_replacement_can_leave_nothing_of_the_old_one(
    backend: PostgreSQL, postgres_server: Server, filled: str
) -> None:
    async with backend.lock(TABLES, 5, silent) as hold, hold.sides.fresh("s2") as side:
        stamped(postgres_server, side.place, "r9")
        assert await hold.sides.take_over(side, "s2", TABLES, set_aside=False) is None
        await hold.close_journal()
    assert (await backend.look(TABLES)).all_heads() == ("r9",)
    assert beside(postgres_server, filled) == []


async def test_a_side_database_that_did_not_take_over_is_removed(
    backend: PostgreSQL, postgres_server: Server, filled: str
) -> None:
    async with backend.lock(TABLES, 5, silent) as hold:
        with pytest.raises(ZeroDivisionError):
            async with hold.sides.fresh("s2") as side, side.engine.connect():
                raise ZeroDivisionError
    assert beside(postgres_server, filled) == []
    assert (await backend.look(TABLES)).all_heads() == ("r1",)


@pytest.mark.long
async def test_a_replacement_is_refused_while_others_are_connected_and_changes_nothing(
    backend: PostgreSQL, postgres_server: Server, filled: str
) -> None:
    engine = create_async_engine(postgres_server.url(filled), poolclass=NullPool)
    async with backend.lock(TABLES, 5, silent) as hold, hold.sides.fresh("s2") as side:
        stamped(postgres_server, side.place, "r9")
        connection = await engine.connect()
        with pytest.raises(RefusedError, match="disconnect_others=True"):
            await hold.sides.take_over(side, "s2", TABLES)
        assert (await backend.look(TABLES)).all_heads() == ("r1",)
        await hold.sides.take_over(side, "s2", TABLES, disconnect_others=True)
        assert (await backend.look(TABLES)).all_heads() == ("r9",)
        await connection.invalidate()
        await connection.close()


@pytest.mark.long
async def test_a_replacement_is_refused_with_neighbours_in_the_database(
    backend: PostgreSQL, postgres_server: Server, filled: str, do: Callable[..., Any]
) -> None:
    do(VERSIONS.format("billing_version"))
    async with backend.lock(TABLES, 5, silent) as hold:
        with pytest.raises(RefusedError, match="billing_version.*a database of its own"):
            await hold.sides.ensure_replaceable(TABLES)
        async with hold.sides.fresh("s2") as side:
            with pytest.raises(RefusedError, match="billing_version"):
                await hold.sides.take_over(side, "s2", TABLES)
    assert beside(postgres_server, filled) == []


async def test_the_next_start_removes_a_side_database_of_a_killed_one(
    backend: PostgreSQL, postgres_server: Server, filled: str
) -> None:
    postgres_server.create(f"{filled}__automigrator_side_s0")
    async with backend.lock(TABLES, 5, silent) as hold:
        assert await hold.recover() is None
    assert beside(postgres_server, filled) == []


@pytest.mark.long
async def test_the_next_start_sees_what_a_purge_killed_after_its_swap_would_have_dropped(
    backend: PostgreSQL, postgres_server: Server, filled: str
) -> None:
    postgres_server.create(f"{filled}__automigrator_replaced_s0")
    assert (await backend.look(TABLES)).all_heads() == ("r1",)
    assert (
        await backend.look(TABLES)
    ).unfinished  # or a start that finds nothing to do would leave it for ever
    async with backend.lock(TABLES, 5, silent) as hold:
        done = await hold.recover() or ""
    assert beside(postgres_server, filled) == ["purged"]
    assert f"is in {filled}__automigrator_purged_" in done
    await backend.look(TABLES)
    assert not (await backend.look(TABLES)).unfinished
