"""The snapshot of one run: taken, verified, put back, and what others wrote meanwhile kept."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from automigrator.backends.contract.values import VersionTable
from automigrator.backends.sqlite import backup, journal
from automigrator.backends.sqlite import copies as keeping
from automigrator.backends.sqlite.files import ensure_space, remove
from automigrator.backends.sqlite.reader import DAMAGED, code_of, connect, verify
from automigrator.backends.sqlite.recover import aside
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
        keeping.remove_partials(self.file, folder)
        ensure_space(self.file, place.parent)
        self._watch_anew()
        backup.copy(self.file, place, cancelled=cancelled)
        names = tuple(table.name for table in tables)
        try:
            self._verify(place, heads, names)
            entry = journal.Entry(
                "migrating", heads, wanted, str(place), time.time(), names, atomic
            )
            journal.write(self.file, entry)
        except BaseException:
            remove(place)
            raise
        self._entry = entry
        self._verified = place, _identity(place)
        # a convenience: that it fails must not cost the migration
        with suppress(OSError):
            keeping.drop_twin(place, keeping.kept(self.file, "snapshot", folder=folder))

    def put_back(self, place: Path) -> Path | None:
        """Restore it; returns where the live file is kept, if others may have written to it.

        Raises RefusedError when there is no sound copy, TimeoutError when another connection's
        transaction is in the way; the live file is untouched then.
        """
        entry = self._entry
        if entry is None:
            raise RefusedError(f"{place} is no snapshot of this run; nothing was changed")
        if not place.exists():
            raise RefusedError(f"the snapshot {place} is gone; nothing was changed")
        if self._verified != (place, _identity(place)):
            self._verify(place, entry.before, entry.tables)
        watch, self._watch = self._watch, None
        keep = aside(self.file, "replaced")

        def keep_of_others(through: sqlite3.Connection | None) -> Path | None:
            return keep(through) if watch is None or watch.others_wrote() else None

        journal.write(self.file, replace(entry, state="restoring"))
        through = watch.connection if watch is not None else None
        kept = backup.restore(place, self.file, keep=keep_of_others, through=through)
        journal.write(self.file, entry)
        return kept

    def prune(self, limits: Limits, folder: Path | None) -> tuple[str, ...]:
        """Delete those beyond the limits, but never this run's own."""
        good = self._verified[0] if self._verified is not None else None
        copies = keeping.kept(self.file, "snapshot", folder=folder)
        return keeping.prune(copies, limits, good=good)

    def join(self, ask: Ask) -> Callable[[], None]:
        """Take a connection's commits for the migration's own until the returned call is made."""
        return self._watch.join(ask) if self._watch is not None else lambda: None

    def close(self) -> None:
        """Forget the journal: this part of the run is over."""
        self.stop_watching()
        if self._entry is not None:
            self._entry = None
            journal.clear(self.file)

    def forget(self) -> None:
        """The live file is another one by now: there is nothing to put back."""
        self._entry = None

    def stop_watching(self) -> None:
        """Close the watching connection, so that nothing here has the live file open."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _watch_anew(self) -> None:
        self.stop_watching()
        self._watch = Watch(self.file)

    def _verify(self, place: Path, heads: tuple[str, ...], tables: Sequence[str]) -> None:
        try:
            found = {head for name in tables for head in verify(place, name, preread=True)}
        except sqlite3.DatabaseError as error:
            if code_of(error) not in DAMAGED:
                raise
            # of the copy, or of a page of the live file that nobody has read yet
            raise RefusedError(
                f"the snapshot {place} did not pass its check: {error}; nothing was changed"
            ) from error
        if not found <= set(heads):
            raise RefusedError(
                f"the snapshot {place} is at {', '.join(sorted(found))}, the database at "
                f"{', '.join(heads) or 'base'}; nothing was changed"
            )


def _identity(place: Path) -> tuple[int, ...]:
    """What changes when a file is written to or replaced."""
    status = place.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


Ask = Callable[[], int]

VERSION = "PRAGMA data_version"


class Watch:
    """From its beginning on; in doubt the answer is yes.

    `PRAGMA data_version` tells a connection that others have committed, and never of its own
    commits: a watching connection sees those of the migration and of others, the migration's
    own connection those of others alone. Where their answers are read one after the other,
    the first sees no other that the second would not. Not for several threads at once.
    """

    def __init__(self, live: Path) -> None:
        self.connection = connect(live, "rw", any_thread=True)
        self._others = False
        self._joined = 0
        self._seen = self._version()

    def join(self, ask: Ask) -> Callable[[], None]:
        """Take what a connection commits from now on, and until the returned call, for its own.

        `ask` reads the connection's `data_version`.
        """
        self._joined += 1
        own: int | None = None
        with suppress(Exception):
            own = ask()
        if own is None or self._version() != self._seen:
            self._others = True

        def leave() -> None:
            self._joined -= 1
            seen = self._version()
            try:
                if ask() != own:
                    self._others = True
            except Exception:  # noqa: BLE001 - a closed connection, which cannot tell any more
                self._others = True
            self._seen = seen

        return leave

    def others_wrote(self) -> bool:
        """Whether anybody else may have committed until now."""
        return self._others or self._joined > 0 or self._version() != self._seen

    def close(self) -> None:
        self.connection.close()

    def _version(self) -> int | None:
        try:
            return int(self.connection.execute(VERSION).fetchone()[0])
        except sqlite3.Error:
            self._others = True
            return None
