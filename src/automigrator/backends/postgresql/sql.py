"""Plain SQL on a connection: quoting, running, error codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

NO_LIMITS = """
    select set_config(name, '0', true) from pg_settings
    where name in ('statement_timeout', 'idle_in_transaction_session_timeout',
                   'transaction_timeout')  -- from PostgreSQL 17 on
"""

"""Lifts all limits of time for one transaction."""

LIMITS_OF_TIME = """
    select array_agg(name || '=' || setting) from pg_settings
    where setting <> '0' and name in (
        'statement_timeout', 'idle_in_transaction_session_timeout',
        'idle_session_timeout',  -- from PostgreSQL 14 on
        'transaction_timeout')  -- from PostgreSQL 17 on
"""

"""The limits of time that a session has, as an array of `name=value`."""

SERVER = "(extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint"

"""The server, told by when it was started: its address may lead to another one by now."""


class SearchPath(NamedTuple):
    """Where a connection looks for tables: the setting, and the schemas of it that exist."""

    setting: str = ""
    schemas: tuple[str, ...] = ()


def quoted_name(identifier: str) -> str:
    if "\0" in identifier or not identifier:
        raise ValueError("an identifier is neither empty nor does it hold a null character")
    return '"' + identifier.replace('"', '""') + '"'


def literal(value: str) -> str:
    quoted = "'" + value.replace("'", "''") + "'"
    # E'' means the same whatever standard_conforming_strings says
    return " E" + quoted.replace("\\", "\\\\") if "\\" in quoted else quoted


def server_version(connection: AsyncConnection) -> tuple[Any, ...]:
    return connection.dialect.server_version_info or ()


async def run(connection: AsyncConnection, sql: str) -> None:
    # a colon in a name is no parameter, and text() also minds the driver's percent signs
    await connection.execute(text(sql.replace(":", "\\:")))


async def begin_reading(connection: AsyncConnection) -> None:
    """Begin a transaction that sees one state of the database, without a limit of time."""
    await run(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    await run(connection, NO_LIMITS)


async def rows_of(connection: AsyncConnection, sql: str, **parameters: Any) -> Sequence[Any]:
    return (await connection.execute(text(sql), parameters)).all()
