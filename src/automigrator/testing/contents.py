"""Fills a database, and reads it row by row, on whatever SQLAlchemy has a dialect for."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import URL, Column, Integer, MetaData, NullPool, String, Table, inspect, select
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from automigrator.testing.databases import CANARY

Contents = dict[str, tuple[tuple[str, ...], tuple[tuple[Any, ...], ...]]]

"""The columns and the sorted rows of every table."""

ROWS = (*((number, f"note {number}") for number in range(200)), (200, CANARY), (201, CANARY))

"""The notes of a database before a case begins; one text is there twice."""

_METADATA = MetaData()

_NOTES = Table(
    "notes",
    _METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("text", String(50), nullable=False),
)

_VERSIONS = Table("alembic_version", _METADATA, Column("version_num", String(32), primary_key=True))


def with_notes(revision: str = "r1", rows: Sequence[tuple[int, str]] = ROWS) -> Contents:
    """What `fill` makes of an empty database."""
    return {
        "alembic_version": (("version_num",), ((revision,),)),
        "notes": (("id", "text"), tuple(sorted(rows, key=repr))),
    }


@asynccontextmanager
async def connected(url: URL) -> AsyncIterator[AsyncConnection]:
    """A connection that nobody knows of afterwards."""
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


async def fill(url: URL, revision: str = "r1", rows: Sequence[tuple[int, str]] = ROWS) -> None:
    """Put the notes and a version row into an empty database."""
    async with connected(url) as connection:
        await connection.run_sync(_METADATA.create_all)
        await connection.execute(_VERSIONS.insert().values(version_num=revision))
        if rows:
            values = [{"id": number, "text": text} for number, text in rows]
            await connection.execute(_NOTES.insert(), values)
        await connection.commit()


async def execute(url: URL, *statements: str) -> None:
    """Run statements in one transaction, and commit it."""
    async with connected(url) as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)
        await connection.commit()


async def contents(url: URL) -> Contents:
    """Every row of every table."""
    async with connected(url) as connection:
        return await connection.run_sync(_read)


def _read(connection: Connection) -> Contents:
    found: Contents = {}
    names = inspect(connection).get_table_names()
    for name in names:
        table = Table(name, MetaData(), autoload_with=connection, resolve_fks=False)
        rows = sorted((tuple(row) for row in connection.execute(select(table))), key=repr)
        found[name] = (tuple(table.columns.keys()), tuple(rows))
    return found


def heads(found: Contents) -> tuple[str, ...]:
    """The heads in what was read."""
    _, rows = found.get("alembic_version", ((), ()))
    return tuple(sorted(row[0] for row in rows))


def checksums(found: Contents) -> dict[str, str]:
    """A line for each table: how many rows there are, and a checksum of them."""
    return {
        name: f"{len(rows)} rows, {hashlib.sha256(repr((columns, rows)).encode()).hexdigest()[:12]}"
        for name, (columns, rows) in sorted(found.items())
    }
