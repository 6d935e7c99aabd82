"""The migration lock of a SQLite database: a file beside it, freed by the kernel at a kill.

What its holder leaves for later starts is in other files: they must be replaced whole, which the
lock's own file may not be, as those who wait have it open.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from weakref import WeakKeyDictionary

from automigrator.backends.contract import declarations
from automigrator.backends.contract.declarations import Declaration
from automigrator.backends.contract.record import Record, loaded
from automigrator.backends.lock_wait import Waiting, poll, this_process
from automigrator.backends.sqlite.files import beside, remove_durably, write_durably
from automigrator.support.concurrency import in_thread, shielded


def path_for(live: Path) -> Path:
    return beside(live.resolve(), ".automigrator-lock")


def record_path_for(live: Path) -> Path:
    return beside(live.resolve(), ".automigrator-record.json")


def declarations_path_for(live: Path) -> Path:
    return beside(live.resolve(), ".automigrator-works-with.json")


def record_of(live: Path) -> Record | None:
    """Return what the last holder left; call it in a thread."""
    return loaded(_text(record_path_for(live)))


def declarations_of(live: Path) -> tuple[Declaration, ...]:
    """Return what the database declares; call it in a thread."""
    return declarations.loaded(_text(declarations_path_for(live)))


def holder_of(live: Path) -> str | None:
    """Return who holds the lock of a database file now; call it in a thread."""
    path = path_for(live)
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        if _try(descriptor):
            _release(descriptor)  # another process that tried meanwhile tries again
            return None
        return _holder_in(path)
    finally:
        os.close(descriptor)


@dataclass(slots=True)
class FileLock:
    """The lock of a file, held: the lock's file says who holds it and how far it is."""

    leader: str
    waited_s: float
    since: float
    descriptor: int
    live: Path
    progress: str = ""

    async def confirm(self, progress: str = "") -> None:
        # the kernel takes the lock from no process that lives
        self.progress = progress or self.progress
        text = json.dumps({"leader": self.leader, "progress": self.progress}).encode()
        with suppress(OSError):  # a full disk: it only informs those who wait
            os.lseek(self.descriptor, 0, os.SEEK_SET)
            os.write(self.descriptor, text)
            os.ftruncate(self.descriptor, len(text))

    async def last(self) -> Record | None:
        return await in_thread(lambda: record_of(self.live))

    async def leave(self, record: Record | None) -> None:
        await _put(record_path_for(self.live), _dated(record).dumped() if record else None)

    async def declare(self, declared: Sequence[Declaration]) -> None:
        text = declarations.dumped(declared) if declared else None
        await _put(declarations_path_for(self.live), text)


@asynccontextmanager
async def file_lock(live: Path, timeout_s: float, waiting: Waiting) -> AsyncIterator[FileLock]:
    """Context manager: hold the lock of a database file. Raises LockTimeoutError.

    The database file itself is not locked: it must stay free for the migration.
    """
    path = path_for(live)
    since = time.time()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    async def acquire() -> bool:
        return _try(descriptor)

    async def leader() -> str:
        return _holder_in(path)

    try:
        waited = await poll(acquire, timeout_s, waiting, leader, str(live))
        hold = FileLock(this_process(), waited, since, descriptor, live)
        await hold.confirm()
        yield hold
    finally:
        _release(descriptor)
        os.close(descriptor)


@dataclass(slots=True)
class _Shared:
    """The lock and the record of one database in memory."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    record: Record | None = None


_in_memory: WeakKeyDictionary[object, _Shared] = WeakKeyDictionary()


@dataclass(slots=True)
class MemoryLock:
    """See `Hold`, within one process."""

    leader: str
    waited_s: float
    since: float
    shared: _Shared

    async def confirm(self, progress: str = "") -> None:
        """Nobody else can take it."""

    async def last(self) -> Record | None:
        return self.shared.record

    async def leave(self, record: Record | None) -> None:
        self.shared.record = _dated(record) if record else None

    async def declare(self, declared: Sequence[Declaration]) -> None:
        """Nothing is kept: no other code can come to this database."""


@asynccontextmanager
async def memory_lock(
    owner: object, timeout_s: float, waiting: Waiting
) -> AsyncIterator[MemoryLock]:
    """Context manager: hold the lock of a database in memory, whose engine is `owner`."""
    shared = _in_memory.setdefault(owner, _Shared())
    since = time.time()

    async def acquire() -> bool:
        return shared.lock.acquire(blocking=False)

    async def leader() -> str:
        return "another run in this process"

    waited = await poll(acquire, timeout_s, waiting, leader, "the database in memory")
    try:
        yield MemoryLock(this_process(), waited, since, shared)
    finally:
        shared.lock.release()


def _try(descriptor: int) -> bool:
    try:
        # flock, not lockf: closing another descriptor of this process leaves it held
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _release(descriptor: int) -> None:
    # closing is not enough: a process that a revision has forked may still have the descriptor
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def _dated(record: Record) -> Record:
    return record if record.at else replace(record, at=time.time())


async def _put(path: Path, text: str | None) -> None:
    def put() -> None:
        if text is None:
            remove_durably(path)
        else:
            write_durably(path, text)

    await shielded(in_thread(put))


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _holder_in(path: Path) -> str:
    try:
        data = json.loads(_text(path) or "")
    except ValueError:
        data = None  # its process was killed while it wrote
    said = data if isinstance(data, dict) else {}
    progress = f", at {said['progress']}" if said.get("progress") else ""
    return f"{said.get('leader') or 'another process'}{progress}"
