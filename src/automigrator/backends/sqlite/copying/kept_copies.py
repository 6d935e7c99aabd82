"""What earlier runs have kept of a SQLite file: shown to a person, and put back for one.

Everything here blocks: call it in a worker thread.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from automigrator.backends.contract.snapshots import PutBack, Snapshot, SnapshotKind
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.sqlite import backup, codes, companions, files, journal, reader
from automigrator.backends.sqlite.copying import copies
from automigrator.errors import RefusedError
from automigrator.support.owned_files import Owners
from automigrator.support.redaction import first_line

_KINDS: dict[str, SnapshotKind] = {
    "snapshot": "copy",
    "replaced": "replaced",
    "purged": "purged",
    "corrupt": "corrupt",
}


def snapshots_of(
    live: Path, tables: Sequence[VersionTable], folders: Sequence[Path]
) -> tuple[Snapshot, ...]:
    """Return the copies beside the file, and its snapshots in the folders, newest first."""
    places = copies.kept(live, *copies.OF_DATA)
    for folder in folders:
        places += copies.kept(live, "snapshot", folder=folder)
    found = [_described(path, tables) for path in dict.fromkeys(places)]
    return tuple(sorted(found, key=lambda each: each.stamp, reverse=True))


def put_back(live: Path, snapshot: Snapshot, tables: tuple[str, ...], check_room: bool) -> PutBack:
    """Put a copy back, and keep what it replaces.

    The open journal of another migration is closed with it: until then a kill leaves it, or the
    journal of this restore, which the next start ends. Raises RefusedError and TimeoutError, the
    live file untouched.
    """
    place, owners = Path(snapshot.place), Owners.of(live)
    heads = snapshot.heads
    entry = journal.Entry("restoring", heads, heads, str(place), time.time(), tables)
    if flaw := snapshot.flaw or copies.flaw_of(place, entry, owners, ""):
        raise copies.unusable(place, flaw)
    _ensure_no_log(live)
    copies.remove_partials(live)
    needed = files.size_with_log(live) + files.size_of(place)
    if check_room and live.exists() and (short := files.shortage(needed, live.resolve().parent)):
        raise RefusedError(
            f"to put {place} back, and to keep what it replaces, {short}; nothing was changed. "
            f"{files.ROOM}"
        )
    before = _text(companions.journal_path(live))
    named = _as_snapshot(live, place)
    # in one write: the journal that was open is replaced by this one
    journal.write(live, entry._replace(snapshot=str(named)))
    try:
        kept = backup.restore(
            named, live, keep=lambda through: backup.set_aside(live, "replaced", through)
        )
    except Exception as error:
        # where the live file cannot be read, the next start has to end what was begun
        if isinstance(error, TimeoutError) or _is_readable(live, tables):
            files.write_durably(companions.journal_path(live), before, like=live)
            if named != place:
                named.rename(place)
        raise
    for side in copies.kept(live, "side"):  # of a process that was killed
        files.remove(side, owners)
    journal.clear(live)
    return PutBack(str(named), str(kept) if kept is not None else "")


def ensure_contents(live: Path, folders: Sequence[Path]) -> None:
    """Raise DamagedError for a file without any table beside copies of it that have some.

    What a restore has replaced does not count: it may have put back the empty database that was
    there before the first installation.
    """
    if not live.exists() or not reader.is_blank(live):
        return
    places = copies.kept(live, "snapshot", "purged", "corrupt")
    for folder in folders:
        places += copies.kept(live, "snapshot", folder=folder)
    if held := [str(each) for each in dict.fromkeys(places) if _held_data(each)]:
        raise codes.DamagedError(
            f"{live} is empty, and {', '.join(held[-_TOLD:])}, which automigrator made of it, "
            f"{'holds' if len(held) == 1 else 'hold'} data: the file was emptied, or deleted and "
            "made anew. No revision is run on the empty one, and nothing was changed",
            "stop the application and put the newest sound copy back: `automigrator snapshots "
            "restore newest`. If an empty database is meant, move these copies to another folder "
            "first",
        )


_TOLD = 3
"""Copies that a refusal lists."""


def _held_data(place: Path) -> bool:
    """Whether a copy has a table, or cannot be read and may have had one."""
    try:
        return place.stat().st_size > 0 and not reader.is_blank(place)
    except (sqlite3.Error, codes.BusyError):
        return True


def by_hand(live: Path, place: Path) -> str:
    """Say how a person puts back a copy that is none of ours; "" where there is no such file."""
    if not place.is_file():
        return ""
    noted = companions.journal_path(live), companions.progress_path(live)
    return (
        f". To put a copy of your own back by hand: stop the application; check the copy with "
        f"`sqlite3 {place} 'PRAGMA integrity_check'`; move {live} away together with its -wal, "
        f"-shm and -journal; copy {place} to {live}, and its own -wal or -journal, where it has "
        f"one, to the same name with that ending; delete {noted[0]} and {noted[1]}, where they "
        "are; start the application again"
    )


def _described(path: Path, tables: Sequence[VersionTable]) -> Snapshot:
    kind = _kind_of(path)
    heads: tuple[str, ...] = ()
    size, flaw = None, ""
    try:
        size = path.stat().st_size
        if kind == "corrupt":
            flaw = "it was damaged, and was kept byte for byte"
        elif size == 0:
            flaw = "it is empty"
        else:
            with reader.looking_at(path) as connection:
                heads = reader.look(connection.execute, tables).all_heads()
    except (sqlite3.Error, OSError) as error:
        flaw = first_line(error)
    return Snapshot(str(path), heads, copies.stamp_of(path), kind, size, flaw)


def _kind_of(path: Path) -> SnapshotKind:
    return _KINDS[path.name.rpartition(".")[2].partition("-")[0]]


def _is_readable(live: Path, tables: Sequence[str]) -> bool:
    with suppress(sqlite3.Error, OSError):
        return reader.look_at_file(live, [VersionTable(name) for name in tables]).exists
    return False


def _ensure_no_log(live: Path) -> None:
    """Raise RefusedError where a log is all that is left: it would be lost."""
    left = [p for p in companions.sidecars(live.resolve()) if files.size_of(p)]
    if left and not live.exists():
        raise RefusedError(
            f"{live} is missing, and {left[0]} is still there, which may hold committed rows; "
            "nothing was changed. Move it away, then try again"
        )


def _as_snapshot(live: Path, place: Path) -> Path:
    """Give what was set aside the name of a snapshot: the next start puts back no other."""
    if _kind_of(place) == "copy":
        return place
    named, number = companions.beside(live.resolve(), f".snapshot-{copies.stamp_of(place)}"), 1
    while named.exists():
        number += 1
        stamp = copies.stamp_of(place).partition("-")[0]
        named = companions.beside(live.resolve(), f".snapshot-{stamp}-{number}")
    place.rename(named)
    files.sync_folder(named.parent)
    return named


def _text(path: Path) -> str | None:
    """Return a journal as it is, whichever release wrote it; None where there is none."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
