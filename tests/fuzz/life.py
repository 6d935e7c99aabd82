"""The living databases of the fuzzed application, read and written by plain SQL alone."""

from __future__ import annotations

import gc
import hashlib
import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psycopg
from faults.places import File, Kind
from support import postgres_server

from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql.locking import advisory

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Dump:
    """Every row of every table, comparable; nothing at all of a database that is absent."""

    tables: Mapping[str, Sequence[Row]]
    columns: Mapping[str, Sequence[str]]
    indexes: frozenset[str]

    @property
    def heads(self) -> frozenset[str]:
        return frozenset(row["version_num"] for row in self.tables.get("alembic_version", ()))

    @property
    def user_tables(self) -> set[str]:
        return set(self.tables) - {"alembic_version"}

    def tokens(self) -> dict[str, str]:
        """Each row that the application has written, with its checksum."""
        return {
            row["token"]: row["sum"]
            for rows in self.tables.values()
            for row in rows
            if "token" in row
        }

    def without(self, tokens: set[str]) -> object:
        """All but these rows, for comparison."""
        rows = {
            name: sorted(repr(sorted(r.items())) for r in rows if r.get("token") not in tokens)
            for name, rows in self.tables.items()
            if rows or name != "alembic_version"  # an empty version table says nothing
        }
        columns = {name: found for name, found in self.columns.items() if name in rows}
        return rows, columns, self.indexes


def sum_of(token: str) -> str:
    """What the application writes beside a token, so that a row vouches for itself."""
    return hashlib.sha256(token.encode()).hexdigest()[:12]


def written(serial: int) -> tuple[str, str, str]:
    """The tokens of the three rows that one transaction of the application writes."""
    return f"n{serial}", f"p{serial}", f"d{serial}"


def insertion(serial: int) -> list[str]:
    note, page, line = written(serial)
    return [
        f"INSERT INTO notes (id, token, sum, times) "
        f"SELECT {serial}, '{note}', '{sum_of(note)}', n FROM counter",
        f"INSERT INTO pages (id, token, sum, note_id) "
        f"VALUES ({serial}, '{page}', '{sum_of(page)}', {serial})",
        f"INSERT INTO diary (id, token, sum) VALUES ({serial}, '{line}', '{sum_of(line)}')",
    ]


class Living(Protocol):
    """One application's database, empty at first."""

    kind: str
    url: str

    def dump(self, name: str | None = None) -> Dump:
        """What it holds, or what a copy beside it does."""

    def beside(self) -> list[tuple[Kind, str]]: ...

    def opened(self) -> bool:
        """Whether a journal is open: the next start has something to end."""

    def held(self) -> str:
        """Who still holds the lock, or has a session; empty for nobody."""

    def write(self, serial: int) -> bool:
        """Commit rows over a connection of its own; whether it was told that they are."""

    def close(self) -> None: ...


class LivingFile(File):
    """A SQLite file in WAL or rollback mode, in a folder of its own."""

    kind = "sqlite"

    def __init__(self, root: Path, mode: str, *, absent: bool) -> None:
        self.live_in(root)
        self.path.parent.mkdir(parents=True)
        if not absent:
            with closing(sqlite3.connect(self.path)) as connection:
                connection.execute(f"PRAGMA journal_mode={mode}")
                connection.execute("PRAGMA user_version=1")  # so that there is a file at all

    def dump(self, name: str | None = None) -> Dump:
        path = self.path if name is None else self.path.with_name(name)
        if not path.exists():
            return Dump({}, {}, frozenset())
        with closing(sqlite3.connect(path)) as connection:
            found = connection.execute("SELECT type, name FROM sqlite_master").fetchall()
            tables, columns = {}, {}
            for table in (name for kind, name in found if kind == "table"):
                cursor = connection.execute(f'SELECT * FROM "{table}"')
                columns[table] = [each[0] for each in cursor.description]
                tables[table] = [dict(zip(columns[table], r, strict=True)) for r in cursor]
        indexes = {name for kind, name in found if kind == "index" and name[:7] != "sqlite_"}
        return Dump(tables, columns, frozenset(indexes))

    def copy_to(self, place: Path) -> None:
        """Make a backup of it, as an operator would."""
        with closing(sqlite3.connect(self.path)) as live, closing(sqlite3.connect(place)) as copy:
            live.backup(copy)

    def opened(self) -> bool:
        return self.path.with_name("app.db.automigrator-journal.json").exists()

    def write(self, serial: int) -> bool:
        if not self.path.exists():
            return False
        try:
            with closing(sqlite3.connect(self.path, timeout=0.5, isolation_level=None)) as ours:
                ours.execute("BEGIN IMMEDIATE")
                for statement in insertion(serial):
                    ours.execute(statement)
                ours.execute("COMMIT")
        except sqlite3.Error:
            return False
        return True

    def occupy(self, seconds: float) -> None:
        """Hold the write lock for a moment."""
        if not self.path.exists():
            return
        with closing(sqlite3.connect(self.path, timeout=1, isolation_level=None)) as other:
            try:
                other.execute("BEGIN IMMEDIATE")
            except sqlite3.Error:
                return
            time.sleep(seconds)
            other.execute("ROLLBACK")

    def close(self) -> None:
        self.clear()


class LivingDatabase:
    """A database of a PostgreSQL server, emptied and used again."""

    kind = "postgresql"

    def __init__(self, server: postgres_server.Server, name: str) -> None:
        self.name, self.url, self._server = name, server.url(name), server
        self.applications: set[int] = set()
        """The pids of the application's own sessions."""
        self.admin = psycopg.connect(
            self._dsn(server.maintenance_database), autocommit=True, application_name="fuzz"
        )

    def lay(self, *, absent: bool) -> None:
        """Empty it, and drop all that is beside it."""
        names = [row[0] for row in self._rows(_OURS, (self.name,))]
        for name in names:
            if absent or name != self.name:
                self.admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        if absent:
            return
        if self.name not in names:
            self._server.create(self.name)
        self._rows(f'COMMENT ON DATABASE "{self.name}" IS NULL')
        with psycopg.connect(self._dsn(self.name), autocommit=True) as own:
            own.execute("DROP SCHEMA IF EXISTS automigrator CASCADE")
            own.execute("DROP SCHEMA public CASCADE")
            own.execute("CREATE SCHEMA public")

    def dump(self, name: str | None = None) -> Dump:
        if not self._rows("SELECT 1 FROM pg_database WHERE datname = %s", (name or self.name,)):
            return Dump({}, {}, frozenset())
        with psycopg.connect(self._dsn(name or self.name), application_name="fuzz") as own:
            columns = dict(own.execute(_COLUMNS).fetchall())
            indexes = own.execute(_INDEXES).fetchall()
            tables: dict[str, list[Row]] = {table: [] for table in columns}
            if columns:
                each = [f"SELECT '{t}', row_to_json(t)::text FROM \"{t}\" t" for t in columns]
                for table, row in own.execute(" UNION ALL ".join(each)).fetchall():
                    tables[table].append(json.loads(row))
        return Dump(tables, columns, frozenset(row[0] for row in indexes))

    def beside(self) -> list[tuple[Kind, str]]:
        kinds: dict[str, Kind] = {"snapshot": "snapshot", "purged": "aside", "undone": "aside"}
        found: list[tuple[Kind, str]] = []
        for name, state in self._rows(_BESIDE, (f"{self.name}__",)):
            kind = kinds.get(name.removeprefix(f"{self.name}__automigrator_").split("_")[0])
            found.append(("stray" if state else kind or "stray", name))
        return found

    def opened(self) -> bool:
        return any(row[1] for row in self._rows(_BESIDE, (f"{self.name}__",)))

    def held(self) -> str:
        deadline = time.monotonic() + 5
        while rows := self._sessions():
            if time.monotonic() > deadline:
                gc.collect()  # whose is it, when nobody refers to it any more?
                time.sleep(0.5)
                forgotten = "" if self._sessions() else ", until the garbage is collected"
                return f"sessions stay at the server{forgotten}: {rows}"
            time.sleep(0.005)
        return ""

    def write(self, serial: int) -> bool:
        try:
            with psycopg.connect(self._dsn(self.name), application_name="fuzz writer") as own:
                own.execute("SET lock_timeout = '300ms'")
                for statement in insertion(serial):
                    own.execute(statement)
        except psycopg.Error:
            return False
        return True

    def terminate(self, choice: int) -> str:
        """End one of the run's sessions, the lock's included; says which."""
        rows = self._sessions()
        pids = sorted({row[0] for row in rows})
        if not pids:
            return ""
        pid = pids[choice % len(pids)]
        self._rows("SELECT pg_terminate_backend(%s)", (pid,))
        return next(str(row) for row in rows if row[0] == pid)

    def _sessions(self) -> list[tuple[Any, ...]]:
        keys = advisory.keys(self.name, [VersionTable()])
        rows = self._rows(_HELD, (self.name, *keys))
        return [row for row in rows if row[0] not in self.applications]

    def close(self) -> None:
        for name in [row[0] for row in self._rows(_OURS, (self.name,))]:
            self.admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        self.admin.close()

    def _dsn(self, database: str) -> str:
        return self._server.url(database).replace("+asyncpg", "")

    def _rows(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        cursor = self.admin.execute(sql, values)
        return cursor.fetchall() if cursor.description else []


_OURS = "SELECT datname::text FROM pg_database WHERE starts_with(datname, %s)"
_COLUMNS = """
    SELECT c.relname::text, array_agg(a.attname::text ORDER BY a.attnum)
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0
      AND NOT a.attisdropped GROUP BY 1
"""
_INDEXES = """
    SELECT c.relname::text || CASE WHEN i.indisvalid THEN '' ELSE ' (invalid)' END
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE c.relnamespace = 'public'::regnamespace AND NOT i.indisprimary
"""
_BESIDE = """
    SELECT datname::text, shobj_description(oid, 'pg_database') LIKE '%%"state": "%%'
      AND shobj_description(oid, 'pg_database') NOT LIKE '%%"state": "kept"%%'
    FROM pg_database WHERE starts_with(datname, %s) ORDER BY 1
"""
_HELD = """
    SELECT pid, application_name, state, now() - backend_start, now() - state_change, query
    FROM pg_stat_activity
    WHERE starts_with(datname, %s) AND backend_type = 'client backend'
      AND application_name NOT LIKE 'fuzz%%'
    UNION ALL SELECT pid, 'the migration lock', '', NULL, NULL, '' FROM pg_locks
    WHERE locktype = 'advisory' AND (classid::bigint << 32 | objid::bigint) = %s
"""
