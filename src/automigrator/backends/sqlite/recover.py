"""Recovery after a kill: the journal says what had begun, and names a whole copy to go back to."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from automigrator.backends.contract.journal import (
    Counting,
    Repairs,
    counted,
    taken_over,
    undone,
)
from automigrator.backends.contract.values import Sight, VersionTable
from automigrator.backends.sqlite import backup, codes, files, journal, reader
from automigrator.backends.sqlite.companions import journal_path
from automigrator.backends.sqlite.copying import copies
from automigrator.errors import JudgedError, RefusedError
from automigrator.support.concurrency import in_thread
from automigrator.support.owned_files import NotOursError, Owners

_BY_HAND = (
    "To restore it by hand: stop the application, move {file} away together with its -journal, "
    "-wal and -shm files, run `cp {place} {file}`, and delete {journal}"
)


async def recover(file: Path, counting: Counting | None = None) -> str | None:
    """Finish or undo what a killed process had begun, and say which; None when it left nothing.

    Raises RefusedError when the copy to put back is gone or damaged, or the journal cannot be
    read, and TimeoutError when another connection's transaction is in the way. Never cancel it.
    `counting`: see `Hold.counting`.
    """
    entry = await in_thread(lambda: journal.read(file))
    done = None
    if entry is not None:
        progress, noted = journal.progress_of(file, entry), entry
        entry = entry._replace(snapshot=str(_place(file, entry)))
        kind = copies.named(file, Path(entry.snapshot))
        if kind not in ("snapshot", "side"):
            raise _refused(Path(entry.snapshot), file, "no copy of this database has that name")
        try:
            await in_thread(lambda: Owners.of(file).ensure_free(Path(entry.snapshot)))
        except NotOursError as error:
            raise _refused(Path(entry.snapshot), file, str(error)) from error
        purged = kind == "side"
        counts_only = progress is not None and progress.steps is None and progress.repairs.count
        noted_more = progress is not None and not counts_only
        if not purged and (entry.state == "migrating" or noted_more):
            done = await _needs_nothing(file, entry, progress)
        if done is None and (entry.state == "restoring" or not purged):
            known = progress or journal.Progress(noted.snapshot, noted.at)

            async def note(repairs: Repairs) -> None:
                with suppress(OSError):  # the count protects, and must not prevent
                    now = known._replace(repairs=repairs)
                    await in_thread(lambda: journal.write_progress(file, now))

            by_hand = _BY_HAND.format(file=file, place=entry.snapshot, journal=journal_path(file))
            async with counted(counting, known.repairs, entry.snapshot, by_hand, note):
                done = await in_thread(lambda: _put_back(file, entry, known.digest))
        if purged:
            done = await in_thread(lambda: _purged(file, entry))
    await in_thread(lambda: _clear(file, entry))
    return done


def _place(file: Path, entry: journal.Entry) -> Path:
    """Where the copy is now: one that lay beside the file has moved with it."""
    place = Path(entry.snapshot)
    beside = (each for each in copies.kept(file, "snapshot", "side") if each.name == place.name)
    return next(beside, place)


async def _needs_nothing(
    file: Path, entry: journal.Entry, progress: journal.Progress | None
) -> str | None:
    tables = [VersionTable(name) for name in entry.tables]
    known = progress or journal.Progress(entry.snapshot, entry.at)
    # a restore that was begun is ended, whatever was noted of the migration
    noted = known.steps is not None and entry.state == "migrating"
    committed = known.committed if noted else None
    atomic = entry.atomic and entry.state == "migrating" and not committed

    def unchanged() -> bool:
        return copies.unchanged(file, Path(entry.snapshot), rows=not atomic)

    try:
        sight = await in_thread(lambda: reader.look_at_file(file, tables))
        foreign = await in_thread(lambda: _foreign(file, entry, known, sight))
        return await entry.needs_nothing(
            sight.all_heads(),
            lambda: in_thread(unchanged),
            place=entry.snapshot,
            steps=known.steps,
            committed=committed,
            foreign=foreign,
        )
    except sqlite3.DatabaseError:
        return None


def _foreign(file: Path, entry: journal.Entry, known: journal.Progress, sight: Sight) -> str:
    """Say how the file is seen to be another one than the migration's; "" where it is not."""
    if known.steps is None:
        return ""
    if not sight.all_heads() and entry.before and sight.has_tables:
        return "it has tables, and no version row any more"
    place = Path(entry.snapshot)
    if known.inodes is not None and entry.state == "migrating" and place.exists():
        live, copy = known.inodes
        if place.stat().st_ino == copy and file.stat().st_ino != live and sight.has_tables:
            return "another file was put in its place"
    return ""


def _put_back(file: Path, entry: journal.Entry, digest: str) -> str:
    """Restore the copy, and keep what it replaces: somebody may have written since the kill."""
    place, owners = Path(entry.snapshot), Owners.of(file)
    try:
        flaw = copies.flaw_of(place, entry, owners, digest)
    except (sqlite3.DatabaseError, OSError) as error:
        raise _refused(place, file, str(error)) from error
    if flaw is not None:
        raise _refused(place, file, flaw)
    # an earlier try may have been killed: what it left must not add up
    copies.remove_partials(file)
    before = copies.kept(file, "replaced")
    if before:
        copies.drop_twin(before[-1], before, owners)
    needed = files.size_with_log(file) + files.size_of(place)
    if file.exists() and (short := files.shortage(needed, file.resolve().parent)):
        raise JudgedError(
            "disk-full",
            f"an earlier migration of {file} has to be undone, and to put {place} back {short}; "
            "the database was not touched",
            "free the room, then start again",
        )

    def keep(through: sqlite3.Connection | None) -> Path:
        replaced = backup.set_aside(file, "replaced", through)
        copies.drop_twin(replaced, copies.kept(file, "replaced"), owners)
        return replaced

    try:
        replaced = backup.restore(place, file, keep=keep)
    except sqlite3.DatabaseError as error:
        if not codes.is_damage(error):
            raise
        # never the kind "corrupt": a strategy would replace the live file then
        raise _refused(place, file, str(error)) from error
    return undone(place, replaced)


def _clear(file: Path, entry: journal.Entry | None) -> None:
    """Remove what the killed process left beside the file, and the journal last.

    Without a journal a start that has nothing to migrate would never look for the rest.
    """
    if entry is not None and entry.state != "migrating":
        # an entry that does not need its copy, which may be one of the files removed here
        journal.write(file, entry._replace(state="migrating"))
    for side in copies.kept(file, "side"):
        files.remove(side, Owners.of(file))
    copies.remove_partials(file)
    journal.clear(file)


def _purged(file: Path, entry: journal.Entry) -> str:
    """Say where a purge whose process was killed has left the old data."""
    since = datetime.fromtimestamp(int(entry.at), UTC).strftime("%Y%m%dT%H%M%S")
    kept = copies.kept(file, "purged", "corrupt", "replaced")
    return taken_over(", ".join(str(each) for each in kept if copies.stamp_of(each) >= since))


def _refused(place: Path, file: Path, why: str) -> RefusedError:
    return RefusedError(
        f"an earlier migration of {file} has to be undone (it was killed, or its snapshot was not "
        f"put back), and that copy, {place}, cannot be used ({why}); the database was not "
        "touched. Put that copy, as it was, in its place; or put another one back (`automigrator "
        "snapshots restore`); or look at the database, and where it is as it should be delete "
        f"{journal_path(file)}"
    )
