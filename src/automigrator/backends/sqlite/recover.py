"""Recovery after a kill: the journal says what had begun, and names a whole copy to go back to."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from functools import partial
from itertools import zip_longest
from pathlib import Path

from automigrator.backends.contract.journal import taken_over, undone
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.sqlite import backup, codes, copies, files, journal, reader
from automigrator.backends.sqlite.snapshot import flaw_of
from automigrator.errors import RefusedError
from automigrator.support.concurrency import in_thread


async def recover(file: Path) -> str | None:
    """Finish or undo what a killed process had begun, and say which; None when it left nothing.

    Raises RefusedError when the copy to put back is gone or damaged, or the journal cannot be
    read, and TimeoutError when another connection's transaction is in the way. Never cancel it.
    """
    entry = await in_thread(lambda: journal.read(file))
    done = None
    if entry is not None:
        purged = files.is_beside(file, Path(entry.snapshot), "side")
        if entry.state == "migrating" and not purged:
            done = await _needs_nothing(file, entry)
        if done is None and (entry.state == "restoring" or not purged):
            done = await in_thread(lambda: _put_back(file, entry))
        if purged:
            done = await in_thread(lambda: _purged(file, entry))
    await in_thread(lambda: _clear(file, entry))
    return done


async def _needs_nothing(file: Path, entry: journal.Entry) -> str | None:
    tables = [VersionTable(name) for name in entry.tables]
    try:
        sight = await in_thread(lambda: reader.look_at_file(file, tables))
        return await entry.needs_nothing(
            sight.all_heads(), lambda: in_thread(lambda: _unchanged(file, entry))
        )
    except sqlite3.DatabaseError:
        return None


def _unchanged(file: Path, entry: journal.Entry) -> bool:
    """Tell whether the file holds what its copy does.

    Rows count only where a part of the migration could be committed: then a row that differs may
    be the migration's. Otherwise only the application can have changed it.
    """
    place = Path(entry.snapshot)
    if not place.exists():
        return False
    with reader.looking_at(file) as live, reader.looking_at(place) as copy:
        same_schema = _schema(live) == _schema(copy)
        return same_schema and (entry.atomic or _same_rows(live, copy))


def _schema(connection: sqlite3.Connection) -> list[tuple[str, ...]]:
    # without what ANALYZE makes: an application that optimises changes no schema
    return sorted(
        connection.execute(
            "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_master "
            "WHERE name NOT GLOB 'sqlite_stat*'"
        )
    )


def _same_rows(one: sqlite3.Connection, other: sqlite3.Connection) -> bool:
    """Compare all rows of two databases of the same schema; both are read through."""
    names = "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 AND "
    for (name,) in one.execute(names + "name NOT GLOB 'sqlite_stat*'").fetchall():
        select = f"SELECT * FROM {reader.quoted(name)}"
        pairs = zip_longest(one.execute(select), other.execute(select))
        if not all(a == b for a, b in pairs):
            return False
    return True


def _put_back(file: Path, entry: journal.Entry) -> str:
    """Restore the copy, and keep what it replaces: somebody may have written since the kill."""
    place = Path(entry.snapshot)
    try:
        flaw = flaw_of(place, entry)
    except (sqlite3.DatabaseError, OSError) as error:
        raise _refused(place, file, str(error)) from error
    if flaw is not None:
        raise _refused(place, file, flaw)
    try:
        kept = backup.restore(place, file, keep=partial(backup.set_aside, file, "replaced"))
    except sqlite3.DatabaseError as error:
        if not codes.is_damage(error):
            raise
        # never the kind "corrupt": a strategy would replace the live file then
        raise _refused(place, file, str(error)) from error
    if kept is not None:
        copies.drop_twin(kept, copies.kept(file, "replaced"))
    return undone(place, kept)


def _clear(file: Path, entry: journal.Entry | None) -> None:
    """Remove what the killed process left beside the file, and the journal last.

    Without a journal a start that has nothing to migrate would never look for the rest.
    """
    if entry is not None and entry.state != "migrating":
        # an entry that does not need its copy, which may be one of the files removed here
        journal.write(file, entry._replace(state="migrating"))
    for side in copies.kept(file, "side"):
        files.remove(side)
    copies.remove_partials(file)
    if entry is not None:
        journal.clear(file)


def _purged(file: Path, entry: journal.Entry) -> str:
    """Say where a purge whose process was killed has left the old data."""
    since = datetime.fromtimestamp(int(entry.at), UTC).strftime("%Y%m%dT%H%M%S")
    kept = copies.kept(file, "purged", "corrupt", "replaced")
    return taken_over(", ".join(str(each) for each in kept if copies.stamp_of(each) >= since))


def _refused(place: Path, file: Path, why: str) -> RefusedError:
    return RefusedError(
        f"a process was killed while {file} was being changed, and the copy to put back, {place}, "
        f"cannot be used ({why}); the database was not touched. Put a sound copy in its place, "
        f"or look at the database and delete {files.journal_path(file)}"
    )
