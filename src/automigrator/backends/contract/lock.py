"""A migration lock that is held, and what its last holder left to those who come after it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path

from sqlalchemy.engine import Connection

from automigrator.backends.contract.checksums import Checksums
from automigrator.backends.contract.declarations import Declaration
from automigrator.backends.contract.journal import Counting
from automigrator.backends.contract.record import Record
from automigrator.backends.contract.sides import Sides
from automigrator.backends.contract.snapshots import Snapshots
from automigrator.backends.contract.values import Sight, StatementProgress, VersionTable


class Hold(ABC):
    """The migration lock of one target, held by this process, and the acts it allows.

    `snapshots` and `sides` are None where the backend offers none; a strategy that needs them
    is then refused in words.
    """

    leader: str
    """This process, as processes that wait are told of it."""
    waited_s: float
    """Seconds waited for the lock."""
    since: float
    """When this process began to look or to wait, on the clock of the record."""
    notes: tuple[str, ...] = ()
    """What a person should know of how the lock is held, one sentence each."""
    counting: Counting | None = None
    """Asked before `recover` puts a copy back: it counts, and may refuse."""
    binaries: Path | None = None
    """Where this start's configuration says that the database's client programs are."""
    snapshots: Snapshots | None = None
    sides: Sides | None = None

    @property
    def untouched(self) -> bool:
        """Whether a journal of this run is open, and tells that nothing was committed yet."""
        return self.snapshots is not None and self.snapshots.untouched

    @abstractmethod
    async def look(self, tables: Sequence[VersionTable]) -> Sight:
        """Read the heads under the lock.

        Raises LockLostError where the database is not the one that the lock protects.
        """

    @abstractmethod
    async def confirm(self, progress: str = "") -> None:
        """Tell how far the migration is. Raises LockLostError when the lock is no longer held."""

    async def until_lost(self) -> None:
        """Wait until the lock is no longer held, and raise LockLostError."""
        await asyncio.Event().wait()

    def hurry(self) -> None:
        """Shorten the waits for a silent server: somebody asked for the end."""

    def claim(self, connection: Connection) -> Callable[[], None]:
        """Mark a connection as this lock's: what it commits is the migration's.

        Returns the call that undoes it.
        """
        return lambda: None

    def blockers(self) -> AbstractAsyncContextManager[Callable[[], tuple[str, ...]]]:
        """Context manager: watch who holds what the migration waits for; the call names them."""
        return nullcontext(lambda: ())

    async def progress(self) -> StatementProgress | None:
        """Ask how far the statement is that the migration runs; None where nothing tells that.

        Called every few seconds while a statement takes long. Must not endanger the lock.
        """
        return None

    async def ensure_contents(self, folders: Sequence[Path]) -> None:
        """Raise what `classify` calls corrupt where an empty database has lost what it held.

        `folders`: where copies are besides the usual place.
        """

    @abstractmethod
    async def last(self) -> Record | None:
        """Read the record that the last leader left."""

    @abstractmethod
    async def leave(self, record: Record | None) -> None:
        """Replace the record, whole or not at all; an `at` of 0 becomes now.

        Raises what writing raises.
        """

    async def declare(self, declared: Sequence[Declaration]) -> None:
        """Replace what the database declares, as `leave` does; none removes it."""

    async def keep_checksums(self, checksums: Checksums) -> None:
        """Replace the checksums of the applied revisions, as `leave` does."""

    async def recover(self) -> str | None:
        """Finish or undo what a killed leader began; return what was done, None for nothing."""
        return None

    async def undo_creation(self) -> bool:
        """Remove the database that this process has created, and what goes with it.

        Returns whether it is gone: one that is not proved to be empty, and this process's, stays.
        """
        return False

    async def forget_repairs(self) -> None:
        """Count the repairs of an open journal anew."""

    async def close_journal(self) -> None:
        """Forget the journal of this run: its snapshot will not be put back any more."""
