"""The snapshot of one run: taken, verified, put back."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from automigrator.backends.contract.values import VersionTable
from automigrator.backends.sqlite import backup, codes, copies, files, journal, reader
from automigrator.backends.sqlite.watch import Ask, Watch
from automigrator.errors import RefusedError
from automigrator.retention import Limits


class Snapshots:
    """Everything here blocks, but `join`: call it in a worker thread, one call at a time."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._entry: journal.Entry | None = None
        self._watch: Watch | None = None
        self._verified: tuple[Path, tuple[int, ...]] | None = None

    @property
    def watched(self) -> bool:
        """Whether a connection has the live file open."""
        return self._watch is not None

    def take(
        self,
        place: Path,
        folder: Path | None,
        heads: tuple[str, ...],
        wanted: tuple[str, ...],
        tables: Sequence[VersionTable],
        atomic: bool,
        cancelled: Callable[[], bool],
    ) -> None:
        """Copy the live file to `place`, verify the copy and open the journal.

        Raises RefusedError for a copy that does not pass, and what copying raises.
        """
        place.parent.mkdir(parents=True, exist_ok=True)
        copies.remove_partials(self.file, folder)
        files.ensure_space(self.file, place.parent)
        self.stop_watching()
        self._watch = Watch(self.file)
        backup.copy(self.file, place, cancelled=cancelled)
        names = tuple(table.name for table in tables)
        entry = journal.Entry("migrating", heads, wanted, str(place), time.time(), names, atomic)
        try:
            _verify(place, entry)
            journal.write(self.file, entry)
        except BaseException:
            files.remove(place)
            raise
        self._entry = entry
        self._verified = place, _identity(place)
        # a convenience, whose failure must not cost the migration
        with suppress(OSError):
            copies.drop_twin(place, copies.kept(self.file, "snapshot", folder=folder))

    def put_back(self, place: Path) -> Path | None:
        """Restore a snapshot; returns where the live file is kept, if others may have written.

        Raises RefusedError when there is no sound copy, TimeoutError when another connection's
        transaction is in the way; the live file is untouched then.
        """
        entry = self._entry
        if entry is None:
            raise RefusedError(f"{place} is no snapshot of this run; nothing was changed")
        if not place.exists():
            raise RefusedError(f"the snapshot {place} is gone; nothing was changed")
        if self._verified != (place, _identity(place)):
            _verify(place, entry)
        watch, self._watch = self._watch, None

        def keep(through: sqlite3.Connection | None) -> Path | None:
            if watch is not None and not watch.others_wrote():
                return None
            return backup.set_aside(self.file, "replaced", through)

        journal.write(self.file, replace(entry, state="restoring"))
        through = watch.connection if watch is not None else None
        kept = backup.restore(place, self.file, keep=keep, through=through)
        journal.write(self.file, entry)
        return kept

    def prune(self, limits: Limits, folder: Path | None) -> tuple[str, ...]:
        """Delete the snapshots beyond the limits, but never this run's own."""
        good = self._verified[0] if self._verified is not None else None
        return copies.prune(copies.kept(self.file, "snapshot", folder=folder), limits, good=good)

    def join(self, ask: Ask) -> Callable[[], None]:
        """Count a connection's commits as the migration's own until the returned call is made."""
        return self._watch.join(ask) if self._watch is not None else lambda: None

    def close(self) -> None:
        """Forget the journal: this part of the run is over."""
        self.stop_watching()
        if self._entry is not None:
            self._entry = None
            journal.clear(self.file)

    def forget(self) -> None:
        """Forget the snapshot: the live file is another one, and there is nothing to put back."""
        self._entry = None

    def stop_watching(self) -> None:
        """Close the watching connection, so that nothing here has the live file open."""
        if self._watch is not None:
            self._watch.connection.close()
            self._watch = None


def _verify(place: Path, entry: journal.Entry) -> None:
    try:
        found = reader.verify(place, entry.tables, preread=True)
    except sqlite3.DatabaseError as error:
        if not codes.is_damage(error):
            raise
        # of the copy, or of a page of the live file that nobody has read yet
        raise RefusedError(
            f"the snapshot {place} did not pass its check: {error}; nothing was changed"
        ) from error
    if not set(found) <= set(entry.before):
        raise RefusedError(
            f"the snapshot {place} is at {', '.join(found)}, the database at "
            f"{', '.join(entry.before) or 'base'}; nothing was changed"
        )


def _identity(place: Path) -> tuple[int, ...]:
    """Return what changes when a file is written to or replaced."""
    status = place.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
