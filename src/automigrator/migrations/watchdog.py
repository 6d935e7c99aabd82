"""Watches the statements of a revision: how long each runs, and when none may begin any more."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import event
from sqlalchemy.engine import Connection

from automigrator.backends.contract.backend import Backend
from automigrator.backends.contract.lock import Hold
from automigrator.backends.contract.values import StatementProgress, VersionTable
from automigrator.errors import JudgedError, NoAnswerError
from automigrator.migrations.attachment import make_interruptible
from automigrator.migrations.execution import Execution, Stopped
from automigrator.migrations.runs.inside import NeedsToBeAlone
from automigrator.support.concurrency import beside
from automigrator.support.loggers import logger_of
from automigrator.support.redaction import first_line
from automigrator.target import Target

logger = logger_of(__name__)

T = TypeVar("T")

TICK_S = 0.05

PROGRESS_S = 3.0
"""Seconds after which a statement takes long, and between two questions how far it is."""

INTERRUPT_PAUSES_S = (0.4, 0.2, 2.0)

"""Between interrupts: the first may fall between two statements; a coroutine is then cancelled."""

_ADVICE = "raise the limit that the message names, or split the revision"


@dataclass(slots=True, eq=False, repr=False)
class Watch:
    """One execution of an env.py, or of a `bootstrap`: whether it is to stop, and its limits."""

    target: Target
    backend: Backend
    hold: Hold | None
    execution: Execution
    what: str = "revision"
    """The word before a revision's name; `bootstrap` has no name besides."""
    progress: Callable[[StatementProgress], None] | None = None
    """Called with what the server says of a statement that takes long."""
    stopping: threading.Event = field(default_factory=threading.Event)
    reached: BaseException | None = None
    """Why it was told to stop: the limit that was reached, or the cancellation."""
    limited_by_server: bool = False
    """Whether the server itself ends a statement that takes too long."""
    untold: deque[Callable[[], object]] = field(default_factory=deque)
    """Calls that env.py's thread leaves to the loop; to wake it for each costs both much time."""

    async def await_end(self, work: Awaitable[T], *, cancellable: bool = False) -> T:
        """Await `work`; when it has to end early, interrupt its statements until it has.

        That is when the caller is cancelled, a limit is reached, the lock is lost or, without a
        lock, the server is out of reach. Raises CancelledError, JudgedError, LockLostError or
        NoAnswerError then. `cancellable`: the work may be cancelled; a thread may not.
        """
        cancelled, interrupts = asyncio.Event(), itertools.count(1)
        last_s = INTERRUPT_PAUSES_S[-1]

        def cancel(task: asyncio.Future[T]) -> None:
            self.reached = asyncio.CancelledError()
            cancelled.set()

        def end(task: asyncio.Future[T]) -> None:
            self.stopping.set()
            calls: list[Callable[[], object]] = [*self.execution.interrupts]
            cancel = task.cancel if cancellable else self.execution.cancel
            if next(interrupts) == len(INTERRUPT_PAUSES_S) and cancel is not None:
                # last: SQLite does not roll back a statement that is cut off
                calls = [cancel]
            for call in calls:
                with suppress(Exception):  # the connection may be closed by now
                    call()

        try:
            return await beside(
                work,
                self._until_overdue(),
                self.hold.until_lost() if self.hold is not None else self._until_out_of_reach(),
                cancelled.wait(),
                self._tell_progress(),
                end=end,
                pauses=itertools.chain(INTERRUPT_PAUSES_S, itertools.repeat(last_s)),
                on_cancel=cancel,
            )
        except (Exception, asyncio.CancelledError, Stopped, NeedsToBeAlone) as error:
            # work that was told to end may fail while it cleans up
            if self.reached is None:
                raise
            raise self.reached from error if isinstance(error, Exception) else None
        finally:
            self._tell()

    def tell(self, call: Callable[..., object], *arguments: object) -> None:
        """Have a call made on the loop at its next tick, or when the work ends."""
        self.untold.append(partial(call, *arguments))

    def _tell(self) -> None:
        while self.untold:
            self.untold.popleft()()

    def check(self) -> None:
        """Raise Stopped when nothing more may run; what cleans up after that is let through."""
        execution = self.execution
        if execution.current is None or execution.stopped:
            return
        if self.stopping.is_set() or _passed(execution.began, self.target.revision_timeout):
            execution.stopped = True
            self.reached = self.reached or self.overdue()
            raise Stopped

    def overdue(self) -> JudgedError | None:
        """The limit that has been reached, and in which statement of which revision."""
        execution = self.execution
        current = execution.current
        named = self.what if current == self.what else f"{self.what} {current}"
        revision_s, statement_s = (
            self.target.revision_timeout,
            self.target.statement_timeout or None,
        )
        if _passed(execution.began, revision_s):
            name, limit = "revision", revision_s
            what = f"{named} ran"
        elif not self.limited_by_server and _passed(execution.statement_since, statement_s):
            name, limit = "statement", statement_s
            what = f"{named}: a statement ran"
        else:
            return None
        where = "in a statement" if execution.statement_since is not None else "between statements"
        return JudgedError(
            "timeout",
            f"{what} for longer than Timeouts({name}={limit:g}), and was stopped {where}",
            _ADVICE,
            execution.statement,
        )

    async def _until_overdue(self) -> None:
        """Wait until a limit is reached, and keep it as `reached`."""
        while self.reached is None:
            await asyncio.sleep(TICK_S)
            self._tell()
            self.reached = self.reached or self.overdue()

    async def _tell_progress(self) -> None:
        """Tell those who wait which revision runs, and how far a long statement is; never ends."""
        hold, progress, told = self.hold, self.progress, ""
        try:
            while hold is not None and progress is not None:
                await asyncio.sleep(PROGRESS_S)
                if self.execution.position != told:
                    told = self.execution.position
                    await hold.confirm(told)
                if _passed(self.execution.statement_since, PROGRESS_S):
                    found = await hold.progress()
                    if found is not None:
                        progress(found)
        except Exception as error:  # noqa: BLE001 - a lost lock is noticed where it is watched
            logger.debug("how far the statement is: %s", first_line(error))
        await asyncio.Event().wait()

    async def _until_out_of_reach(self) -> None:
        """Wait until the database no longer answers a look. Raises NoAnswerError then."""
        if self.backend.in_place:
            await asyncio.Event().wait()  # a look would be in the way of the one connection
        while True:
            await asyncio.sleep(self.target.connect_timeout / 4)
            try:
                await self.backend.look([VersionTable()])
            except Exception as error:
                if self.backend.classify(error).kind == "unreachable":
                    raise NoAnswerError(
                        f"the database went out of reach: {first_line(error)}"
                    ) from error
                logger.debug("a look beside the migration: %s", type(error).__name__)

    def follow(self, connection: Connection, *, by_server: bool = False) -> Callable[[], None]:
        """Watch the statements of a connection, which can be interrupted from now on.

        With `by_server`, the server limits them where it can. Returns what undoes the watching.
        """
        execution, undo = self.execution, ExitStack()
        make_interruptible(self.backend, execution, connection)
        seconds = self.target.statement_timeout
        if by_server and seconds is not None:
            unlimited = self.backend.sessions.limit_statements(connection, seconds)
            if unlimited is not None:
                self.limited_by_server = True
                undo.callback(unlimited)
        # last, and so the first to end: what sets the session back is no revision's
        undo.callback(execution.observed.follow(self.backend, connection))

        def before(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
            self.check()
            execution.statement, execution.statement_since = statement, time.monotonic()

        def after(*_: Any) -> None:
            execution.statement_since = None

        # after a statement that failed there is a rollback only
        endings = ("after_cursor_execute", "rollback", "rollback_savepoint")
        for name, listener in (("before_cursor_execute", before), *((e, after) for e in endings)):
            event.listen(connection, name, listener)
            undo.callback(event.remove, connection, name, listener)
        return undo.close


def _passed(since: float | None, limit_s: float | None) -> bool:
    """Whether a time limit is over for what began at `since`, on the monotonic clock."""
    return since is not None and limit_s is not None and time.monotonic() - since > limit_s
