"""What surrounds a SQLite file: its lock, its records, its copies, and half-made tables in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar, get_args

from automigrator.backends.contract.declarations import Declaration
from automigrator.backends.contract.examiner import Copy, Damage, Debris, TableName
from automigrator.backends.contract.record import Record
from automigrator.backends.sqlite import codes, files, lock_files, reader
from automigrator.backends.sqlite.companions import has_journal
from automigrator.backends.sqlite.copying import copies
from automigrator.backends.sqlite.copying.kept_copies import ensure_contents
from automigrator.backends.sqlite.files import size_of
from automigrator.backends.sqlite.reader import quoted
from automigrator.retention import at_of
from automigrator.support.concurrency import in_thread, shielded
from automigrator.support.sizes import sized

T = TypeVar("T")

_TEMPORARY = "_alembic_tmp_"

CHECKED_BYTES = 100_000_000
"""A larger file is not checked page by page: writers would wait for that."""


class FileExaminer:
    """See `Examiner`; of a database in memory there is nothing to report."""

    def __init__(self, live: Path | None) -> None:
        self.live = live

    async def _of_file(self, find: Callable[[Path], T], absent: T) -> T:
        live = self.live
        return absent if live is None else await in_thread(lambda: find(live))

    async def unfinished(self) -> bool:
        return await self._of_file(has_journal, False)

    async def declared(self) -> tuple[Declaration, ...]:
        return await self._of_file(lock_files.declarations_of, ())

    async def record(self) -> Record | None:
        return await self._of_file(lock_files.record_of, None)

    async def holder(self) -> str | None:
        return await self._of_file(lock_files.holder_of, None)

    async def copies(self) -> tuple[Copy, ...]:
        return await self._of_file(_copies, ())

    async def damage(self) -> Damage:
        return await self._of_file(_damage, Damage())

    async def existing(self, tables: Sequence[TableName]) -> tuple[TableName, ...]:
        names: list[str] = await self._of_file(lambda live: _in_file(live, _tables), [])
        found = {name.lower() for name in names}
        return tuple(table for table in tables if table[1].lower() in found)

    async def debris(self) -> tuple[Debris, ...]:
        return tuple(await self._of_file(lambda live: _in_file(live, _debris), []))

    async def remove(self, debris: Debris) -> str | None:
        return await shielded(self._of_file(lambda live: _dropped(live, debris), None))

    async def rebuild(self, debris: Debris) -> str | None:
        return "what an unfinished batch operation leaves cannot be made whole"


def _damage(live: Path) -> Damage:
    try:
        ensure_contents(live, ())
        if files.size_with_log(live) > CHECKED_BYTES:
            return Damage(
                unchecked=f"whether a page of it is damaged: it is larger than "
                f"{sized(CHECKED_BYTES)}; `PRAGMA quick_check` reads all of it, and holds up "
                "writers meanwhile"
            )
        reader.verify(live, ())
    except codes.DamagedError as error:
        return Damage(str(error))
    except sqlite3.DatabaseError as error:
        if not codes.is_damage(error) or codes.is_newer(error):
            raise
        return Damage(f"PRAGMA quick_check says: {error}")
    return Damage()


def left_over(live: Path) -> tuple[str, ...]:
    """Return the debris in a file without judging it: comparing rows takes its time."""
    return tuple(_description(name) for name in _in_file(live, _half_made))


def _in_file(live: Path, find: Callable[[sqlite3.Connection], list[T]]) -> list[T]:
    if not live.exists():
        return []
    with reader.looking_at(live) as connection:
        return find(connection)


def _tables(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    return [str(row[0]) for row in rows]


def _half_made(connection: sqlite3.Connection) -> list[str]:
    return [name for name in _tables(connection) if name.startswith(_TEMPORARY)]


def _debris(connection: sqlite3.Connection) -> list[Debris]:
    return [_judged(connection, name) for name in _half_made(connection)]


def _description(name: str) -> str:
    return f"table {name} of an unfinished batch operation"


def _dropped(live: Path, debris: Debris) -> str | None:
    name = debris.object[1]
    with closing(reader.connect(live, "rw")) as connection:
        connection.execute(f"PRAGMA busy_timeout={reader.BUSY_S * 1000:.0f}")
        connection.execute("PRAGMA foreign_keys=OFF")  # else dropping a table empties it first
        try:
            connection.execute("BEGIN IMMEDIATE")
            judged = _judged(connection, name)  # nobody can write from here on
            if not judged.provable:
                return judged.why
            connection.execute(f"DROP TABLE {quoted(name)}")
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            return str(error)
    return None


def _judged(connection: sqlite3.Connection, name: str) -> Debris:
    """Batch mode fills a copy, drops the table and renames the copy; it may have ended anywhere."""
    original = name.removeprefix(_TEMPORARY)
    if original not in _tables(connection):
        kept: str | None = (
            f"table {original} is missing, so this may be the only copy of its rows. Compare its "
            f"columns with the revision's, then ALTER TABLE {quoted(name)} RENAME TO "
            f"{quoted(original)}"
        )
    else:
        try:
            kept = _doubt(connection, name, original)
        except sqlite3.Error as error:
            kept = f"it cannot be compared with {original} ({error})"
        if kept is not None:
            kept += "; look at both, and drop it by hand when nothing is missing"
    why = f"table {original} has every row of it" if kept is None else kept
    return Debris(_description(name), (None, name), kept is None, why)


def _doubt(connection: sqlite3.Connection, name: str, original: str) -> str | None:
    """Say why something might be lost with the copy; None when nothing would be."""
    ask = connection.execute
    columns = {str(row[1]): row[4] for row in ask(f"PRAGMA table_info({quoted(name)})")}
    theirs = {str(row[1]) for row in ask(f"PRAGMA table_info({quoted(original)})")}
    if not ask(f"SELECT 1 FROM {quoted(name)} LIMIT 1").fetchone():
        return _mention(connection, name)
    shared = [f"{quoted(column)} COLLATE BINARY" for column in columns if column in theirs]
    if not shared:
        return f"it shares no column with {original}"
    for column, default in columns.items():
        # a new column's default is nobody's data
        filled = f"{quoted(column)} IS NOT NULL AND {quoted(column)} IS NOT ({default or 'NULL'})"
        where = f"SELECT 1 FROM {quoted(name)} WHERE {filled} LIMIT 1"
        if column not in theirs and ask(where).fetchone():
            return f"{original} has no column {column}, and it has values there"
    # numbered within equals, as a table without a key may hold a row twice
    kept = ", ".join(f"{each}, typeof({each})" for each in shared)
    numbered = f"SELECT {kept}, row_number() OVER (PARTITION BY {kept}) FROM "
    ((missing,),) = ask(
        f"SELECT count(*) FROM ({numbered}{quoted(name)} EXCEPT {numbered}{quoted(original)})"
    )
    if missing:
        return f"{missing} of its rows are not in {original} as they are here"
    return _mention(connection, name)


def _mention(connection: sqlite3.Connection, name: str) -> str | None:
    row = connection.execute(
        "SELECT type, name FROM sqlite_master WHERE tbl_name <> ? AND instr(lower(sql), lower(?))",
        (name, name),
    ).fetchone()
    return f"{row[0]} {row[1]} mentions it" if row else None


def _copies(live: Path) -> tuple[Copy, ...]:
    return tuple(
        Copy(str(path), kind, at_of(copies.stamp_of(path).partition("-")[0]), size_of(path))
        for kind in get_args(copies.Kind)
        for path in copies.kept(live.resolve(), kind)
    )
