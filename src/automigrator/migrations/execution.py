"""What one execution of an env.py is asked for, and the record of what it did."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Hashable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import MetaData
from sqlalchemy.engine import Connection

from automigrator.backends.contract.backend import Backend, Weaker
from automigrator.backends.contract.lock import Hold
from automigrator.backends.contract.values import Place, StatementProgress, VersionTable
from automigrator.errors import UnknownRevisionError
from automigrator.frozen import Frozen
from automigrator.migrations.history import History
from automigrator.migrations.observation import Observation
from automigrator.target import Target

if TYPE_CHECKING:
    from automigrator.migrations.statement_meter import StatementMeter


class Stopped(BaseException):
    """Ends an upgrade between two revisions after a cancellation; env.py must not swallow it."""


class WayDiffersError(BaseException):
    """Raised where env.py does not what it was expected to do, before anything was changed.

    env.py must not swallow it.
    """


class Migration(NamedTuple):
    """A history, and the database to bring along it: the target's own, or one on the side."""

    target: Target
    backend: Backend
    history: History
    place: Place
    hold: Hold | None = None
    """The target's lock; a look may be without."""


@dataclass(slots=True, eq=False, repr=False)
class Configured:
    """The result of one `context.configure` of env.py."""

    table: VersionTable
    driver: str = ""
    """SQLAlchemy's names of the dialect and the driver."""
    heads: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()
    one_transaction: bool = True
    open_before: bool = False
    """Whether env.py had begun a transaction; Alembic leaves its commit to env.py then."""
    models: tuple[MetaData, ...] = ()
    """env.py's `target_metadata`."""
    ran: bool = False
    led_apart: Callable[[], str] | None = None
    """See `Sessions.led_apart`."""
    ahead: UnknownRevisionError | None = None
    """Names those of `heads` that are in no file; nothing is known to be pending then."""


def _nothing(*_: object) -> None:
    pass


class Command(NamedTuple):
    """What env.py is run for; without `apply` it only looks."""

    revision: str
    apply: bool = False
    down: bool = False
    started: Callable[[str, int, int], None] = _nothing
    """Called for each revision, on the event loop, with its number and how many there are."""
    done: Callable[[str, float], None] = _nothing
    """Called for each revision, on the event loop, with the seconds that it took."""
    progress: Callable[[StatementProgress], None] = _nothing
    """Called now and then while a statement takes long, where the server says how far it is."""
    compare: Callable[[MigrationContext], None] | None = None
    """Called for each context that env.py configures, when nothing is applied."""
    expected: Configured | None = None
    """What it must configure, and nothing else; None where that was asked for before.

    Without a driver nothing is expected of its driver and transactions: they are observed.
    """
    agreed: Callable[[Configured], None] = _nothing
    """Called on the event loop with what it configured, where that is what was expected."""
    deferred: Collection[str] = ()
    """Revisions that are not run, and neither is what comes after the first of them."""


class Request(Frozen):
    """A command, the database that it is for, and how env.py's thread is watched."""

    migration: Migration
    command: Command
    config: Config
    connection: Connection | None
    """Ours, which env.py may take; None where it is to migrate on one of its own."""
    identity: Hashable
    weaker: Weaker
    """Says in what a connection proves less of the server than the application's."""
    loop: asyncio.AbstractEventLoop
    """The application's."""
    check: Callable[[], None]
    """Raises Stopped when nothing more may run."""
    stop: Callable[[], bool]
    tell: Callable[..., object]
    """Has a call made on the event loop, soon."""
    follow: Callable[[Connection], Callable[[], None]]
    """Watches a connection's statements, and lets them be interrupted; returns the undoing."""
    confirm: Callable[[str], None]
    """Reports the progress to the lock; raises LockLostError when it is no longer held."""
    began: Callable[[Connection], None]
    """Notes in the journal the transaction in which a revision runs."""
    committing: Callable[[], None]
    """Notes in the journal that a revision is about to commit."""


@dataclass(slots=True, eq=False, repr=False)
class Execution:
    """The record of what env.py did; `current` is the revision that ran when `error` arose."""

    contexts: list[Configured] = field(default_factory=list)
    current: str | None = None
    done: dict[str, float] = field(default_factory=dict)
    """The revisions that ran, in order, and the seconds that each took."""
    error: BaseException | None = None
    began: float | None = None
    """When `current` began, on the monotonic clock; None between revisions."""
    position: str = ""
    """How far it is, for those who wait: as in "3/7 r3"."""
    statement: str | None = None
    """The last one that a revision ran, without its parameters."""
    statement_since: float | None = None
    stopped: bool = False
    """Whether a revision was told to end: its further statements clean up."""
    interrupts: list[Callable[[], None]] = field(default_factory=list)
    """Each ends the statement that runs on a connection."""
    cancel: Callable[[], None] | None = None
    """Cancels what is awaited on the loop; for what no interrupt ends."""
    undo: ExitStack = field(default_factory=ExitStack)
    observed: Observation = field(default_factory=Observation)
    measuring: StatementMeter | None = None
    """What measures each statement; None where nothing is to be measured."""

    def begin_anew(self) -> None:
        """Forget what was rolled back; what was committed is not run again."""
        self.contexts.clear()
        self.interrupts.clear()
        self.current = self.error = self.began = self.cancel = None
        self.statement = self.statement_since = None
        self.stopped = False
        self.observed.forget_errors()
        if self.measuring is not None:
            self.measuring.begin_anew()

    @property
    def met_a_revision(self) -> bool:
        """Whether env.py came as far as a revision; with revisions done, as far as their commit."""
        return bool(self.current or self.error or self.done)


_LEFT_OPEN = (
    "; env.py had begun a transaction before it called context.configure, and Alembic leaves the "
    "commit of such a one to env.py: commit what comes before, or commit at the end"
)


def left_open(contexts: Iterable[Configured]) -> str:
    """What to add where env.py returned without an error and nothing was committed."""
    return _LEFT_OPEN if any(each.open_before for each in contexts) else ""
