"""A SQLite file, its sidecars and its folder, durably."""

from __future__ import annotations

import errno
import math
import os
import shutil
from contextlib import suppress
from pathlib import Path

SIDECARS = ("-wal", "-shm", "-journal")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    if os.name == "nt":
        return  # Windows cannot open a folder, and journals its names itself
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, text: str) -> None:
    """Replace a file's content: a kill or power cut leaves the old one or the new one."""
    temporary = beside(path, ".tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove_durably(path: Path) -> None:
    """Remove a file; nothing happens when there is none."""
    path.unlink(missing_ok=True)
    # also when it was gone already: the one who unlinked it may have been killed before this
    sync_folder(path.parent)


def create(path: Path) -> bool:
    """Make an empty file, and its folder; False when it was there already."""
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # of many that create at once, one did; a link's other end is what is made
        path.resolve().touch(0o644, exist_ok=False)
    except FileExistsError:
        return False
    return True


def copy_bytes(source: Path, destination: Path) -> None:
    # the database itself last: its name says that the set is whole
    for suffix in (*SIDECARS, ""):
        part = beside(source, suffix)
        if not part.exists():
            continue
        partial = beside(destination, suffix + ".partial")
        try:
            partial.touch(0o600)
            shutil.copyfile(part, partial)
            sync_file(partial)
            same_access(partial, part)
            partial.replace(beside(destination, suffix))
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    sync_folder(destination.parent)


def same_access(path: Path, model: Path) -> None:
    """Who may read the model may read the copy, and nobody else."""
    status = model.stat()
    mode = status.st_mode & 0o777
    if os.name != "nt":
        try:
            os.chown(path, status.st_uid, status.st_gid)
        except PermissionError:
            with suppress(PermissionError):
                os.chown(path, -1, status.st_gid)
        if path.stat().st_gid != status.st_gid:
            mode &= ~0o070  # of a group that may not read the model
    path.chmod(mode)


def sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def must_not_exist(path: Path) -> None:
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def sidecars(path: Path) -> list[Path]:
    path = path.resolve()
    return [beside(path, suffix) for suffix in SIDECARS]


def remove_sidecars(path: Path) -> None:
    for sidecar in sidecars(path):
        sidecar.unlink(missing_ok=True)


def remove(path: Path) -> None:
    remove_sidecars(path)
    path.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


SPACE_FACTOR = 2.2


def free_space_needed(path: Path) -> int:
    """Bytes that must be free to snapshot and restore a database: 2.2 times file and WAL."""
    return math.ceil(SPACE_FACTOR * size_with_log(path))


def size_with_log(path: Path) -> int:
    """Bytes of a database and of what is still in its log."""
    path = path.resolve()
    return sum(size_of(p) for p in (path, beside(path, "-wal")))


def ensure_space(path: Path, folder: Path, what: str = "a snapshot") -> None:
    """Raise OSError (ENOSPC) when `folder` has too little room for a copy of `path`."""
    needed, free = free_space_needed(path), shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{what} of {path} needs {needed:,} bytes free, there are {free:,}; "
            "nothing was changed",
            str(folder),
        )
