"""The folder that sessions share, and locks between processes that end with their holder."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

VARIABLE = "AUTOMIGRATOR_PYTEST_CACHE"

WAIT_S = 600.0
"""Seconds after which a lock that another process holds is an error."""

UNUSED_DAYS = 14
"""Days after which a template that no session has used is removed."""

_MEMORY = Path("/dev/shm")
_ROOM = 2 << 30


class CacheError(Exception):
    """Raised where the folder cannot be trusted, or a lock cannot be had."""


def folder() -> Path:
    """The cache of this user, made where it is absent: in memory where there is room.

    AUTOMIGRATOR_PYTEST_CACHE, else TMPDIR, names the folder that it is in. Raises CacheError where
    it is not ours alone.
    """
    place = Path(os.environ.get(VARIABLE) or tempfile.gettempdir())
    if not {VARIABLE, "TMPDIR"} & os.environ.keys() and os.access(_MEMORY, os.W_OK):
        executable = not os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC
        if executable and shutil.disk_usage(_MEMORY).free >= _ROOM:
            place = _MEMORY
    found = place / f"automigrator-pytest-{os.geteuid()}"
    with suppress(FileExistsError):
        # PostgreSQL does not run as root: who it runs as must come to its own folder in it
        found.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700)
    status = os.lstat(found)
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if not ours or status.st_mode & 0o022:
        raise CacheError(
            f"{found} is not a folder that only this user may write to; nothing was done. "
            f"Remove it, or name another place with {VARIABLE}"
        )
    return found


@contextmanager
def locked(path: Path, *, wait_s: float = WAIT_S) -> Iterator[None]:
    """Context manager: hold a lock file against other processes. Raises CacheError."""
    deadline = time.monotonic() + wait_s
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            if held(descriptor) and _is_still(path, descriptor):
                yield
                return
        finally:
            os.close(descriptor)
        if time.monotonic() > deadline:
            raise CacheError(f"another process has held {path} for {wait_s:g} s; end it, or wait")
        time.sleep(0.02)


def held(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Lock an open file if nobody else has; returns whether it was."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the locked file has its name still: who sweeps removes it under its lock."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    return False
