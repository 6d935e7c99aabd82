"""A SQLite file, its sidecars and its folder, changed durably."""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NOT_THERE_FOR = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""What a file system answers that does not know an act at all, as many network shares."""

SIDECARS = ("-wal", "-shm", "-journal")


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def journal_path(live: Path) -> Path:
    """Name our journal of a database: the same one whichever link leads to the database."""
    return beside(live.resolve(), ".automigrator-journal.json")


def progress_path(live: Path) -> Path:
    """Name the file that tells how far the migration of the journal came."""
    return beside(live.resolve(), ".automigrator-progress.json")


def sidecars(path: Path) -> list[Path]:
    path = path.resolve()
    return [beside(path, suffix) for suffix in SIDECARS]


def size_of(path: Path) -> int:
    """Return the size in bytes; 0 for a file that does not exist."""
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def is_beside(path: Path, other: Path, kind: str) -> bool:
    """Tell by its name whether `other` is a file of this kind beside a database."""
    return other.name.startswith(f"{path.resolve().name}.{kind}-")


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


def ensure_absent(path: Path) -> None:
    """Raise FileExistsError for a name that is taken, by a dangling link too."""
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def remove(path: Path) -> None:
    """Remove a database and its sidecars; nothing happens when there are none."""
    remove_sidecars(path)
    path.unlink(missing_ok=True)


def remove_sidecars(path: Path) -> None:
    for sidecar in sidecars(path):
        sidecar.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Make a file's contents durable. Raises OSError that names the file and its file system."""
    with path.open("rb+") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            raise told(error, path) from error


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
def renamed_when_whole(temporary: Path, place: Path, *, fresh: bool = False) -> Iterator[None]:
    """Context manager: give a file its name at the end, or remove it when the block raises.

    The block syncs the file: then a kill or power cut leaves what had the name before, or this.
    A `fresh` name is removed as well when it cannot be made durable.
    """
    left = temporary
    try:
        yield
        os.replace(temporary, place)
        left = place
        if fresh:
            sync_folder(place.parent)
    except BaseException:
        with suppress(OSError):
            remove(left)
        raise
    if not fresh:
        sync_folder(place.parent)


def write_durably(path: Path, text: str | None, *, like: Path) -> None:
    """Replace a file's content: a kill or power cut leaves the old one or the new one.

    It gets the owner and the mode of the database `like`. None removes the file; nothing happens
    when there is none.
    """
    if text is None:
        path.unlink(missing_ok=True)
        # even if it was gone: the process that removed it may have been killed before this line
        sync_folder(path.parent)
        return
    temporary = beside(path, ".tmp")
    with renamed_when_whole(temporary, path):
        temporary.write_text(text, encoding="utf-8")
        sync_file(temporary)
        with suppress(OSError):  # the database is gone, or the file system knows no modes
            same_access(temporary, like)


def copy_bytes(source: Path, destination: Path) -> None:
    """Copy a database and its sidecars byte by byte, whatever they hold."""
    # the database itself last: its name says that the set is whole
    for suffix in (*SIDECARS, ""):
        part, place = beside(source, suffix), beside(destination, suffix)
        if part.exists():
            partial = beside(place, ".partial")
            with renamed_when_whole(partial, place, fresh=True):
                partial.touch(0o600)
                shutil.copyfile(part, partial)
                sync_file(partial)
                same_access(partial, part)


def same_access(path: Path, model: Path) -> None:
    """Let those who may read the model read the copy, and nobody else.

    Where the file system keeps neither owners nor modes, both files have those of the mount.
    """
    status = model.stat()
    mode = status.st_mode & 0o777
    for owner, group in ((-1, status.st_gid), (status.st_uid, -1)):
        with _where_known():
            os.chown(path, owner, group)
    if path.stat().st_gid != status.st_gid:
        mode &= ~0o070  # of a group that may not read the model
    with _where_known():
        path.chmod(mode)


@contextmanager
def _where_known() -> Iterator[None]:
    """Context manager: pass over that a file system refuses an act, or does not know it."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_THERE_FOR | {errno.EPERM, errno.EACCES}:
            raise


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
