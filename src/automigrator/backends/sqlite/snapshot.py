"""The snapshot of one run: taken, verified, put back."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from automigrator.backends.contract.snapshots import (
    DEFAULT,
    PutBack,
    Snapshot,
    SnapshotOptions,
    Snapshots,
)
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.sqlite import backup, codes, files, journal, reader
from automigrator.backends.sqlite.connections import files_of
from automigrator.backends.sqlite.copying import copies, kept_copies
from automigrator.backends.sqlite.watch import Watch
from automigrator.errors import RefusedError
from automigrator.retention import Limits
from automigrator.support.concurrency import in_thread, shielded
from automigrator.support.loggers import logger_of
from automigrator.support.owned_files import Owners

logger = logger_of(__name__)

_TOLD = 3
"""Files of others that are named, where there are many."""


class FileSnapshots(Snapshots):
    """Copies of a database file. What blocks runs in a worker thread, one act at a time."""

    def __init__(
        self,
        file: Path,
        engine: Callable[[], AsyncEngine],
        replacing: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.file, self._engine = file, engine
        self.replacing = replacing
        """Context manager: this process may put another file in the place of the live one."""
        self.watch: Watch | None = None
        """Has the live file open."""
        self.entry: journal.Entry | None = None
        """The journal of this run's snapshot, while it is open."""
        self.purged = False
        """Whether the open journal tells that the database was replaced by a fresh one."""
        self.check_room = True
        """Whether a snapshot is refused where there seems to be too little room."""
        self.replaced: set[Path] = set()
        """What restores of this run have replaced, which it never prunes."""
        self._progress: journal.Progress | None = None
        self._verified: tuple[Path, tuple[int, ...]] | None = None

    async def take(
        self,
        stamp: str,
        heads: tuple[str, ...],
        wanted: tuple[str, ...],
        tables: Sequence[VersionTable],
        options: SnapshotOptions = DEFAULT,
        *,
        atomic: bool = False,
        steps: Sequence[str] | None = None,
    ) -> Snapshot:
        engine = self._engine()
        try:
            await ensure_alone(engine, "a snapshot would not hold what revisions change there")
        finally:
            await shielded(engine.dispose())
        # a number tells the copy of a person, who knows its name, from those of migrations
        number = "-1" if heads == wanted else ""
        place = copies.snapshot_path(self.file, stamp + number, options.folder)
        names = tuple(table.name for table in tables)
        entry = journal.Entry("migrating", heads, wanted, str(place), time.time(), names, atomic)
        cancelled = threading.Event()
        known = tuple(steps) if steps is not None else None
        taking = in_thread(lambda: self._take(entry, known, options.folder, cancelled.is_set))
        await shielded(taking, cancelled.set)
        return Snapshot(str(place), heads, stamp)

    def _take(
        self,
        entry: journal.Entry,
        steps: tuple[str, ...] | None,
        folder: Path | None,
        cancelled: Callable[[], bool],
    ) -> None:
        """Copy the live file to where `entry` says, verify the copy and open the journal.

        Raises RefusedError for a copy that does not pass, DamagedError where it is the live file
        that does not, and what copying raises.
        """
        place, owners = Path(entry.snapshot), Owners.of(self.file)
        if folder is None:
            ensure_kept(owners, place.parent)
        else:
            owners.make_folder(place.parent)
            for stranger in copies.strangers(self.file, folder)[:_TOLD]:
                logger.warning("a file that is not ours does not count: %s", stranger)
        copies.remove_partials(self.file, folder)
        if self.check_room:
            files.ensure_space(self.file, place.parent)
        self.stop_watching()
        self.watch = Watch(self.file)
        with _damage_told(self.file):
            backup.copy(self.file, place, cancelled=cancelled)
        try:
            digest = files.digest(place, owners)
            if flaw := copies.unsound(place, entry):
                with _damage_told(self.file):
                    reader.verify(self.file, entry.tables)
                raise copies.unusable(place, flaw)
            inodes = self.file.stat().st_ino, place.stat().st_ino
            progress = journal.Progress(
                entry.snapshot, entry.at, steps, inodes=inodes, digest=digest
            )
            journal.write_progress(self.file, progress)  # first: nothing without an entry
            journal.write(self.file, entry)
        except BaseException:
            files.remove(place, owners)
            raise
        self.entry, self._progress = entry, progress
        self._verified = place, _identity(place)
        # a convenience, whose failure must not cost the migration
        with suppress(OSError):
            others = copies.kept(self.file, "snapshot", folder=folder)
            if entry.before != entry.after:
                others = [each for each in others if "-" not in copies.stamp_of(each)]
                copies.drop_twin(place, others, owners)

    @property
    def untouched(self) -> bool:
        progress = self._progress
        return self.entry is not None and progress is not None and not progress.committed

    async def committing(self) -> None:
        progress = self._progress
        if progress is None or not self.untouched:
            return
        self._progress = noted = progress._replace(committed=True)
        try:
            await shielded(in_thread(lambda: journal.write_progress(self.file, noted)))
        except BaseException:
            self._progress = progress
            raise

    async def differs(self, snapshot: Snapshot) -> bool:
        return await shielded(in_thread(lambda: self._differs(Path(snapshot.place))))

    def _differs(self, place: Path) -> bool:
        entry, watch = self.entry, self.watch
        if entry is None or watch is None or not place.exists() or not watch.saw_commits():
            return False
        rows = not entry.atomic and not watch.others_wrote()
        return not copies.unchanged(self.file, place, rows=rows)

    async def restore(self, snapshot: Snapshot, *, disconnect_others: bool = False) -> str | None:
        kept = await shielded(in_thread(lambda: self._put_back(Path(snapshot.place))))
        return str(kept) if kept else None

    def _put_back(self, place: Path) -> Path | None:
        """Restore a snapshot; returns where the live file is kept, if others may have written.

        Raises RefusedError when there is no sound copy, TimeoutError when another connection's
        transaction is in the way; the live file is untouched then.
        """
        entry = self.entry
        if entry is None:
            raise RefusedError(f"{place} is no snapshot of this run; nothing was changed")
        if not place.exists() or self._verified != (place, _identity(place)):
            digest = self._progress.digest if self._progress is not None else ""
            if flaw := copies.flaw_of(place, entry, Owners.of(self.file), digest):
                raise copies.unusable(place, flaw)
        watch, self.watch = self.watch, None

        def keep(through: sqlite3.Connection | None) -> Path | None:
            if watch is not None and not watch.others_wrote():
                return None
            return backup.set_aside(self.file, "replaced", through)

        journal.write(self.file, entry._replace(state="restoring"))
        through, claim = (watch.connection, watch.join) if watch is not None else (None, None)
        with self.replacing():
            kept = backup.restore(place, self.file, keep=keep, through=through, claim=claim)
        self.replaced.update(filter(None, [kept]))
        if (progress := self._progress) is not None:
            inodes = self.file.stat().st_ino, place.stat().st_ino
            self._progress = progress._replace(committed=False, inodes=inodes)
            journal.write_progress(self.file, self._progress)
        journal.write(self.file, entry)
        return kept

    async def put_back(
        self,
        snapshot: Snapshot,
        tables: Sequence[VersionTable],
        *,
        disconnect_others: bool = False,
    ) -> PutBack:
        names = tuple(table.name for table in tables)
        act = partial(kept_copies.put_back, self.file, snapshot, names, self.check_room)
        with self.replacing():
            return await shielded(in_thread(act))

    def by_hand(self, place: str) -> str:
        return kept_copies.by_hand(self.file, Path(place))

    async def prune(self, limits: Limits, folder: Path | None = None) -> tuple[str, ...]:
        good = self._verified[0] if self._verified is not None else None

        def prune() -> tuple[str, ...]:
            opened = journal.read(self.file)
            spared = [Path(opened.snapshot)] if opened is not None else []
            kinds: tuple[copies.Kind] = ("snapshot",)
            return copies.prune(self.file, kinds, limits, folder, good=good, spared=spared)

        return await shielded(in_thread(prune))

    async def prune_replaced(self, limits: Limits, folder: Path | None = None) -> tuple[str, ...]:
        prune = partial(copies.prune, self.file, ("replaced",), limits, spared=self.replaced)
        return await shielded(in_thread(prune))

    def close(self) -> None:
        """Forget the snapshot and its journal: this part of the run is over. Blocks."""
        self.stop_watching()
        if self.entry is not None or self.purged:
            self.entry, self.purged = None, False
            journal.clear(self.file)

    def stop_watching(self) -> None:
        """Close the watching connection, so that nothing here has the live file open. Blocks."""
        if self.watch is not None:
            self.watch.connection.close()
            self.watch = None

    async def let_go(self) -> None:
        """Let go of the live file, where the journal stays open for the next start."""
        await shielded(in_thread(self.stop_watching))


async def ensure_alone(engine: AsyncEngine, why: str) -> None:
    """Raise RefusedError where connections of an engine reach another file as well."""
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).dbapi_connection
        found = await connection.run_sync(lambda _: files_of(driver))
    others = [f"{name} ({path})" for name, path in found if path and name != "main"]
    if others:
        raise RefusedError(
            f"the application attaches {', '.join(others)} to each of its connections, so that "
            f"{why}; nothing was changed"
        )


@contextmanager
def _damage_told(file: Path) -> Iterator[None]:
    """Context manager: damage that SQLite finds in the live file is a DamagedError."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if not codes.is_damage(error) or codes.is_newer(error):
            raise
        raise codes.DamagedError(
            f"{file} is damaged: the check of its snapshot has found it ({error}). No copy was "
            "made, and nothing was changed"
        ) from error


def ensure_kept(owners: Owners, folder: Path) -> None:
    """Raise RefusedError for a folder in which anybody may take a copy away and put one there."""
    mode = folder.stat().st_mode
    if mode & 0o002 and not mode & 0o1000 and not owners.keeps(folder):
        raise RefusedError(
            f"everybody may replace files in {folder}, so that no copy of the database is safe "
            "there; nothing was changed. Keep the database in a folder that only its users may "
            f"write to, a sub-folder say, or let nobody replace others' files (`chmod +t {folder}`"
            "); a snapshot may be elsewhere (folder=)"
        )


def _identity(place: Path) -> tuple[int, ...]:
    """Return what changes when a file is written to or replaced."""
    status = place.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
