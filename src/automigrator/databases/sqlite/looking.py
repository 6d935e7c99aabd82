"""One look at a SQLite database: its heads and whether it has tables, changing nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import zip_longest
from pathlib import Path
from typing import Any

from automigrator.databases.backend import Sight, VersionTable
from automigrator.databases.sqlite.reading import (
    BUSY_S,
    begin_reading,
    code_of,
    connect,
    looking_at,
    never,
    no_file,
)

Ask = Callable[[str], Sequence[Any]]
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'sqlite_*'"
# without what ANALYZE makes: an optimising application changes no schema
_SCHEMA = (
    "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_master "
    "WHERE name NOT GLOB 'sqlite_stat*'"
)


def look_at_file(path: Path, tables: Sequence[VersionTable]) -> Sight:
    """Raises sqlite3.DatabaseError when it is damaged, TimeoutError when it stays locked."""
    if not path.exists():
        return Sight(False, dict.fromkeys(tables))
    if path.is_dir():
        raise no_file(path)
    try:
        with looking_at(path) as connection:
            return look(lambda sql: connection.execute(sql).fetchall(), tables)
    except sqlite3.OperationalError as error:
        # a journal that a killed process left can only be played back by a writer
        if code_of(error) not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            raise
    with closing(connect(path, "rw")) as connection:
        begin_reading(connection, path, never, BUSY_S)
        return look(lambda sql: connection.execute(sql).fetchall(), tables)


def look(ask: Ask, tables: Sequence[VersionTable]) -> Sight:
    """The same on an open connection."""
    names = {str(row[0]).lower(): str(row[0]) for row in ask(_TABLES)}
    heads: dict[VersionTable, tuple[str, ...] | None] = {}
    for table in tables:
        found = names.pop(table.name.lower(), None)
        if found is None:
            heads[table] = None
            continue
        quoted = found.replace('"', '""')
        rows = ask(f'SELECT version_num FROM "{quoted}"')
        heads[table] = tuple(sorted(str(row[0]) for row in rows))
    return Sight(True, heads, bool(names))


def schema(ask: Ask) -> list[Any]:
    """The whole schema, comparable between two databases."""
    return sorted(tuple(row) for row in ask(_SCHEMA))


def same_rows(one: sqlite3.Connection, other: sqlite3.Connection) -> bool:
    """Whether all rows of two databases of the same schema are the same; both are read through."""
    names = "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 AND "
    for (name,) in one.execute(names + "name NOT GLOB 'sqlite_stat*'").fetchall():
        quoted = name.replace('"', '""')
        pairs = zip_longest(*(each.execute(f'SELECT * FROM "{quoted}"') for each in (one, other)))
        if not all(a == b for a, b in pairs):
            return False
    return True
