"""Ends what a killed process had begun: its journal says what, and the copy it names is whole."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from automigrator.backends.contract.values import VersionTable
from automigrator.backends.sqlite import backup, journal, reader
from automigrator.backends.sqlite.copies import drop_twin, kept, remove_partials
from automigrator.backends.sqlite.files import remove
from automigrator.backends.sqlite.overwrite import Keep
from automigrator.backends.sqlite.reader import DAMAGED, code_of, reading, verify
from automigrator.errors import RefusedError


def recover(file: Path, tables: Sequence[VersionTable]) -> str | None:
    """Finish or undo it, and say what was done; None when nothing was left. Call it in a thread.

    Raises RefusedError when the copy to finish from is gone or damaged, or the journal cannot be
    read, and TimeoutError when another connection's transaction is in the way.
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
            _ensure_sound(place, file, entry)
            replaced = _put_back(place, file)
            done = f"the database was put back from {place} after a process was killed"
            done += f"; what it held until now is in {replaced}" if replaced else ""
        if entry.state != "migrating":  # which does not need the copy, if it is one to remove
            journal.write(file, replace(entry, state="migrating"))
    # under the journal: a start that finds none and nothing to do would leave it all there for ever
    for side in kept(file, "side"):
        remove(side)
    remove_partials(file)
    if entry is not None:
        journal.clear(file)
    return done


def _ensure_sound(place: Path, file: Path, entry: journal.Entry) -> None:
    """Raise RefusedError for a copy that is damaged, or not the one that the journal is about."""
    try:
        found = {head for name in entry.tables for head in verify(place, name, preread=True)}
    except (sqlite3.DatabaseError, OSError) as error:
        raise _refused(place, file, str(error)) from error
    if not found <= set(entry.before) or (entry.before and not found):
        raise _refused(place, file, f"it is at {', '.join(sorted(found)) or 'base'}")


def _put_back(place: Path, file: Path) -> Path | None:
    """Restore the copy; somebody may have written since, so what is there is kept beside it."""
    try:
        replaced = backup.restore(place, file, keep=aside(file, "replaced"))
    except sqlite3.DatabaseError as error:
        if code_of(error) not in DAMAGED:
            raise
        # never "corrupt" to those who are asked about failures: the live file is replaced then
        raise _refused(place, file, str(error)) from error
    if replaced is not None:
        drop_twin(replaced, kept(file, "replaced"))
    return replaced


def _refused(place: Path, file: Path, why: str) -> RefusedError:
    return RefusedError(
        f"a process was killed while {file} was being changed, and the copy to put back, {place}, "
        f"cannot be used ({why}); the database was not touched. Put a sound copy in its place, "
        f"or look at the database and delete {journal.path_for(file)}"
    )


def aside(file: Path, reason: str) -> Keep:
    """Keeps what a file holds under a name that says why and when."""
    return lambda through: backup.set_aside(file, reason, datetime.now(UTC), through)


def _needs_nothing(
    file: Path, place: Path, entry: journal.Entry, tables: Sequence[VersionTable]
) -> bool:
    """Whether a killed migration had ended, or had been rolled back to where it began.

    What an application wrote since then stays. Where the migration could commit a part of its
    changes, a row that is not as it was may be the migration's.
    """
    try:
        heads = _heads(file, tables)
        if heads == tuple(sorted(entry.after)):
            return True
        if heads != tuple(sorted(entry.before)) or not place.exists():
            return False
        with reading(file) as live, reading(place) as copy:
            schemas = [
                reader.schema(lambda sql, c=c: c.execute(sql).fetchall())  # type: ignore[misc]
                for c in (live, copy)
            ]
            return schemas[0] == schemas[1] and (entry.atomic or reader.same_rows(live, copy))
    except sqlite3.DatabaseError:
        return False


def _heads(file: Path, tables: Sequence[VersionTable]) -> tuple[str, ...]:
    return reader.look_at_file(file, tables).all_heads()
