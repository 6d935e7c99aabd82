"""The migration lock of a SQLite database: a file beside it, freed by the kernel at a kill."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

from automigrator.databases.polling import Waiting, poll
from automigrator.databases.sqlite.files import beside

if sys.platform == "win32":
    import msvcrt

    def _try(descriptor: int) -> bool:
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # beyond the text, which others read
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _try(descriptor: int) -> bool:
        try:
            # flock, not lockf: closing another descriptor of this process leaves it held
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def path_for(live: Path) -> Path:
    return beside(live.resolve(), ".automigrator-lock")


@asynccontextmanager
async def file_lock(live: Path, timeout_s: float, waiting: Waiting) -> AsyncIterator[float]:
    """Hold the lock of a database file; yields the seconds waited. Raises TimeoutError.

    The lock is not the database file: that one must stay free for the migration itself.
    """
    path = path_for(live)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)

    async def acquire() -> bool:
        return _try(descriptor)

    async def leader() -> str:
        return _leader(path)

    try:
        waited = await poll(acquire, timeout_s, waiting, leader, str(live))
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0) if hasattr(os, "pwrite") else None
        yield waited
    finally:
        os.close(descriptor)


_in_memory: WeakKeyDictionary[object, threading.Lock] = WeakKeyDictionary()


@asynccontextmanager
async def memory_lock(owner: object, timeout_s: float, waiting: Waiting) -> AsyncIterator[float]:
    """The same for a database that only this process can reach; `owner` is its engine."""
    lock = _in_memory.setdefault(owner, threading.Lock())

    async def acquire() -> bool:
        return lock.acquire(blocking=False)

    async def leader() -> str:
        return "another run in this process"

    waited = await poll(acquire, timeout_s, waiting, leader, "the database in memory")
    try:
        yield waited
    finally:
        lock.release()


def _leader(path: Path) -> str:
    try:
        pid = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        pid = ""
    return f"process {pid}" if pid.isdigit() else "another process"
