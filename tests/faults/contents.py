"""What is in a database, table by table, for comparison row by row."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import asyncpg  # type: ignore[import-untyped]  # it ships no types

DIARY = "diary"
"""The table that a writer adds lines to: it alone differs from one trial to the next."""


@dataclass(frozen=True)
class Contents:
    """Columns, number of rows and a checksum over all of them for each table; `heads` apart.

    The lines of `diary` are not in `tables`, and neither are they compared.
    """

    tables: Mapping[str, str]
    heads: frozenset[str]
    diary: tuple[str, ...]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Contents):
            return NotImplemented
        return (self.tables, self.heads) == (other.tables, other.heads)

    def holds_rows_of(self, other: Contents) -> bool:
        """Whether it has every row of the other, whatever it has besides."""
        rows = {name: told for name, told in other.tables.items() if name != "alembic_version"}
        return rows.items() <= self.tables.items()

    def against(self, other: Contents) -> str:
        """In which tables this is not the other."""
        names = sorted(self.tables.keys() | other.tables.keys())
        differing = [
            f"{name}: {self.tables.get(name)}, not {other.tables.get(name)}"
            for name in names
            if self.tables.get(name) != other.tables.get(name)
        ]
        if self.heads != other.heads:
            differing.append(f"heads {set(self.heads)}, not {set(other.heads)}")
        return "; ".join(differing)


def of_file(path: Path) -> Contents:
    """What a SQLite file holds. Raises sqlite3.DatabaseError when it is damaged."""
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True)) as connection:
        ((sound,),) = connection.execute("PRAGMA integrity_check(1)").fetchall()
        if sound != "ok" or connection.execute("PRAGMA foreign_key_check").fetchall():
            raise sqlite3.DatabaseError(f"{path}: {sound}, or rows that refer to nothing")
        names = connection.execute(
            "SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
        ).fetchall()
        tables, rows = {}, {}
        for kind, name in names:
            if kind != "table":
                tables[f"{kind} {name}"] = "present"
                continue
            cursor = connection.execute(f'SELECT * FROM "{name}"')
            columns = ", ".join(column[0] for column in cursor.description)
            rows[name] = cursor.fetchall()
            text = "\n".join(sorted(map(repr, rows[name])))
            digest = hashlib.sha256(text.encode()).hexdigest()[:12]
            tables[name] = f"({columns}) {len(rows[name])} rows {digest}"
    return _contents(tables, rows)


def of_server(dsn: str) -> Contents:
    """What a PostgreSQL database holds in its schema `public`."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(_fetched(dsn))).result()


async def _fetched(dsn: str) -> Contents:
    server = await asyncpg.connect(dsn)
    try:
        indexes = await server.fetch(
            "select c.relname, i.indisvalid from pg_index i join pg_class c on c.oid = i.indexrelid"
            " where c.relnamespace = 'public'::regnamespace"
        )
        names = await server.fetch(
            "select table_name, string_agg(column_name, ', ' order by ordinal_position)"
            " from information_schema.columns where table_schema = 'public' group by 1"
        )
        tables = {f"index {name}": "valid" if valid else "invalid" for name, valid in indexes}
        rows = {}
        for name, columns in names:
            count, digest = await server.fetchrow(
                f"select count(*), md5(string_agg(t::text, '|' order by t::text)) from \"{name}\" t"
            )
            tables[name] = f"({columns}) {count} rows {digest}"
            if name in (DIARY, "alembic_version"):
                rows[name] = [tuple(row) for row in await server.fetch(f'select * from "{name}"')]
        return _contents(tables, rows)
    finally:
        await server.close()


def _contents(tables: dict[str, str], rows: Mapping[str, list[tuple[object, ...]]]) -> Contents:
    if DIARY in tables:
        tables[DIARY] = tables[DIARY].partition(")")[0]
    heads = frozenset(str(row[0]) for row in rows.get("alembic_version", []))
    return Contents(tables, heads, tuple(sorted(str(row[1]) for row in rows.get(DIARY, []))))
