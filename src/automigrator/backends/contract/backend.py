"""What one kind of database can do; no other module asks which database it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from automigrator.backends.access import Access, connected
from automigrator.backends.pools import CLOSE_S, emptied
from automigrator.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Hashable
    from pathlib import Path

    from sqlalchemy import URL, Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

    from automigrator.backends.contract.checksums import Checksums
    from automigrator.backends.contract.examiner import Examiner
    from automigrator.backends.contract.lock import Hold
    from automigrator.backends.contract.meter import Meter, Relations, Usage
    from automigrator.backends.contract.sessions import Sessions
    from automigrator.backends.contract.snapshots import Snapshot
    from automigrator.backends.contract.templates import Templates
    from automigrator.backends.contract.values import Place, Sight, Verdict, VersionTable
    from automigrator.failure import FailureKind

Offer = Literal["snapshots", "sides", "examiner"]
Waiting = Callable[[float, str], None]
"""Gets the seconds waited so far, and who holds the lock and how far it is."""
Weaker = Callable[[Mapping[str, Any] | None, str], str]
"""Gets what a driver is given to connect with, None for a creator's, and the driver's name."""


class Backend(ABC):
    """One kind of database; its methods name no strategy and decide nothing.

    A backend implements `look`, `create`, `lock`, `classify` and its `sessions`; `offers` names
    the parts it has besides: `"snapshots"` and `"sides"` of what `lock` yields, `"examiner"`.
    """

    name: ClassVar[str]
    """SQLAlchemy's name of the dialect."""
    transactional_ddl: ClassVar[bool] = True
    """Whether a rollback undoes a CREATE TABLE."""
    offers: ClassVar[frozenset[Offer]] = frozenset()
    advice: ClassVar[Mapping[FailureKind, str]] = {}
    """What to do about a kind of failure, where the general advice is about another database."""

    in_place: bool = False
    """Whether the database lives in the application's own connection alone."""
    sessions: Sessions

    def __init__(self, access: Access) -> None:
        self.access = access

    @abstractmethod
    async def look(self, tables: Sequence[VersionTable], *, heads_only: bool = False) -> Sight:
        """Read the heads without the lock; an absent database is an answer, and stays absent.

        `heads_only`: as cheaply as possible, an idle connection of the application's will do;
        `has_tables` and `writable` need not be right then.
        """

    @property
    def together(self) -> Hashable:
        """Equal for targets whose heads `heads_of` reads together; None where it reads its own."""
        return None

    async def heads_of(
        self, targets: Sequence[tuple[Backend, VersionTable]]
    ) -> list[tuple[str, ...] | None]:
        """Read the heads of targets that are `together`, as a look at `heads_only` does.

        None for each of which only a look can tell more. Raises what reading raises.
        """
        sights = [await each.look([table], heads_only=True) for each, table in targets]
        return [None if each.unfinished else each.all_heads() for each in sights]

    @abstractmethod
    async def create(self) -> bool:
        """Create the database; return False when it was there already."""

    @abstractmethod
    def lock(
        self, tables: Sequence[VersionTable], timeout_s: float, waiting: Waiting
    ) -> AbstractAsyncContextManager[Hold]:
        """Context manager: hold the target's migration lock.

        `tables`: the target's version tables, as far as they are known. `timeout_s`: seconds.
        `waiting` is called now and then meanwhile. Raises LockTimeoutError.
        """

    @abstractmethod
    def classify(self, error: BaseException) -> Verdict:
        """Say what kind of failure an error is, by the driver's own codes, and what to do."""

    def engine(self) -> AsyncEngine:
        """Make an engine of our own, as the application connects; give it back with `release`."""
        return self.access.engine()

    def url_for(self, url: URL, drivername: str, own: URL | None = None) -> URL:
        """Name the same place for another driver. Raises ConfigurationError where it cannot be.

        `own`: the URL of the configuration. Options of a session that it has, and that do not say
        which database is meant, belong into the answer.
        """
        return url.set(drivername=drivername)

    async def proving(self) -> Weaker:
        """Return what says in what a connection of env.py's own proves less of the server.

        Less than the application's: of who it is, and that nobody reads along. An empty text means
        that nothing is missing; else the connection is not made, or not used.
        """
        return lambda arguments, driver: ""

    async def identity(self, place: Place) -> Hashable:
        """Say which database a place is; see `Sessions.identity`."""

        def ask(connection: Connection) -> Hashable:
            found = self.sessions.identity(connection)
            connection.rollback()
            return found

        async with connected(place.engine, self.access.connect_timeout) as connection:
            return await connection.run_sync(ask)

    async def release(self, engine: AsyncEngine) -> None:
        """Close what an engine of ours has open."""
        await emptied(engine, CLOSE_S)

    async def checksums(self, tables: Sequence[VersionTable]) -> Checksums | None:
        """Read the checksums of applied revisions, without the lock; None where none are kept."""
        return None

    async def debris(self) -> tuple[str, ...]:
        """Name what half a revision left behind."""
        return ()

    def examiner(self, tables: Sequence[VersionTable]) -> Examiner | None:
        """Return what looks closely at the target; None where the backend offers no such look."""
        return None

    def templates(self) -> Templates | None:
        """Return what new databases are copied of; None where the backend offers no copies."""
        return None

    async def snapshots(
        self, tables: Sequence[VersionTable], folders: Sequence[Path] = ()
    ) -> tuple[Snapshot, ...]:
        """List the target's copies that are ours, newest first, without the lock.

        `folders`: where they may be besides the usual place. Raises RefusedError.
        """
        raise RefusedError(f"the backend of {self.name} lists no snapshots; nothing was changed")

    def metering(self, place: Place) -> AbstractAsyncContextManager[Meter | None]:
        """Context manager: measure a copy of the target while revisions run on it; None: cannot."""
        return nullcontext()

    async def usage(self, tables: Relations = None) -> Usage | None:
        """Say how the target is used; None where nothing tells that.

        `tables`: of those alone, and then with their sizes.
        """
        return None

    async def refresh(self) -> None:
        """Let the application's pool forget what a migration made stale."""
