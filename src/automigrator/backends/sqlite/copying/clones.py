"""Clones of a live SQLite file: copies that share its blocks, where the file system can make them.

Another process opens the file: closing a descriptor on it here would drop every lock that this one
holds. A clone holds one state of the database if a connection of ours is in a read transaction
from before to after it:

- With a rollback journal nobody writes to the file meanwhile.
- With a log, frames are only added while it is read, or it begins anew where all of it is in the
  file. A checkpoint may write to the file only what the log still holds up to the beginning of the
  read. The file is cloned first, then its log. So whatever a checkpoint had half written is in the
  log's clone, which ends with the last transaction that was whole by then.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

from automigrator.backends.sqlite import companions
from automigrator.backends.sqlite.reader import POLL_S, Wait
from automigrator.support.owned_files import Owners

LEAST_BYTES = 8 << 20
"""The size from which on a clone is tried: below it, pages are copied as quickly."""

_SCRIPT = """
while [ $# -gt 0 ]; do cp --reflink=always -- "$1" "$2" || exit; shift 2; done
echo cloned
"""

_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}
"""Programs of the system alone: what the application's PATH names is not asked for."""


def clone(source: Path, opened: os.stat_result, place: Path, descriptor: int, wait: Wait) -> bool:
    """Make a new file a clone of a database and its log, which a connection of ours is reading.

    `opened` is what `source` was before that connection was. `place` is the new file, on which
    `descriptor` is open. Returns False where there is no clone; the file is empty then. Raises
    Cancelled, NotOursError and OSError; what is there of the clone is of no use then.
    """
    source, shell = source.resolve(), shutil.which("sh", path=os.defpath)
    if sys.platform != "linux" or shell is None or opened.st_size < LEAST_BYTES:
        return False
    log, new_log = companions.beside(source, "-wal"), companions.beside(place, "-wal")
    if log.exists():
        new_descriptor = Owners.of(source).create(new_log)
        try:
            done = _done(shell, [(source, descriptor), (log, new_descriptor)], wait)
        finally:
            os.close(new_descriptor)
    else:
        done = _done(shell, [(source, descriptor)], wait)
    # what was put in the file's place meanwhile is not what is read
    done = done and os.path.samestat(source.stat(), opened)
    if not done:
        new_log.unlink(missing_ok=True)
        os.ftruncate(descriptor, 0)
    return done


def _done(shell: str, pairs: list[tuple[Path, int]], wait: Wait) -> bool:
    names = [name for path, new in pairs for name in (str(path), f"/proc/self/fd/{new}")]
    try:
        child = subprocess.Popen(
            [shell, "-c", _SCRIPT, "clone", *names],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_ENVIRONMENT,
            pass_fds=[new for _, new in pairs],
        )
    except OSError:
        return False
    with child:
        while True:
            try:
                # its exit code is lost where the application does not wait for children
                return child.communicate(timeout=POLL_S)[0] == b"cloned\n"
            except subprocess.TimeoutExpired:
                pass
            try:
                wait.after_step(sqlite3.SQLITE_OK)
            except BaseException:
                child.kill()
                raise
