"""Ends what a killed process had begun: its journal says what, and the copy it names is whole."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
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
            copying.restore(place, file)
            done = f"the database was put back from {place} after a process was killed"
        journal.clear(file)
    for left in file.parent.glob(f"{_escaped(file.name)}.side-*"):
        remove(left)
    return done


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


def _escaped(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)
