"""How much room a copy of a SQLite database needs."""

from __future__ import annotations

import errno
import math
import shutil
from pathlib import Path

from automigrator.databases.sqlite.files import beside, size_of

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
