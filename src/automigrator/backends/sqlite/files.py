"""A SQLite file, its sidecars and its folder, changed durably."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from automigrator.backends.sqlite.companions import SIDECARS, beside, sidecars
from automigrator.support.owned_files import NOT_THERE_FOR, Owners, ensure_same


def size_of(path: Path) -> int:
    """Return the size in bytes; 0 for a file that does not exist."""
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def is_newer(path: Path) -> bool:
    """Tell whether a header names a way to read the file that was not there until SQLite 3.50.

    Only for a file that nothing in this process has open: closing it here would free its lock.
    """
    with path.open("rb", buffering=0) as file:
        header = file.read(20)
    return header.startswith(b"SQLite format 3\0") and header[19] > 2


def size_with_log(path: Path) -> int:
    """Return the bytes of a database and of what is still in its log."""
    path = path.resolve()
    return sum(size_of(p) for p in (path, beside(path, "-wal")))


def create(path: Path) -> bool:
    """Make an empty file, and its folder; False when the file existed already."""
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        # exclusive: of many processes that create it at once, one did. A link's end is created
        path.resolve().touch(0o644, exist_ok=False)
        return True
    return False


class Created(NamedTuple):
    """A database file that this process has made: its device and inode."""

    device: int
    inode: int

    @classmethod
    def at(cls, path: Path) -> Created | None:
        """Make the file; None where it existed already."""
        if not create(path):
            return None
        status = path.stat()
        return cls(status.st_dev, status.st_ino)

    def undo(self, path: Path, *beside: Path) -> bool:
        """Remove the file, with others `beside` it; False where it is another, or not empty.

        Nobody writes to it meanwhile; to whoever has it open SQLite says that it has gone. The
        folder stays: others may wait for a lock in it.
        """
        path = path.resolve()
        try:
            if any(map(os.path.lexists, sidecars(path))):
                return False
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", 0, uri=True)) as own:
                own.execute("BEGIN EXCLUSIVE")
                status = path.stat()
                if status.st_size or (status.st_dev, status.st_ino) != self:
                    return False
                for each in (path, *beside):
                    each.unlink(missing_ok=True)
        except (OSError, sqlite3.Error):
            return not path.exists()
        return True


def ensure_absent(path: Path) -> None:
    """Raise FileExistsError for a name that is taken, by a dangling link too."""
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def remove(path: Path, owners: Owners) -> None:
    """Remove a copy of ours and its sidecars; nothing happens when there are none."""
    owners.remove(*sidecars(path), path)


def digest(path: Path, owners: Owners) -> str:
    """Return a digest of a copy of ours. Raises NotOursError, and OSError.

    Only of a file that nothing in this process has open. What is read through is in the cache,
    and a cold check of gigabytes some 70 times faster.
    """
    for sidecar in sidecars(path):
        if owners.whose(sidecar) not in (None, "ours"):
            raise owners.refusal(sidecar)  # SQLite would play it into the copy
    with open(owners.open(path), "rb", buffering=0) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where its file system can do so, as SQLite itself does.

    A folder that cannot be opened, or whose file system knows no such act, is passed over.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_THERE_FOR:
            raise told(error, folder) from error
    finally:
        os.close(descriptor)


def told(error: OSError, path: Path) -> OSError:
    """Return an error that names its path, and the file system that the path is on."""
    from automigrator.backends.sqlite.file_systems import file_system_of  # local: for errors alone

    what = f"{os.strerror(error.errno or 0)}, on {file_system_of(path)}"
    return OSError(error.errno, what, str(path))


@contextmanager
def new_file(
    place: Path, suffix: str, owners: Owners, *, fresh: bool = False
) -> Iterator[tuple[Path, int]]:
    """Context manager: a file that gets the name `place` at the end, or that of nothing.

    Yields its name until then, and its descriptor. It is made durable: a kill or power cut leaves
    what had the name before, or this. A `fresh` name is removed as well when it cannot be made
    durable. Raises NotOursError where somebody else's file has one of the names.
    """
    owners.ensure_free(place)
    left = temporary = beside(place, suffix)
    remove(temporary, owners)  # of a process that was killed
    descriptor = owners.create(temporary)
    try:
        try:
            made = os.fstat(descriptor)
            yield temporary, descriptor
            try:
                os.fsync(descriptor)
            except OSError as error:
                raise told(error, temporary) from error
        finally:
            os.close(descriptor)  # before it may be a live file: this would drop its locks
        ensure_same(temporary, made)
        os.replace(temporary, place)
        left = place
        ensure_same(place, made)
        if fresh:
            sync_folder(place.parent)
    except BaseException:
        with suppress(OSError):
            remove(left, owners)
        raise
    if not fresh:
        sync_folder(place.parent)


def write_durably(path: Path, text: str | None, *, like: Path) -> None:
    """Replace a file's content: a kill or power cut leaves the old one or the new one.

    It gets the owner and the mode of the database `like`. None removes the file; nothing happens
    when there is none. Raises NotOursError where the file is somebody else's.
    """
    owners = Owners.of(like)
    if text is None:
        owners.remove(path)
        # even if it was gone: the process that removed it may have been killed before this line
        sync_folder(path.parent)
        return
    with (
        new_file(path, ".tmp", owners) as (_, descriptor),
        open(descriptor, "wb", closefd=False) as file,
    ):
        file.write(text.encode())


def copy_bytes(source: Path, destination: Path) -> None:
    """Copy a database and its sidecars byte by byte, whatever they hold."""
    owners = Owners.of(source)
    # the database itself last: its name says that the set is whole
    for suffix in (*SIDECARS, ""):
        part, place = beside(source, suffix), beside(destination, suffix)
        if part.is_file() and (not suffix or owners.whose(part) != "foreign"):
            with (
                new_file(place, ".partial", owners, fresh=True) as (_, descriptor),
                part.open("rb") as old,
                open(descriptor, "wb", closefd=False) as new,
            ):
                shutil.copyfileobj(old, new, 1 << 20)


def free_space_needed(path: Path, copies: int = 2) -> int:
    """Return the bytes that must be free for so many copies of a database, 1.1 times its size each.

    Two are a snapshot and, at its restore, SQLite's own journal.
    """
    return math.ceil(1.1 * copies * size_with_log(path))


def ensure_space(path: Path, folder: Path, what: str = "a snapshot", restored: bool = True) -> None:
    """Raise OSError (ENOSPC) when a disk has too little room for a copy of `path` in `folder`.

    One that may be `restored` needs room beside `path` as well, on the same disk or another.
    """
    places, live = [(folder, what, 1)], path.resolve().parent
    if restored:
        if os.stat(folder).st_dev == os.stat(live).st_dev:
            places = [(folder, what, 2)]
        else:
            places.append((live, f"to restore {what}", 1))
    for place, act, copies in places:
        if short := shortage(free_space_needed(path, copies), place):
            raise OSError(
                errno.ENOSPC, f"{act} of {path} {short}; nothing was changed. {ROOM}", str(place)
            )


ROOM = "Free room, or go without this check with Target(check_room=False)"


def shortage(needed: int, folder: Path) -> str | None:
    """Say how many bytes are needed in a folder, and how many are free, where it has too few."""
    free = shutil.disk_usage(folder).free
    return f"needs {needed:,} bytes free, there are {free:,}" if free < needed else None
