"""Takes and holds the migration lock of a SQLite database; the acts that the lock allows."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

from sqlalchemy.engine import Connection

from automigrator.backends.access import Access
from automigrator.backends.contract import declarations
from automigrator.backends.contract.backend import Waiting
from automigrator.backends.contract.checksums import Checksums
from automigrator.backends.contract.declarations import Declaration
from automigrator.backends.contract.lock import Hold
from automigrator.backends.contract.record import Record
from automigrator.backends.contract.values import Sight, VersionTable
from automigrator.backends.lock_wait import poll, this_process
from automigrator.backends.sqlite import (
    companions,
    connections,
    file_systems,
    files,
    identity,
    journal,
    lock_files,
)
from automigrator.backends.sqlite.copying import copies, kept_copies
from automigrator.backends.sqlite.recover import recover
from automigrator.backends.sqlite.side import FileSides
from automigrator.backends.sqlite.snapshot import FileSnapshots
from automigrator.errors import LockLostError, RefusedError
from automigrator.support.concurrency import in_thread, shielded
from automigrator.support.owned_files import Owners

_AGAIN_S = 0.05
"""Seconds between two looks at which file stands under a name."""

_MOUNTED_ALONE = (
    "{} is mounted by itself, so its lock, journal and copies are in a folder that no other "
    "container sees and that may not last: another process may migrate at the same time, and a "
    "killed migration may not be undone. Mount the folder instead of the file"
)

_OPEN_FOLDER = (
    "others than the database's users may write to the folder {}: a file there counts only where "
    "its owner could have written to the database, and they can still be in the way. Keep the "
    "database in a folder of its users' own"
)

_STRANGERS = (
    "files with names of ours do not count, and were left as they are: {}{}. Look who put them "
    "there, and delete them"
)

Look = Callable[[Sequence[VersionTable]], Awaitable[Sight]]


class SQLiteHold(Hold):
    """The lock of a SQLite database; `acquired` waits for it."""

    def __init__(self, look: Look) -> None:
        self._look = look

    async def look(self, tables: Sequence[VersionTable]) -> Sight:
        return await self._look(tables)


class FileHold(SQLiteHold):
    """The lock of a database file, in a file beside it that says who holds it and how far it is.

    It is the lock of the file that stood under the name when the lock was taken, and it is held
    while that file and the lock's own file stand there.
    """

    def __init__(
        self,
        look: Look,
        access: Access,
        file: Path,
        created: Callable[[], files.Created | None] = lambda: None,
    ) -> None:
        super().__init__(look)
        self._created = created
        self._file, self._progress = file, ""
        self._several_links = access.allow_links
        self._lock = lock_files.LockFile(file)
        self._noted = identity.Noted(file)
        self.snapshots: FileSnapshots = FileSnapshots(file, access.engine, self._noted.replacing)
        self.snapshots.check_room = access.check_room
        self.sides = FileSides(access, self.snapshots)

    @asynccontextmanager
    async def acquired(self, timeout_s: float, waiting: Waiting) -> AsyncIterator[None]:
        """Context manager: hold the lock. Raises LockTimeoutError, and RefusedError for links.

        The database file itself is not locked: it must stay free for the migration.
        """
        self.since = time.time()
        self._ensure_one_name()

        async def acquire() -> bool:
            return self._lock.acquire()

        async def leader() -> str:
            return lock_files.told_of(self._file)

        async with AsyncExitStack() as stack:
            stack.callback(self._lock.close)
            self.waited_s = await poll(acquire, timeout_s, waiting, leader, str(self._file))
            self.leader = this_process()
            self._noted.note()
            self._ensure_one_name()
            await self.confirm()
            self.notes = await in_thread(lambda: tuple(_notes(self._file)))
            stack.push_async_callback(self.snapshots.let_go)
            yield

    def _ensure_one_name(self) -> None:
        """Raise RefusedError where the file has names whose locks and journals are others."""
        links = identity.links_of(self._file)
        if links > 1 and not self._several_links:
            raise RefusedError(
                f"{self._file} has {links} names (hard links); a process that opens it by another "
                "one does not see this lock, nor the journal of an unfinished migration. Nothing "
                "was changed. Remove the other names (find / -samefile shows them), or say that "
                "nobody migrates it by another name: Target(allow_links=True)"
            )

    async def look(self, tables: Sequence[VersionTable]) -> Sight:
        sight = await super().look(tables)
        await self._ensure_held()
        return sight

    async def confirm(self, progress: str = "") -> None:
        await self._ensure_held()
        self._progress = progress or self._progress
        text = json.dumps({"leader": self.leader, "progress": self._progress}).encode()
        with suppress(OSError):  # a full disk: it only informs those who wait
            self._lock.write(text)

    async def _ensure_held(self) -> None:
        """Raise LockLostError where another file stands under one of the two names.

        The kernel takes the lock from no process that lives, but a name may lead elsewhere.
        """
        if self._gone():
            await asyncio.sleep(_AGAIN_S)  # a network's file system may answer wrongly once
            if gone := self._gone():
                raise LockLostError(
                    f"{gone} while this process held the migration lock of {self._file}; another "
                    "process may migrate by now. What was not committed is rolled back"
                )

    def _gone(self) -> str:
        if self._lock.is_another():
            return f"the lock's file {self._lock.place} was deleted or replaced"
        if self._noted.is_another():
            return "the database file was deleted or replaced"
        return ""

    async def last(self) -> Record | None:
        return await in_thread(lambda: lock_files.record_of(self._file))

    async def undo_creation(self) -> bool:
        if (created := self._created()) is None:
            return False
        with self._noted.replacing():
            undo = partial(created.undo, self._file, self._lock.place)
            return await shielded(in_thread(undo))

    async def leave(self, record: Record | None) -> None:
        text = _dated(record).dumped() if record else None
        await lock_files.put(self._file, lock_files.RECORD, text)

    async def keep_checksums(self, checksums: Checksums) -> None:
        place, text = companions.checksums_path(self._file), checksums.dumped()
        write = partial(files.write_durably, place, text, like=self._file)
        await shielded(in_thread(write))

    async def declare(self, declared: Sequence[Declaration]) -> None:
        text = declarations.dumped(declared) if declared else None
        await lock_files.put(self._file, lock_files.DECLARED, text)

    async def ensure_contents(self, folders: Sequence[Path]) -> None:
        await in_thread(lambda: kept_copies.ensure_contents(self._file, folders))

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
        with self._noted.replacing():
            return await shielded(recover(self._file, self.counting))

    async def forget_repairs(self) -> None:
        await in_thread(lambda: journal.forget_repairs(self._file))

    async def close_journal(self) -> None:
        await shielded(in_thread(self.snapshots.close))


def _notes(file: Path) -> Iterator[str]:
    """What a person should know of the files and the folder beside a database."""
    if file_systems.is_mounted_alone(file):
        yield _MOUNTED_ALONE.format(file)
    live = file.resolve()
    owners = Owners.of(live)
    if owners.opens(live.parent):
        yield _OPEN_FOLDER.format(live.parent)
    if found := copies.strangers(file):
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        yield _STRANGERS.format("; ".join(found[:3]), more)


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
