"""What one kind of database can do; no other module asks which database it is."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from automigrator.backends.access import Access
from automigrator.backends.contract.examiner import Examiner
from automigrator.backends.contract.lock import Hold
from automigrator.backends.contract.sides import Side
from automigrator.backends.contract.snapshots import Copying, Snapshot
from automigrator.backends.contract.values import Sight, VersionTable
from automigrator.failure import FailureKind


class Backend(Protocol):
    """One kind of database: how to look, create, lock, classify, snapshot, restore and replace.

    Snapshots, sides and replacements are made under the lock alone, and raise RefusedError before
    anything changes when they cannot be made safely. A `stamp` is 1 to 28 letters and digits.
    """

    name: str
    access: Access
    in_place: bool
    """Whether the database lives in the application's own connection alone."""

    async def look(self, tables: Sequence[VersionTable]) -> Sight:
        """Read the heads; an absent database is an answer, not created."""

    async def glimpse(self, table: VersionTable) -> tuple[str, ...] | None:
        """The heads without a new connection; None where only `look` can tell."""

    async def create(self) -> bool:
        """Create the database; False when it was there already."""

    def engine(self) -> AsyncEngine:
        """An engine of our own; give it back with `release`."""

    async def release(self, engine: AsyncEngine) -> None: ...

    def lock(
        self,
        tables: Sequence[VersionTable],
        timeout_s: float,
        waiting: Callable[[float, str], None],
    ) -> AbstractAsyncContextManager[Hold]:
        """Hold the target's migration lock.

        `waiting` gets the seconds so far, who leads and how far it is. Raises LockTimeoutError.
        """

    def identity(self, connection: Connection) -> Hashable:
        """Which database a connection leads to, comparable between connections."""

    def session_state(self, connection: Connection) -> Hashable:
        """What an env.py may have set on a connection before it hands it over."""

    def adopt(self, connection: Connection, *, to_write: bool = True) -> Callable[[], None]:
        """Make the transactions of a connection real, in place; returns the call that undoes it.

        Unless they are `to_write`, they are in nobody's way, and nobody is in theirs.
        """

    def limit_statements(self, connection: Connection, seconds: float) -> Callable[[], None] | None:
        """Let the server end each statement after so long, where one that is set is not shorter.

        Returns the call that undoes it, None where there is no server to.
        """

    def watching_for_blockers(self) -> AbstractAsyncContextManager[Callable[[], tuple[str, ...]]]:
        """Look meanwhile who holds what the migration waits for; the call says who did."""

    def resolve(self, connection: Connection, table: VersionTable) -> VersionTable:
        """The version table with the schema that this connection would find it in."""

    def interrupter(self, connection: Connection) -> Callable[[], None] | None:
        """A thread-safe call that interrupts the statement running on the connection."""

    def configure_options(self) -> dict[str, Any]:
        """What `context.configure` is given where env.py does not say."""

    def classify(self, error: BaseException) -> FailureKind | None:
        """The kind of failure by the driver's own codes; None when they do not say."""

    def advise(self, error: BaseException) -> str:
        """What to do about it, where the codes say more than the kind; else empty."""

    async def debris(self) -> tuple[str, ...]:
        """What half a revision left behind."""

    async def recover(self, tables: Sequence[VersionTable]) -> str | None:
        """Finish or undo what a dead leader left; says what was done."""

    def examiner(self, tables: Sequence[VersionTable]) -> Examiner:
        """For a close look at the target; nothing is connected until it is asked."""

    def unfinished(self) -> bool:
        """Whether a dead leader left a journal on this machine; a stat, no more."""

    async def snapshot(
        self,
        stamp: str,
        heads: tuple[str, ...],
        wanted: tuple[str, ...],
        tables: Sequence[VersionTable],
        *,
        atomic: bool = False,
        folder: Path | None = None,
        disconnect_others: bool = False,
        how: Copying = "auto",
        binaries: Path | None = None,
    ) -> Snapshot:
        """Copy the whole target and verify the copy; what kills a process from here to `close`
        is undone by the next start's `recover`, unless it finds the database at `wanted`.

        `atomic` says that the migration to come is one transaction: what has changed at the old
        heads after a kill is then nobody's but the application's. `how` and `binaries`, where
        client programs are, matter to PostgreSQL alone."""

    async def restore(self, snapshot: Snapshot, *, disconnect_others: bool = False) -> str | None:
        """Put the snapshot's data back; the snapshot stays. Says where the data is kept that was
        replaced, unless it is proved that nobody but the migration has written to it."""

    async def close(self) -> None:
        """The target's part of the run is over: forget the journal."""

    async def prune(
        self, keep: int | None, *, max_age: timedelta | None = None, folder: Path | None = None
    ) -> tuple[str, ...]:
        """Delete the snapshots of this target beyond the limits (see `Limits`), but never this
        run's own or the last good one; returns what was deleted. What restores have replaced goes
        with the same limits where it is always kept."""

    async def prune_set_aside(
        self, keep: int | None, *, max_age: timedelta | None = None
    ) -> tuple[str, ...]:
        """The same for the old databases that `take_over` has set aside."""

    async def ensure_replaceable(self, tables: Sequence[VersionTable]) -> None:
        """Raise RefusedError where no side may take the target's place: it shares its database."""

    def side(self, stamp: str) -> AbstractAsyncContextManager[Side]:
        """A fresh, empty database beside the target; removed at exit unless it took its place."""

    def copied_side(
        self,
        stamp: str,
        *,
        disconnect_others: bool = False,
        how: Copying = "auto",
        binaries: Path | None = None,
    ) -> AbstractAsyncContextManager[Side]:
        """The same with all that the target holds, as of one moment; others may go on writing to
        the target. It never takes its place. The options are those of `snapshot`."""

    async def take_over(
        self,
        side: Side,
        stamp: str,
        tables: Sequence[VersionTable],
        *,
        set_aside: bool = True,
        disconnect_others: bool = False,
    ) -> str | None:
        """Put the side database in the target's place; says where the old data was set aside."""

    async def refresh(self) -> None:
        """Let the application's pool forget what the migration made stale."""
