"""How a fresh database that was built beside a live SQLite file takes its place."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from automigrator.databases.backend import VersionTable
from automigrator.databases.sqlite import copying, journal
from automigrator.databases.sqlite.checking import verify
from automigrator.databases.sqlite.files import remove
from automigrator.databases.sqlite.reading import connect
from automigrator.databases.sqlite.recovering import aside
from automigrator.databases.sqlite.sides import SideFile
from automigrator.databases.sqlite.space import free_space_needed, size_with_log
from automigrator.errors import RefusedError


def take_over(
    side: SideFile, file: Path, tables: Sequence[VersionTable], *, set_aside: bool
) -> Path | None:
    """Put the side database in the live file's place; returns where the old one was set aside.

    Nobody can commit from the moment on that is set aside. Raises RefusedError, the live file
    untouched.
    """
    new = Path(side.place)
    _ensure_space(new, file, set_aside=set_aside)
    with closing(connect(new, "rw")) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")  # the live file keeps the mode it has
    heads = tuple(sorted({head for table in tables for head in verify(new, table.name)}))
    names = tuple(table.name for table in tables)
    entry = journal.Entry("restoring", str(new), heads, heads, time.time(), names)
    earlier = journal.read(file)
    journal.write(file, entry)
    side.needed = True
    try:
        keep = aside(file, "purged") if set_aside else copying.nothing
        kept = copying.restore(new, file, keep=keep)
    except (OSError, sqlite3.Error) as error:
        # a snapshot of this run may be needed yet
        if earlier is not None:
            journal.write(file, earlier)
        else:
            journal.clear(file)
        side.needed = False
        raise RefusedError(f"{error}; the old database was not touched") from error
    # first, and under a journal that does not need it: a start that finds nothing to do would
    # leave it there for ever
    journal.write(file, replace(entry, state="migrating"))
    remove(new)
    journal.clear(file)
    side.needed = False
    return kept


def _ensure_space(new: Path, file: Path, *, set_aside: bool) -> None:
    needed = free_space_needed(new) + (size_with_log(file) if set_aside else 0)
    free = shutil.disk_usage(file.parent).free
    if free < needed:
        raise RefusedError(
            f"to put a fresh database in the place of {file} needs {needed:,} bytes free, there "
            f"are {free:,}; the old database was not touched"
        )
