"""The files beside a SQLite database that its migration lock needs, and what they say.

The kernel frees the lock at a kill. What its holder leaves for later starts is in other files:
they must be replaced whole, which the lock's own file may not be, as those who wait have it open.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from automigrator.backends.contract import declarations, record
from automigrator.backends.contract.declarations import Declaration
from automigrator.backends.contract.record import Record
from automigrator.backends.sqlite.file_systems import file_system_of
from automigrator.backends.sqlite.files import beside, same_access, write_durably
from automigrator.backends.sqlite.identity import identity_of
from automigrator.errors import JudgedError
from automigrator.support import json_object
from automigrator.support.concurrency import in_thread, shielded

LOCK = ".automigrator-lock"

RECORD = ".automigrator-record.json"

DECLARED = ".automigrator-works-with.json"


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
            self._descriptor = opened(self.place)
            # whoever may write to the database, root or not, may lock it
            with suppress(OSError):
                same_access(self.place, self._live)
                self.place.chmod(self.place.stat().st_mode & 0o777 | 0o600)
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


def opened(place: Path) -> int:
    """Open the lock's file, made where it is not there; another user may have made it.

    Raises OSError that names whose it is.
    """
    try:
        return os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM) or not place.exists():
            raise
    try:
        return os.open(place, os.O_RDONLY)  # enough to lock it; it only does not say who holds it
    except OSError as error:
        status = place.stat()
        raise OSError(
            error.errno,
            f"{error.strerror}: it belongs to user {status.st_uid} with mode "
            f"{status.st_mode & 0o777:o}, and this process runs as user {os.geteuid()}; delete it "
            "while nothing migrates, or give it to the database's owner",
            str(place),
        ) from error


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
        descriptor = os.open(path_of(live, LOCK), os.O_RDWR)
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
    with suppress(OSError, UnicodeDecodeError):
        return json_object.content_of(path_of(live, name)).decode()
    return None
