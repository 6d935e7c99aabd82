"""Rows for the tables of a database, which Hypothesis makes from the schema (an extra)."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import URL, Column, MetaData, Table, func, select, types
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from automigrator.testing.contents import connected
from pytest_automigrator import drivers
from pytest_automigrator.application import awaited

COUNT = 4
"""Rows of a table, where so many different ones can be made."""

_LETTERS = "abcXYZ019 _-%'\"\\é漢🙂\n"
"""What migrations stumble over, in few letters: each session makes the same rows."""


def add_rows(url: URL, version_tables: Collection[str]) -> list[str]:
    """Put rows into every table that is empty; returns the names of those that stay so."""

    async def work() -> list[str]:
        async with connected(drivers.asynchronous(url)) as connection:
            return await connection.run_sync(_fill, version_tables)

    return awaited(work)


def _fill(connection: Connection, version_tables: Collection[str]) -> list[str]:
    metadata = MetaData()
    metadata.reflect(connection)
    connection.rollback()
    left = []
    for table in metadata.sorted_tables:
        if table.name not in version_tables and not _count(connection, table):
            for row in _made(connection, table):
                _insert(connection, table, row)
            if not _count(connection, table):
                left.append(table.name)
    return left


def _count(connection: Connection, table: Table) -> int:
    count = connection.execute(select(func.count()).select_from(table)).scalar_one()
    connection.rollback()
    return int(count)


def _insert(connection: Connection, table: Table, row: Mapping[str, Any]) -> None:
    """A row that a constraint refuses is left out."""
    try:
        connection.execute(table.insert().values(**row))
        connection.commit()
    except (SQLAlchemyError, OverflowError, ValueError, TypeError):
        connection.rollback()


def _made(connection: Connection, table: Table) -> list[dict[str, Any]]:
    strategies = {c.name: each for c in table.columns if (each := _of(connection, c)) is not None}
    wanted = {c.name for c in table.columns if not c.nullable and not _made_by_database(c)}
    if not wanted <= strategies.keys():
        return []  # a type that nothing is known of
    found: list[dict[str, Any]] = []

    @settings(
        max_examples=COUNT,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.fixed_dictionaries(strategies))
    def keep(row: dict[str, Any]) -> None:
        found.append(row)

    keep()
    return found


def _made_by_database(column: Column[Any]) -> bool:
    if column.computed is not None or column.identity is not None:
        return True
    default = str(getattr(column.server_default, "arg", ""))
    return "nextval" in default or _is_rowid(column)


def _is_rowid(column: Column[Any]) -> bool:
    keys = list(column.table.primary_key.columns)
    return keys == [column] and isinstance(column.type, types.Integer) and not column.foreign_keys


def _of(connection: Connection, column: Column[Any]) -> st.SearchStrategy[Any] | None:
    """The values of a column; None for what the database makes, or nobody can."""
    if _made_by_database(column):
        return None
    for key in column.foreign_keys:
        parents = connection.execute(select(key.column).distinct().limit(COUNT)).scalars().all()
        connection.rollback()
        values: st.SearchStrategy[Any] | None = st.sampled_from(parents) if parents else None
        break
    else:
        values = _of_type(column.type)
    if values is None:
        return st.none() if column.nullable else None
    return st.none() | values if column.nullable else values


def _of_type(kind: types.TypeEngine[Any]) -> st.SearchStrategy[Any] | None:
    for type_, make in _TYPES:
        if isinstance(kind, type_):
            made: st.SearchStrategy[Any] | None = make(kind)
            return made
    return None


def _integers(kind: Any) -> st.SearchStrategy[int]:
    bits = 15 if isinstance(kind, types.SmallInteger) else 31
    return st.integers(-(2**bits), 2**bits - 1)


def _decimals(kind: Any) -> st.SearchStrategy[Any]:
    places = kind.scale or 0
    largest = decimal.Decimal(10) ** ((kind.precision or 9) - places) - 1
    return st.decimals(-largest, largest, places=places)


def _texts(kind: Any) -> st.SearchStrategy[str]:
    return st.text(_LETTERS, max_size=min(kind.length or 20, 20))


def _enums(kind: Any) -> st.SearchStrategy[str] | None:
    values: Sequence[str] = kind.enums
    return st.sampled_from(values) if values else None


def _datetimes(kind: Any) -> st.SearchStrategy[datetime.datetime]:
    zones = st.just(datetime.UTC) if kind.timezone else st.none()
    first, last = datetime.datetime(1970, 1, 1), datetime.datetime(2037, 12, 31)
    return st.datetimes(first, last, timezones=zones)


def _intervals(kind: Any) -> st.SearchStrategy[datetime.timedelta]:
    return st.timedeltas(datetime.timedelta(), datetime.timedelta(99))


def _arrays(kind: Any) -> st.SearchStrategy[Any] | None:
    items = _of_type(kind.item_type)
    return st.lists(items, max_size=3) if items is not None else None


_TYPES: tuple[tuple[type[types.TypeEngine[Any]], Any], ...] = (
    (types.Boolean, lambda kind: st.booleans()),
    (types.Enum, _enums),
    (types.Integer, _integers),
    (types.Float, lambda kind: st.floats(-1e6, 1e6, allow_subnormal=False)),
    (types.Numeric, _decimals),
    (types.DateTime, _datetimes),
    (types.Date, lambda kind: st.dates(datetime.date(1970, 1, 1), datetime.date(2037, 12, 31))),
    (types.Time, lambda kind: st.times()),
    (types.Interval, _intervals),
    (postgresql.INTERVAL, _intervals),
    (types.Uuid, lambda kind: st.uuids() if kind.as_uuid else st.uuids().map(uuid.UUID.__str__)),
    (types.ARRAY, _arrays),
    (types.LargeBinary, lambda kind: st.binary(max_size=20)),
    (types.JSON, lambda kind: st.dictionaries(st.sampled_from("ab"), st.integers(0, 9))),
    (types.String, _texts),
)
"""The first that a column's type is one of, in this order."""
