"""Takes and holds the migration lock of a SQLite database; the acts that the lock allows."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakKeyDictionary

from sqlalchemy.engine import Connection

from automigrator.backends.access import Access
from automigrator.backends.contract import declarations
from automigrator.backends.contract.backend import Waiting
from automigrator.backends.contract.declarations import Declaration
from automigrator.backends.contract.lock import Hold
from automigrator.backends.contract.record import Record
from automigrator.backends.contract.values import Sight, VersionTable
from automigrator.backends.lock_wait import poll, this_process
from automigrator.backends.sqlite import connections, lock_files
from automigrator.backends.sqlite.recover import recover
from automigrator.backends.sqlite.side import FileSides
from automigrator.backends.sqlite.snapshot import FileSnapshots
from automigrator.support.concurrency import in_thread, shielded

Look = Callable[[Sequence[VersionTable]], Awaitable[Sight]]


class SQLiteHold(Hold):
    """The lock of a SQLite database; `acquired` waits for it."""

    def __init__(self, look: Look) -> None:
        self._look = look

    async def look(self, tables: Sequence[VersionTable]) -> Sight:
        return await self._look(tables)


class FileHold(SQLiteHold):
    """The lock of a database file, in a file beside it that says who holds it and how far it is."""

    def __init__(self, look: Look, access: Access, file: Path) -> None:
        super().__init__(look)
        self._file, self._descriptor, self._progress = file, -1, ""
        self.snapshots: FileSnapshots = FileSnapshots(file, access.engine)
        self.snapshots.check_room = access.check_room
        self.sides = FileSides(access, self.snapshots)

    @asynccontextmanager
    async def acquired(self, timeout_s: float, waiting: Waiting) -> AsyncIterator[None]:
        """Context manager: hold the lock. Raises LockTimeoutError.

        The database file itself is not locked: it must stay free for the migration.
        """
        self.since = time.time()
        place = lock_files.path_of(self._file, lock_files.LOCK)
        self._descriptor = lock_files.opened(place)

        async def acquire() -> bool:
            with lock_files.lockable(place):
                return lock_files.taken(self._descriptor)

        async def leader() -> str:
            return lock_files.told_of(self._file)

        async with AsyncExitStack() as stack:
            stack.callback(lock_files.close, self._descriptor)
            self.waited_s = await poll(acquire, timeout_s, waiting, leader, str(self._file))
            self.leader = this_process()
            await self.confirm()
            stack.push_async_callback(self.snapshots.let_go)
            yield

    async def confirm(self, progress: str = "") -> None:
        # the kernel takes the lock from no process that lives
        self._progress = progress or self._progress
        text = json.dumps({"leader": self.leader, "progress": self._progress}).encode()
        with suppress(OSError):  # a full disk: it only informs those who wait
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.write(self._descriptor, text)
            os.ftruncate(self._descriptor, len(text))

    async def last(self) -> Record | None:
        return await in_thread(lambda: lock_files.record_of(self._file))

    async def leave(self, record: Record | None) -> None:
        text = _dated(record).dumped() if record else None
        await lock_files.put(self._file, lock_files.RECORD, text)

    async def declare(self, declared: Sequence[Declaration]) -> None:
        text = declarations.dumped(declared) if declared else None
        await lock_files.put(self._file, lock_files.DECLARED, text)

    def claim(self, connection: Connection) -> Callable[[], None]:
        watch = self.snapshots.watch
        # not of a fresh database on the side: commits meanwhile are somebody else's
        if watch is None or connections.main_file(connection) != self._file.resolve():
            return lambda: None

        def ask() -> object:  # raises what a closed connection raises
            dbapi = connection.connection.dbapi_connection
            return connections.rows_of(dbapi, "PRAGMA data_version")

        return watch.join(ask)

    async def recover(self) -> str | None:
        return await shielded(recover(self._file))

    async def close_journal(self) -> None:
        await shielded(in_thread(self.snapshots.close))


@dataclass(slots=True)
class _Shared:
    """The lock and the record of one database in memory."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    record: Record | None = None


_in_memory: WeakKeyDictionary[object, _Shared] = WeakKeyDictionary()


class MemoryHold(SQLiteHold):
    """The lock of a database in memory within this process, without snapshots and sides."""

    def __init__(self, look: Look, owner: object) -> None:
        super().__init__(look)
        self._shared = _in_memory.setdefault(owner, _Shared())

    @asynccontextmanager
    async def acquired(self, timeout_s: float, waiting: Waiting) -> AsyncIterator[None]:
        """Context manager: hold the lock. Raises LockTimeoutError."""
        self.since = time.time()

        async def acquire() -> bool:
            return self._shared.lock.acquire(blocking=False)

        async def leader() -> str:
            return "another run in this process"

        self.waited_s = await poll(acquire, timeout_s, waiting, leader, "the database in memory")
        self.leader = this_process()
        try:
            yield
        finally:
            self._shared.lock.release()

    async def confirm(self, progress: str = "") -> None:
        """Nobody else can take it."""

    async def last(self) -> Record | None:
        return self._shared.record

    async def leave(self, record: Record | None) -> None:
        self._shared.record = _dated(record) if record else None


def _dated(record: Record) -> Record:
    return record._replace(at=record.at or time.time())
