"""The migration lock of a SQLite database: a file beside it, freed by the kernel at a kill."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

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


Waiting = Callable[[float, str], None]
_FIRST_S, _LONGEST_S, _TELL_S = 0.02, 0.5, 1.0


def path_for(live: Path) -> Path:
    return beside(live.resolve(), ".automigrator-lock")


@asynccontextmanager
async def file_lock(live: Path, timeout_s: float, waiting: Waiting) -> AsyncIterator[float]:
    """Hold the lock of a database file; yields the seconds waited. Raises TimeoutError.

    The lock is not the database file: that one must stay free for the migration itself.
    """
    path = path_for(live)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    try:
        waited = await _poll(
            lambda: _try(descriptor), timeout_s, waiting, lambda: _leader(path), str(live)
        )
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
    waited = await _poll(
        lambda: lock.acquire(blocking=False),
        timeout_s,
        waiting,
        lambda: "another run in this process",
        "the database in memory",
    )
    try:
        yield waited
    finally:
        lock.release()


async def _poll(
    acquire: Callable[[], bool],
    timeout_s: float,
    waiting: Waiting,
    leader: Callable[[], str],
    what: str,
) -> float:
    began = time.monotonic()
    told, pause = began, _FIRST_S
    while not acquire():
        now = time.monotonic()
        if now - began >= timeout_s:
            raise TimeoutError(
                f"the migration lock of {what} was still held by {leader()} after "
                f"{now - began:.0f} s; nothing was changed"
            )
        if now - told >= _TELL_S or told == began:
            told = now
            waiting(now - began, leader())
        await asyncio.sleep(min(pause * random.uniform(0.5, 1.5), timeout_s))
        pause = min(pause * 1.5, _LONGEST_S)
    return time.monotonic() - began


def _leader(path: Path) -> str:
    try:
        pid = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        pid = ""
    return f"process {pid}" if pid.isdigit() else "another process"
