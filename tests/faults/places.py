"""The databases that are killed at: how one is laid, what is in it and beside it, who holds it."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal, Protocol

import psycopg
from faults import contents
from faults.contents import Contents
from support import postgres_server

from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql.locking import advisory as locking
from automigrator.backends.postgresql.names import SCHEMA_OF_OURS as _OURS

TABLES = (
    "CREATE TABLE notes (id INTEGER PRIMARY KEY, text VARCHAR(50) NOT NULL,"
    " times INTEGER NOT NULL)",
    "CREATE TABLE pages (id INTEGER PRIMARY KEY, body TEXT NOT NULL,"
    " note_id INTEGER NOT NULL REFERENCES notes (id) ON DELETE CASCADE)",
    f"CREATE TABLE {contents.DIARY} (id INTEGER PRIMARY KEY, line TEXT NOT NULL)",
)
VERSION = (
    "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
    "INSERT INTO alembic_version VALUES ('r1')",
)
NOTES = [f"({n}, 'note {n % 97}', {n % 7})" for n in range(600)]
PAGES = [f"({n}, '{n:04}{'x' * 2000}', {n})" for n in range(600)]
ROWS = (
    f"INSERT INTO notes VALUES {', '.join(NOTES)}",
    f"INSERT INTO pages VALUES {', '.join(PAGES)}",
    f"INSERT INTO {contents.DIARY} VALUES (0, '0')",
)
OLD = (*TABLES, *VERSION, *ROWS)
_APPEND = f"INSERT INTO {contents.DIARY} (id, line) SELECT max(id) + 1, $1 FROM {contents.DIARY}"

Kind = Literal["snapshot", "aside", "stray"]
"""A copy that a run keeps, old data that it set aside, or what no run may leave."""


class Place(Protocol):
    """A database at the old revision with rows in it, laid anew for every trial."""

    name: str
    """As the table of kills has it."""
    url: str
    folder: str
    """Where what a process opens or renames is part of its work on the database."""
    copies: Path
    """A folder for copies that are not to be beside the database; laid anew as well."""

    def lay(self) -> None: ...

    def empty(self) -> None:
        """Lay one without tables, as it was when it was new."""

    def contents(self, name: str | None = None) -> Contents:
        """What it holds, or what a copy of it does."""

    def beside(self) -> Sequence[tuple[Kind, str]]:
        """What was left beside it, by name."""

    def appender(self) -> Callable[[int], object]:
        """What commits a line to the diary, over one connection."""

    def held(self) -> str:
        """Who holds it still, a second after all processes have ended; empty for nobody."""

    def clear(self) -> None: ...


class File:
    """A SQLite file, in WAL or rollback mode, in a folder of its own."""

    def __init__(self, root: Path, mode: Literal["wal", "delete"]) -> None:
        self.name = "SQLite, WAL" if mode == "wal" else "SQLite, rollback journal"
        self.live_in(root)
        self._model = root / "old.db"
        with closing(sqlite3.connect(self._model)) as connection:
            connection.execute(f"PRAGMA journal_mode={mode}")
            for statement in OLD:
                connection.execute(statement)
            connection.commit()

    def live_in(self, root: Path) -> None:
        self.folder = str(root / "data")
        self.path = Path(self.folder) / "app.db"
        self.copies = self.path.with_name("copies")
        self.url = f"sqlite+aiosqlite:///{self.path}"

    def lay(self) -> None:
        self.clear()
        self.path.parent.mkdir()
        shutil.copyfile(self._model, self.path)

    def empty(self) -> None:
        self.clear()
        self.path.parent.mkdir()

    def contents(self, name: str | None = None) -> Contents:
        return contents.of_file(self.path if name is None else self.path.parent / name)

    def beside(self) -> list[tuple[Kind, str]]:
        found: list[tuple[Kind, str]] = []
        for path in sorted(self.path.parent.iterdir()):
            tail = path.name.removeprefix(self.path.name)
            own = ("lock", "record.json", "checksums.json")
            # half written, and a progress without its journal: the next holder removes them
            own = (*own, "checksums.json.tmp", "progress.json")
            ours = ("", "-wal", "-shm", *(f".automigrator-{each}" for each in own))
            if tail in ours or path == self.copies:
                continue
            whole = "." not in tail[1:] and not tail.endswith(("-wal", "-shm", "-journal"))
            if whole and tail.startswith(".snapshot-"):
                found.append(("snapshot", path.name))
            elif whole and tail.startswith((".purged-", ".replaced-")):
                found.append(("aside", path.name))
            else:
                found.append(("stray", path.name))
        if self.copies.exists():
            kept = re.compile(rf"{self.path.name}\.[0-9a-f]+\.snapshot-[0-9TZ]+")
            for path in sorted(self.copies.iterdir()):
                kind: Kind = "snapshot" if kept.fullmatch(path.name) else "stray"
                found.append((kind, f"{self.copies.name}/{path.name}"))
        return found

    def appender(self) -> Callable[[int], object]:
        connection = sqlite3.connect(self.path, isolation_level=None)
        return lambda line: connection.execute(_APPEND.replace("$1", "?"), (line,))

    def held(self) -> str:
        lock = self.path.with_name(f"{self.path.name}.automigrator-lock")
        if not lock.exists():
            return ""
        descriptor = os.open(lock, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return f"the lock {lock} is still held"
        finally:
            os.close(descriptor)
        return ""

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class Database:
    """A database of a PostgreSQL server; `name` begins the names of all that is beside it."""

    name = "PostgreSQL"

    def __init__(self, server: postgres_server.Server, name: str, root: Path) -> None:
        self._server, self._database, self._model = server, name, f"{name}_model"
        self.copies = root / "dumps"
        self.folder = str(self.copies)  # all else is at the server
        self.url = server.url(name)
        server.create(self._model)
        for statement in OLD:
            server.execute(statement, database=self._model)

    def lay(self) -> None:
        self.clear()
        self._server.execute(f'create database "{self._database}" template "{self._model}"')

    def empty(self) -> None:
        self.clear()
        self._server.create(self._database)

    def contents(self, name: str | None = None) -> Contents:
        if name is not None and name.endswith(".dump"):
            return self._dumped(self.copies / name)
        return contents.of_server(self._dsn(name or self._database))

    def _dumped(self, path: Path) -> Contents:
        """What a dump holds, put into a database of its own. Raises CalledProcessError."""
        name = f"{self._database}_read"
        self._server.drop(name)
        self._server.create(name)
        try:
            command = ["pg_restore", "--exit-on-error", "-d", self._dsn(name), str(path)]
            subprocess.run(command, check=True, capture_output=True)
            return contents.of_server(self._dsn(name))
        finally:
            self._server.drop(name)

    def _dsn(self, name: str) -> str:
        return self._server.url(name).replace("+asyncpg", "")

    def beside(self) -> list[tuple[Kind, str]]:
        rows = self._server.execute(
            "select datname::text, shobj_description(oid, 'pg_database') from pg_database"
            " where starts_with(datname, $1) order by 1",
            f"{self._database}__",
        )
        databases: dict[str, Kind] = {"snapshot": "snapshot", "purged": "aside", "undone": "aside"}
        files: dict[str, Kind] = {"snapshot": "snapshot", "replaced": "aside"}
        found: list[tuple[Kind, str]] = []
        for name, comment in rows:
            unfinished = '"state": "' in (comment or "") and '"state": "kept"' not in comment
            kind = databases.get(_kind_in(name))
            found.append(("stray" if unfinished else kind or "stray", name))
        for path in sorted(self.copies.iterdir()) if self.copies.exists() else []:
            if path.suffix == ".json" and path.with_suffix("").exists():
                continue  # what that dump holds
            kind = files.get(_kind_in(path.name)) if path.suffix == ".dump" else None
            found.append((kind or "stray", path.name))
        records = self._server.execute(
            "select typname::text from pg_type"
            f" where typnamespace = to_regnamespace('{_OURS}') and starts_with(typname, 'dump_')"
            """ and obj_description(oid, 'pg_type') not like '%"state": "kept"%'""",
            database=self._database,
        )
        return [*found, *(("stray", f"the open record {name}") for (name,) in records)]

    def appender(self) -> Callable[[int], object]:
        connection = psycopg.connect(self._dsn(self._database), autocommit=True)
        return lambda line: connection.execute(_APPEND.replace("$1", "%s"), (str(line),))

    def held(self) -> str:
        deadline = time.monotonic() + 10
        while rows := self._server.execute(
            "select pid, application_name, query from pg_stat_activity"
            " where starts_with(datname, $1) and backend_type = 'client backend'"
            " union all select pid, 'the migration lock', '' from pg_locks"
            " where locktype = 'advisory' and (classid::bigint << 32 | objid::bigint) = $2",
            self._database,
            *locking.keys(self._database, [VersionTable()]),
        ):
            if time.monotonic() > deadline:
                return f"sessions stay at the server: {[tuple(row) for row in rows]}"
            time.sleep(0.02)
        return ""

    def clear(self) -> None:
        for name in self._server.databases(self._database):
            if name != self._model:
                self._server.drop(name)
        shutil.rmtree(self.copies, ignore_errors=True)

    def remove(self) -> None:
        self.clear()
        self._server.drop(self._model)


def _kind_in(name: str) -> str:
    """The word in a name that automigrator gave."""
    return name.partition("__automigrator_")[2].partition("_")[0]
