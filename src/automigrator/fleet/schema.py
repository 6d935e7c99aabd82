"""A schema of PostgreSQL that is all of a tenant: made, and looked into."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.access import Access
from automigrator.backends.registry import backend_for
from automigrator.errors import RefusedError
from automigrator.support.redaction import hide_secrets
from automigrator.target import Target, passwords_of

_MARK = '{"automigrator": {"state": "adding"}}'
"""The comment on a schema that is being made: who finds it may go on with it."""

_IS_THERE = ("42P06", "23505")

_IS_MARKED = """
    select pg_catalog.obj_description(oid, 'pg_namespace') = :mark
        and nspowner = (select oid from pg_catalog.pg_roles where rolname = current_user)
    from pg_catalog.pg_namespace where nspname = :name
"""
_IS_EMPTY = """
    select not exists (select from pg_catalog.pg_class c
                       where c.relnamespace = n.oid and c.relkind in ('r', 'p', 'v', 'm', 'f')
                             and c.relname <> :version_table)
    from pg_catalog.pg_namespace n where n.nspname = :name
"""


async def make(target: Target, schema: str) -> None:
    """Make a schema, marked as unfinished; one that is marked is gone on with.

    Raises RefusedError for one that is there.
    """
    async with _connected(target) as connection:
        await connection.execute(text("BEGIN"))
        try:
            await connection.exec_driver_sql(f"CREATE SCHEMA {_quoted(connection, schema)}")
            await _say(connection, schema, f"'{_MARK}'")
            await connection.execute(text("COMMIT"))
        except DBAPIError as error:
            await connection.execute(text("ROLLBACK"))
            if getattr(error.orig, "sqlstate", None) not in _IS_THERE:
                raise
            told = {"mark": _MARK, "name": schema}
            if not (await connection.execute(text(_IS_MARKED), told)).scalar():
                raise RefusedError(
                    f"there is a schema {schema!r} already; it was not touched"
                ) from None


async def unmark(target: Target, schema: str) -> None:
    """Take the mark of `make` away: the schema is at head."""
    async with _connected(target) as connection:
        await _say(connection, schema, "NULL")


async def is_empty(target: Target, schema: str) -> bool:
    """Whether there is nothing in a schema but a version table, observed now."""
    told = {"name": schema, "version_table": target.version_table or "alembic_version"}
    async with _connected(target) as connection:
        return bool((await connection.execute(text(_IS_EMPTY), told)).scalar())


@asynccontextmanager
async def _connected(target: Target) -> AsyncIterator[AsyncConnection]:
    """Context manager: a connection of ours in AUTOCOMMIT; errors tell no secret."""
    access = backend_for(Access(target), target.maintenance_database).access
    try:
        async with access.connection(autocommit=True, acting=True) as connection:
            yield connection
    except Exception as error:
        hide_secrets(error, passwords_of(target))
        raise


def _quoted(connection: AsyncConnection, schema: str) -> str:
    return connection.dialect.identifier_preparer.quote_identifier(schema)


async def _say(connection: AsyncConnection, schema: str, comment: str) -> None:
    await connection.exec_driver_sql(
        f"COMMENT ON SCHEMA {_quoted(connection, schema)} IS {comment}"
    )
