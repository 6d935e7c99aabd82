"""Texts that are kept in a PostgreSQL database, where autogenerate does not see them.

Each is the comment on a type of its own in a schema of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from automigrator.backends.access import Access
from automigrator.backends.postgresql.names import SCHEMA_OF_OURS
from automigrator.backends.postgresql.sql import literal, rows_of, run

Kind = Literal["last", "works_with", "dump"]
"""The last leader's record, the declaration of the code that works with the database, a journal."""


def name(kind: Kind, key: int) -> str:
    """Name the text of one kind of the target with this lock key."""
    return f"{kind}_{key % 2**64:016x}"


async def kept(access: Access, kind: Kind, key: int) -> str | None:
    """Read a text; None where there is none."""
    async with access.shared() as connection:
        rows = await rows_of(
            connection,
            """
            select obj_description(t.oid, 'pg_type')
            from pg_type t join pg_namespace n on n.oid = t.typnamespace
            where n.nspname = :schema and t.typname = :name
            """,
            schema=SCHEMA_OF_OURS,
            name=name(kind, key),
        )
    return rows[0][0] if rows else None


async def keep(access: Access, kind: Kind, key: int, text: Callable[[float], str | None]) -> None:
    """Replace a text, whole or not at all; None removes it.

    `text` gets the time on the server's clock.
    """
    async with access.shared() as connection:
        qualified = f"{SCHEMA_OF_OURS}.{name(kind, key)}"
        ((now, there),) = await rows_of(
            connection,
            "select extract(epoch from clock_timestamp())::float8, to_regtype(:name) is not null",
            name=qualified,
        )
        new = text(now)
        if new is None:
            await run(connection, f"DROP DOMAIN IF EXISTS {qualified}")
            return
        if not there:
            await run(connection, f"CREATE SCHEMA IF NOT EXISTS {SCHEMA_OF_OURS}")
            await run(connection, f"CREATE DOMAIN {qualified} AS text")
        # one statement: a kill leaves the old text or the new one
        await run(connection, f"COMMENT ON DOMAIN {qualified} IS {literal(new)}")
