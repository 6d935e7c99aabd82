"""A backend without snapshots: the smallest that automigrator can migrate with."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, column, event, inspect, select, table

from automigrator.backends.access import Access
from automigrator.backends.contract.backend import Backend, Waiting
from automigrator.backends.contract.lock import Hold
from automigrator.backends.contract.record import Record, loaded
from automigrator.backends.contract.sessions import Sessions
from automigrator.backends.contract.values import Sight, Verdict, VersionTable
from automigrator.backends.lock_wait import poll, this_process
from automigrator.errors import ConfigurationError, LockLostError
from automigrator.failure import FailureKind
from automigrator.support.error_chain import chain


def seen(connection: Connection, tables: Sequence[VersionTable]) -> Sight:
    """Read the heads by what SQLAlchemy knows of every database."""
    inspector = inspect(connection)
    others = set(inspector.get_table_names())
    heads: dict[VersionTable, tuple[str, ...] | None] = {}
    for each in tables:
        heads[each] = None
        if inspector.has_table(each.name, each.schema):
            version = table(each.name, column("version_num"), schema=each.schema)
            rows = connection.execute(select(version.c.version_num)).scalars()
            heads[each] = tuple(sorted(rows))
            others.discard(each.name)
    return Sight(True, heads, has_tables=bool(others))


class ExampleSessions(Sessions):
    """What is asked of the connection that a migration runs on."""

    def identity(self, connection: Connection) -> Hashable:
        driver: Any = connection.connection.dbapi_connection
        cursor = driver.cursor()  # SQLAlchemy's own would begin a transaction
        cursor.execute("PRAGMA database_list")
        _, _, file = cursor.fetchone()
        cursor.close()
        status = os.stat(file)
        return status.st_dev, status.st_ino

    def adopt(self, connection: Connection, *, to_write: bool = True) -> Callable[[], None]:
        """Begin each transaction at once: the driver would not before the first INSERT."""
        driver: Any = connection.connection.dbapi_connection
        before = driver.isolation_level

        def begin(connection: Connection) -> None:
            if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
                driver.isolation_level = None  # the driver begins no transaction of its own
                connection.exec_driver_sql("BEGIN IMMEDIATE" if to_write else "BEGIN")

        def undo() -> None:
            if not connection.closed:
                event.remove(connection, "begin", begin)
                connection.rollback()
                driver.isolation_level = before

        event.listen(connection, "begin", begin)
        if connection.in_transaction():
            begin(connection)
        return undo

    def interrupter(self, connection: Connection) -> Callable[[], None]:
        driver: Any = connection.connection.driver_connection

        def interrupt() -> None:
            with suppress(StopIteration):
                driver.interrupt().send(None)  # a coroutine that waits for nothing

        return interrupt


class ExampleHold(Hold):
    """The migration lock while this process holds it: a file that the kernel has locked."""

    def __init__(self, backend: ExampleDB, descriptor: int, waited_s: float, since: float) -> None:
        self.leader = this_process()
        self.waited_s = waited_s
        self.since = since
        self._backend = backend
        self._descriptor = descriptor
        self._progress = ""

    async def look(self, tables: Sequence[VersionTable]) -> Sight:
        await self.confirm()
        return await self._backend.look(tables)

    async def confirm(self, progress: str = "") -> None:
        try:
            held = os.path.samestat(os.fstat(self._descriptor), os.stat(self._backend.lock_file))
        except FileNotFoundError:
            held = False
        if not held:
            raise LockLostError(f"{self._backend.lock_file} was deleted while it was locked")
        self._progress = progress or self._progress
        text = json.dumps({"leader": self.leader, "progress": self._progress}).encode()
        with suppress(OSError):  # a full disk: it only informs those who wait
            os.pwrite(self._descriptor, text, 0)
            os.ftruncate(self._descriptor, len(text))

    async def last(self) -> Record | None:
        try:
            return loaded(self._backend.record_file.read_text("utf-8"))
        except FileNotFoundError:
            return None

    async def leave(self, record: Record | None) -> None:
        file = self._backend.record_file
        if record is None:
            file.unlink(missing_ok=True)
            return
        new = file.with_name(f"{file.name}.new")
        new.write_text(record._replace(at=record.at or time.time()).dumped(), "utf-8")
        new.replace(file)  # a process that is killed leaves the old record or the new one


OF_DATA = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH)

KINDS: dict[int, FailureKind] = {
    sqlite3.SQLITE_BUSY: "lock-timeout",
    sqlite3.SQLITE_LOCKED: "lock-timeout",
    sqlite3.SQLITE_CANTOPEN: "unreachable",
    sqlite3.SQLITE_IOERR: "unreachable",
    sqlite3.SQLITE_FULL: "disk-full",
    sqlite3.SQLITE_READONLY: "read-only",
    sqlite3.SQLITE_CORRUPT: "corrupt",
    sqlite3.SQLITE_NOTADB: "corrupt",
}


class ExampleDB(Backend):
    """One database of the example: a file."""

    name = "exampledb"
    transactional_ddl = True
    sessions = ExampleSessions()

    def __init__(self, access: Access, maintenance_database: str | None) -> None:
        super().__init__(access)
        if not access.url.database:
            raise ConfigurationError("the URL of an exampledb database must name a file")
        self.file = Path(access.url.database).resolve()
        self.lock_file = self.file.with_name(f"{self.file.name}.lock")
        self.record_file = self.file.with_name(f"{self.file.name}.record")

    async def look(self, tables: Sequence[VersionTable], *, heads_only: bool = False) -> Sight:
        if not self.file.exists():
            return Sight(False, dict.fromkeys(tables))
        async with self.access.connection() as connection:
            return await connection.run_sync(seen, tables)

    async def create(self) -> bool:
        try:
            self.file.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    @asynccontextmanager
    async def lock(
        self, tables: Sequence[VersionTable], timeout_s: float, waiting: Waiting
    ) -> AsyncIterator[ExampleHold]:
        since = time.time()
        descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o644)

        async def acquire() -> bool:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            return False

        try:
            waited_s = await poll(acquire, timeout_s, waiting, self.leader, str(self.file))
            hold = ExampleHold(self, descriptor, waited_s, since)
            await hold.confirm()
            yield hold
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    async def leader(self) -> str:
        """Say who holds the lock, for those who wait."""
        try:
            said = json.loads(self.lock_file.read_text("utf-8"))
            return f"{said['leader']} {said['progress']}".strip()
        except (OSError, ValueError, LookupError, TypeError):
            return "another process"

    def classify(self, error: BaseException) -> Verdict:
        for each in chain(error):
            if isinstance(each, sqlite3.Error):
                code = getattr(each, "sqlite_errorcode", 0) & 0xFF
                return Verdict(KINDS.get(code), of_data=code in OF_DATA)
        return Verdict()
