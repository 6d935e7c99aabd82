"""What became of a migration whose process was killed, as the database and its server tell it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql import looks
from automigrator.backends.postgresql.journal import Entry
from automigrator.backends.postgresql.sql import renew, rows_of

E = TypeVar("E", bound=Entry)


async def heads_of(connection: AsyncConnection, tables: Sequence[VersionTable]) -> tuple[str, ...]:
    return (await looks.look(connection, tables)).sight.all_heads()


async def settled(connection: AsyncConnection, entry: E) -> E:
    """Return an entry that tells what the server knows to have been committed.

    Also by a COMMIT that nobody saw: a driver's own, or one in SQL.
    """
    if entry.committed is not False or not entry.transactions:
        return entry
    query = "select txid_status(cast(t as bigint)) from unnest(cast(:all as text[])) t"
    try:
        found = [row[0] for row in await rows_of(connection, query, all=list(entry.transactions))]
    except SQLAlchemyError:  # of another server: this one is a copy of an earlier moment, say
        await renew(connection)
        return entry._replace(committed=None)
    if "committed" in found:
        return entry._replace(committed=True)
    return entry if set(found) == {"aborted"} else entry._replace(committed=None)


async def was_committed(connection: AsyncConnection, entry: Entry) -> bool:
    """Whether the server knows that a transaction was committed in which a revision ran."""
    return (await settled(connection, entry._replace(committed=False))).committed is True


async def needs_nothing(
    connection: AsyncConnection,
    entry: Entry,
    unchanged: Callable[[], Awaitable[bool]],
    *,
    place: str,
    foreign: str = "",
) -> str | None:
    """Look at the target's database, and ask `Entry.needs_nothing`."""
    sight = (await looks.look(connection, entry.tables)).sight
    heads = sight.all_heads()
    if entry.steps is not None and entry.before and not heads and sight.has_tables:
        foreign = foreign or "it has tables, and no version row any more"
    return await entry.needs_nothing(
        heads,
        unchanged,
        place=place,
        steps=entry.steps,
        # a restore that was begun is ended, whatever was noted of the migration
        committed=entry.committed if entry.state == "migrating" else None,
        foreign=foreign,
    )
