"""The heads of many targets of one database, read by few statements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql.looks import BUSY_S, OPENED, heads_in
from automigrator.backends.postgresql.names import IS_OPEN, NAME, OPEN, among
from automigrator.backends.postgresql.sql import USUAL_PATH, first_found, handed_on, rows_of

AT_ONCE = 200
"""Version tables that one statement reads: each is a lock, of which a server has a few thousand."""


class Asked(NamedTuple):
    """A target's version table, and the search path by which it is found; None for the usual."""

    table: VersionTable
    path: str | None


# CASE: the one before the other, row by row
_PLACES = f"""
    with usual as materialized (select {USUAL_PATH} as path),
    a as materialized (
        select each.*, case when set_config(
                'search_path', coalesce(each.path, usual.path), true) is not null
            then current_schemas(true)::text[] end as visible
        from usual cross join unnest(cast(:paths as text[]), cast(:names as text[]),
             cast(:schemas as text[])) with ordinality as each(path, name, schema, number)),
    ours as materialized (select set_config('search_path', 'pg_catalog', true)
        from (select count(*) from a) as all_of_them)
    select a.number::int4, n.nspname::text, c.relname::text, c.relkind in ('r', 'p')
    from ours cross join a cross join lateral (select {
    first_found("a.name", "case when a.schema is null then a.visible else array[a.schema] end")
} as oid offset 0) as found
    cross join lateral (
        select * from pg_class where pg_class.oid = found.oid offset 0) as c
    join pg_namespace n on n.oid = c.relnamespace
"""

_STATE = f"""
    select set_config('lock_timeout', :busy, :local), {OPENED}, {IS_OPEN}, {NAME}
"""


async def heads_of(
    connection: AsyncConnection, asked: Sequence[Asked]
) -> list[tuple[str, ...] | None]:
    """Return the heads of each, none where there is no version table, on a connection of ours.

    None where only a look at it alone can tell: nobody knows whether a killed migration has to be
    finished first, or it cannot be read. Raises what reading raises.
    """
    state = {"busy": f"{BUSY_S}s", "local": handed_on(connection), "open": list(OPEN)}
    ((_, opened, dump_open, name),) = await rows_of(connection, _STATE, **state)
    if dump_open or among(opened or (), name):
        return [None] * len(asked)
    found: list[tuple[str, ...] | None] = [()] * len(asked)
    for first in range(0, len(asked), AT_ONCE):
        some = asked[first : first + AT_ONCE]
        rows = await rows_of(
            connection,
            _PLACES,
            paths=[each.path for each in some],
            names=[each.table.name for each in some],
            schemas=[each.table.schema for each in some],
        )
        places: dict[int, tuple[str, str]] = {}
        for number, schema, table, is_table in rows:
            at = first + number - 1
            found[at] = None  # to read a view would run what its owner wrote
            if is_table:
                places[at] = schema, table
        for at, heads in (await _read(connection, places)).items():
            found[at] = heads
    return found


async def _read(
    connection: AsyncConnection, places: Mapping[int, tuple[str, str]]
) -> dict[int, tuple[str, ...]]:
    """The heads in these tables; those that cannot be read are left out."""
    if not places:
        return {}
    each = (f"select {at:d}, {heads_in(*place)}" for at, place in places.items())
    try:
        rows = await rows_of(connection, " union all ".join(each))
    except DBAPIError:
        if len(places) == 1 or connection.invalidated or handed_on(connection):
            return {}
        items = [*places.items()]
        half = len(items) // 2
        return {
            **await _read(connection, dict(items[:half])),
            **await _read(connection, dict(items[half:])),
        }
    return {at: tuple(heads) for at, heads in rows}
