"""The migration lock of a SQLite database: a file beside it, freed by the kernel at a kill.

The record is another file, as it must be replaced whole: the lock's own may not be, while others
have it open to wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakKeyDictionary

from automigrator.backends.contract import declarations
from automigrator.backends.contract.declarations import Declaration, dumped
from automigrator.backends.contract.lock import Hold, Record, loaded
from automigrator.backends.polling import Waiting, poll, this_process
from automigrator.backends.sqlite.files import beside, remove_durably, write_durably
from automigrator.support.concurrency import in_thread, to_the_end

if sys.platform == "win32":
    import msvcrt

    def _try(descriptor: int) -> bool:
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # beyond the text, which others read
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _release(descriptor: int) -> None:
        """Closing does it."""
else:
    import fcntl

    def _try(descriptor: int) -> bool:
        try:
            # flock, not lockf: closing another descriptor of this process leaves it held
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _release(descriptor: int) -> None:
        # a process that a revision has forked may still have the descriptor
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def path_for(live: Path) -> Path:
    return beside(live.resolve(), ".automigrator-lock")


def record_path_for(live: Path) -> Path:
    return beside(live.resolve(), ".automigrator-record.json")


def declarations_path_for(live: Path) -> Path:
    return beside(live.resolve(), ".automigrator-works-with.json")


@dataclass(slots=True)
class FileHold:
    """See `Hold`; the lock file says who holds it and how far it is."""

    leader: str
    waited_s: float
    since: float
    descriptor: int
    live: Path
    progress: str = ""

    async def confirm(self, progress: str = "") -> None:
        # the kernel takes the lock from nobody who lives
        self.progress = progress or self.progress
        with contextlib.suppress(OSError):  # a full disk: it only tells those who wait
            self._write(self.progress)

    async def until_lost(self) -> None:
        await asyncio.Event().wait()

    def hurry(self) -> None:
        """Nothing here is out of reach."""

    async def last(self) -> Record | None:
        return await in_thread(lambda: record_of(self.live))

    async def leave(self, record: Record | None) -> None:
        text = _at_a_time(record).dumped() if record is not None else None
        await _kept(record_path_for(self.live), text)

    async def declare(self, declared: Sequence[Declaration]) -> None:
        text = dumped(declared) if declared else None
        await _kept(declarations_path_for(self.live), text)

    def _write(self, progress: str) -> None:
        text = json.dumps({"leader": self.leader, "progress": progress}).encode()
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        os.write(self.descriptor, text)
        os.ftruncate(self.descriptor, len(text))


@asynccontextmanager
async def file_lock(live: Path, timeout_s: float, waiting: Waiting) -> AsyncIterator[Hold]:
    """Hold the lock of a database file. Raises LockTimeoutError.

    The lock is not the database file: that one must stay free for the migration itself.
    """
    path = path_for(live)
    since = time.time()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)

    async def acquire() -> bool:
        return _try(descriptor)

    async def leader() -> str:
        return _told(path)

    try:
        waited = await poll(acquire, timeout_s, waiting, leader, str(live))
        hold = FileHold(this_process(), waited, since, descriptor, live)
        await hold.confirm()
        yield hold
    finally:
        _release(descriptor)
        os.close(descriptor)


@dataclass(slots=True)
class MemoryHold:
    """See `Hold`, within one process."""

    leader: str
    waited_s: float
    since: float
    shared: _Shared

    async def confirm(self, progress: str = "") -> None:
        """Nobody else can take it."""

    async def until_lost(self) -> None:
        await asyncio.Event().wait()

    def hurry(self) -> None:
        """Nothing here is out of reach."""

    async def last(self) -> Record | None:
        return self.shared.record

    async def leave(self, record: Record | None) -> None:
        self.shared.record = _at_a_time(record) if record else None

    async def declare(self, declared: Sequence[Declaration]) -> None:
        """No other code can come to it."""


@dataclass(slots=True)
class _Shared:
    lock: threading.Lock = field(default_factory=threading.Lock)
    record: Record | None = None


_in_memory: WeakKeyDictionary[object, _Shared] = WeakKeyDictionary()


@asynccontextmanager
async def memory_lock(owner: object, timeout_s: float, waiting: Waiting) -> AsyncIterator[Hold]:
    """The same for a database that only this process can reach; `owner` is its engine."""
    shared = _in_memory.setdefault(owner, _Shared())
    since = time.time()

    async def acquire() -> bool:
        return shared.lock.acquire(blocking=False)

    async def leader() -> str:
        return "another run in this process"

    waited = await poll(acquire, timeout_s, waiting, leader, "the database in memory")
    try:
        yield MemoryHold(this_process(), waited, since, shared)
    finally:
        shared.lock.release()


def _at_a_time(record: Record) -> Record:
    return record if record.at else dataclasses.replace(record, at=time.time())


def holder_of(live: Path) -> str | None:
    """Who holds the lock of a database file now; call it in a thread."""
    path = path_for(live)
    try:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return None
    try:
        if _try(descriptor):
            _release(descriptor)  # whoever tried meanwhile tries again
            return None
        return _told(path)
    finally:
        os.close(descriptor)


def record_of(live: Path) -> Record | None:
    """What the last leader left; call it in a thread."""
    return loaded(_text(record_path_for(live)))


def declarations_of(live: Path) -> tuple[Declaration, ...]:
    """What the database declares; call it in a thread."""
    return declarations.loaded(_text(declarations_path_for(live)))


async def _kept(path: Path, text: str | None) -> None:
    def put() -> None:
        if text is None:
            remove_durably(path)
        else:
            write_durably(path, text)

    await to_the_end(in_thread(put))


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _told(path: Path) -> str:
    said = _said(path)
    progress = f", at {said['progress']}" if said.get("progress") else ""
    return f"{said.get('leader') or 'another process'}{progress}"


def _said(path: Path) -> dict[str, str]:
    try:
        said = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}  # a leader was killed while it wrote
    return said if isinstance(said, dict) else {}
