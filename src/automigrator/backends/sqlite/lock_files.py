"""The files beside a SQLite database that its migration lock needs, and what they say.

The kernel frees the lock at a kill. What its holder leaves for later starts is in other files:
they must be replaced whole, which the lock's own file may not be, as those who wait have it open.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from automigrator.backends.contract import declarations, record
from automigrator.backends.contract.declarations import Declaration
from automigrator.backends.contract.record import Record
from automigrator.backends.sqlite.companions import beside
from automigrator.backends.sqlite.file_systems import file_system_of
from automigrator.backends.sqlite.files import write_durably
from automigrator.backends.sqlite.identity import identity_of
from automigrator.errors import JudgedError
from automigrator.support import json_object
from automigrator.support.concurrency import in_thread, shielded
from automigrator.support.owned_files import OTHER_KIND, NotOursError, Owners

LOCK = ".automigrator-lock"

RECORD = ".automigrator-record.json"

DECLARED = ".automigrator-works-with.json"


_MADE_S = 0.5
"""Seconds in which the process that makes the lock's file has given it to the others."""


def path_of(live: Path, name: str) -> Path:
    """Name one of these files: the same one whichever link leads to the database."""
    return beside(live.resolve(), name)


def record_of(live: Path) -> Record | None:
    """Return what the last holder left; call it in a thread."""
    return record.loaded(_text(live, RECORD))


def declarations_of(live: Path) -> tuple[Declaration, ...]:
    """Return what the database declares; call it in a thread."""
    return declarations.loaded(_text(live, DECLARED))


async def put(live: Path, name: str, text: str | None) -> None:
    """Replace one of these files durably, or remove it."""
    await shielded(in_thread(lambda: write_durably(path_of(live, name), text, like=live)))


class LockFile:
    """The lock's file of a database, and whether this process has locked it."""

    def __init__(self, live: Path) -> None:
        self._live, self.place = live, path_of(live, LOCK)
        self._descriptor = -1

    def acquire(self) -> bool:
        """Try to take the lock; False where another holds it, or where the file was replaced."""
        if self._descriptor < 0:
            self._descriptor = opened(self.place, Owners.of(self._live))
            if self._descriptor < 0:
                return False
        with lockable(self.place):
            if not taken(self._descriptor):
                return False
        if self.is_another():  # the next one who comes would lock another file
            self.close()
            return False
        return True

    def is_another(self) -> bool:
        """Tell whether its name leads to another file than the one that is open; see `Noted`."""
        with suppress(OSError):
            return self._descriptor >= 0 and (
                identity_of(self.place) != identity_of(self._descriptor)
            )
        return False

    def write(self, text: bytes) -> None:
        """Replace what it says. Raises OSError."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, text)
        os.ftruncate(self._descriptor, len(text))

    def close(self) -> None:
        """Release the lock, if it was taken, and close the file."""
        if self._descriptor >= 0:
            close(self._descriptor)
            self._descriptor = -1


def opened(place: Path, owners: Owners) -> int:
    """Open the lock's file, made where it is not there; -1 while another process is making it.

    Whoever may open it may hold it: those alone may who may write to the database. Raises OSError
    that names whose it is, and NotOursError for a stranger's.
    """
    mode = owners.mode & ~((~owners.mode & 0o022) << 1)
    try:
        descriptor = _opened(place, os.O_RDWR)
    except FileNotFoundError:
        try:
            return owners.create(place, mode)
        except NotOursError:
            return -1  # another process has made it just now
    except OSError as error:
        if error.errno in OTHER_KIND:
            raise owners.refusal(place) from error
        if error.errno not in (errno.EACCES, errno.EPERM):
            raise
        owners.ensure_lockable(place)
        try:
            descriptor = _opened(place, os.O_RDONLY)  # enough to lock it
        except OSError:
            status = place.stat()
            if 0 <= time.time() - status.st_ctime < _MADE_S:
                return -1
            raise OSError(
                error.errno,
                f"{error.strerror}: it belongs to user {status.st_uid} with mode "
                f"{status.st_mode & 0o777:o}, and this process runs as user {os.geteuid()}; "
                "delete it while nothing migrates, or give it to the database's owner",
                str(place),
            ) from error
    try:
        owners.ensure_lockable(place, descriptor)
        with suppress(OSError):
            owners.give(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _opened(place: Path, how: int) -> int:
    return os.open(place, how | os.O_NOFOLLOW | os.O_NONBLOCK)


@contextmanager
def lockable(place: Path) -> Iterator[None]:
    """Context manager: tell in words where the file system of the lock's file knows no locks."""
    try:
        yield
    except BlockingIOError:
        raise
    except OSError as error:
        raise JudgedError(
            "unreachable",
            f"the lock's file {place} cannot be locked ({error.strerror}), on "
            f"{file_system_of(place)}; without a lock two processes may migrate at once, so "
            "nothing was changed",
            "let that file system lock files (its lock service, its mount options), or put the "
            "database on a local disk: SQLite itself needs such locks",
        ) from error


def taken(descriptor: int) -> bool:
    """Try to take the lock by its open file; False where another holds it. Raises OSError."""
    with suppress(BlockingIOError):
        # flock, not lockf: closing another descriptor of this process leaves it held
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def close(descriptor: int) -> None:
    """Release the lock, if it was taken, and close its file."""
    # closing is not enough: a process that a revision has forked may still have the descriptor
    with suppress(OSError):  # of a file that could not be locked
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def holder_of(live: Path) -> str | None:
    """Return who holds the lock of a database file now; call it in a thread."""
    try:
        descriptor = _opened(path_of(live, LOCK), os.O_RDWR)
    except OSError:
        return None
    try:
        # another process that tries meanwhile tries again
        return None if taken(descriptor) else told_of(live)
    except OSError:
        return None  # nobody can lock it there
    finally:
        close(descriptor)


def told_of(live: Path) -> str:
    """Return what the lock's file says of its holder, and of how far it is."""
    try:
        data = json_object.parsed(_text(live, LOCK))
    except ValueError:
        data = None  # its process was killed while it wrote
    said = data if isinstance(data, dict) else {}
    progress = f", at {said['progress']}" if said.get("progress") else ""
    return f"{said.get('leader') or 'another process'}{progress}"


def _text(live: Path, name: str) -> str | None:
    with suppress(NotOursError, OSError, ValueError):
        return Owners.of(live).read(path_of(live, name)).decode()
    return None
