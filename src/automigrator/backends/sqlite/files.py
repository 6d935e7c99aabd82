"""A SQLite file, its sidecars and its folder, changed durably."""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SIDECARS = ("-wal", "-shm", "-journal")


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def journal_path(live: Path) -> Path:
    """Name our journal of a database: the same one whichever link leads to the database."""
    return beside(live.resolve(), ".automigrator-journal.json")


def sidecars(path: Path) -> list[Path]:
    path = path.resolve()
    return [beside(path, suffix) for suffix in SIDECARS]


def size_of(path: Path) -> int:
    """Return the size in bytes; 0 for a file that does not exist."""
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


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
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def renamed_when_whole(temporary: Path, place: Path) -> Iterator[None]:
    """Context manager: give a file its name at the end, or remove it when the block raises.

    The block syncs the file: then a kill or power cut leaves what had the name before, or this.
    """
    try:
        yield
        os.replace(temporary, place)
    except BaseException:
        with suppress(OSError):
            remove(temporary)
        raise
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
            with renamed_when_whole(partial, place):
                partial.touch(0o600)
                shutil.copyfile(part, partial)
                sync_file(partial)
                same_access(partial, part)


def same_access(path: Path, model: Path) -> None:
    """Let those who may read the model read the copy, and nobody else."""
    status = model.stat()
    mode = status.st_mode & 0o777
    for owner, group in ((-1, status.st_gid), (status.st_uid, -1)):
        with suppress(PermissionError):
            os.chown(path, owner, group)
    if path.stat().st_gid != status.st_gid:
        mode &= ~0o070  # of a group that may not read the model
    path.chmod(mode)


def free_space_needed(path: Path) -> int:
    """Return the bytes that must be free to snapshot and restore a database: 2.2 times its size."""
    return math.ceil(2.2 * size_with_log(path))


def ensure_space(path: Path, folder: Path, what: str = "a snapshot") -> None:
    """Raise OSError (ENOSPC) when `folder` has too little room for a copy of `path`."""
    if short := shortage(free_space_needed(path), folder):
        raise OSError(errno.ENOSPC, f"{what} of {path} {short}; nothing was changed", str(folder))


def shortage(needed: int, folder: Path) -> str | None:
    """Say how many bytes are needed in a folder, and how many are free, where it has too few."""
    free = shutil.disk_usage(folder).free
    return f"needs {needed:,} bytes free, there are {free:,}" if free < needed else None
