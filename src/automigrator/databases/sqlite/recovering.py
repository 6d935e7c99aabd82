"""Ends what a killed process had begun: its journal says what, and the copy it names is whole."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from automigrator.databases.backend import VersionTable
from automigrator.databases.sqlite import copying, journal, looking
from automigrator.databases.sqlite.files import remove
from automigrator.databases.sqlite.reading import reading
from automigrator.errors import RefusedError


def recover(file: Path, tables: Sequence[VersionTable]) -> str | None:
    """Finish or undo it, and say what was done; None when nothing was left. Call it in a thread.

    Raises RefusedError when the copy to finish from is gone, ValueError for a journal that
    cannot be read.
    """
    entry = journal.read(file)
    done = None
    if entry is not None:
        place = Path(entry.snapshot)
        tables = [VersionTable(name) for name in entry.tables]
        if entry.state == "migrating" and _needs_nothing(file, place, entry, tables):
            done = f"a migration that was killed had ended at {', '.join(entry.after) or 'base'}"
            if _heads(file, tables) != tuple(sorted(entry.after)):
                done = "a migration that was killed had changed nothing"
        elif not place.exists():
            raise RefusedError(
                f"a process was killed while {file} was being changed, and the copy it left to "
                f"finish from, {place}, is gone; the database was not touched. Put the copy back, "
                f"or look at the database and delete {journal.path_for(file)}"
            )
        else:
            kept = _put_back(place, file)
            done = f"the database was put back from {place} after a process was killed"
            done += f"; what it held until now is in {kept}" if kept else ""
        journal.clear(file)
    sides = re.compile(re.escape(f"{file.name}.side-") + "[0-9A-Za-z]{1,28}")
    for left in file.parent.iterdir():
        if sides.fullmatch(left.name):
            remove(left)
    return done


def _put_back(place: Path, file: Path) -> Path | None:
    """Restore the copy; somebody may have written since, so what is there is kept beside it."""
    kept = copying.set_aside(file, "replaced", datetime.now(UTC)) if file.exists() else None
    try:
        copying.restore(place, file)
    except sqlite3.DatabaseError as error:
        # it is the copy that cannot be read: a damaged live file is replaced
        raise RefusedError(
            f"a process was killed while {file} was being changed, and the copy to put back, "
            f"{place}, cannot be used ({error}); the database was not touched"
        ) from error
    return kept


def _needs_nothing(
    file: Path, place: Path, entry: journal.Entry, tables: Sequence[VersionTable]
) -> bool:
    """Whether a killed migration had ended, or had been rolled back to where it began.

    Restoring would be idempotent, and would lose what an application wrote since.
    """
    try:
        heads = _heads(file, tables)
        if heads == tuple(sorted(entry.after)):
            return True
        if heads != tuple(sorted(entry.before)) or not place.exists():
            return False
        with reading(file) as live, reading(place) as copy:
            schemas = [
                looking.schema(lambda sql, c=c: c.execute(sql).fetchall())  # type: ignore[misc]
                for c in (live, copy)
            ]
        return bool(schemas[0] == schemas[1])
    except sqlite3.DatabaseError:
        return False


def _heads(file: Path, tables: Sequence[VersionTable]) -> tuple[str, ...]:
    return looking.look_at_file(file, tables).all_heads()
