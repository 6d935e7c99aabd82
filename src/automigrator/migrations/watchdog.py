"""The statements of a revision, watched: which one runs for how long, and when none may begin."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import event
from sqlalchemy.engine import Connection

from automigrator.backends.contract.backend import Backend
from automigrator.backends.contract.values import VersionTable
from automigrator.errors import JudgedError, NoAnswerError
from automigrator.migrations.environment import Execution, Stopped
from automigrator.migrations.isolation import _inside_env
from automigrator.support.concurrency import in_thread
from automigrator.support.redaction import first_line

TICK_S = 0.05

_ADVICE = "raise the limit that the message names, or split the revision"


@dataclass(slots=True)
class Watch:
    """One drive of an env.py: whether it is to stop, and its limits in seconds."""

    execution: Execution
    statement_s: float | None = None
    """None where there is no limit, or the server itself keeps it."""
    revision_s: float | None = None
    what: str = "revision"
    """What is watched, before its name; bootstrap has none besides."""
    stopping: threading.Event = field(default_factory=threading.Event)
    reached: BaseException | None = None
    """The limit that was reached, or the cancellation: why it was told to stop."""

    def check(self) -> None:
        """Raise Stopped when nothing more may run; what cleans up after that is let through."""
        execution = self.execution
        if execution.current is None or execution.stopped:
            return
        if self.stopping.is_set() or self._revision_overdue():
            execution.stopped = True
            self.reached = self.reached or self.overdue()
            raise Stopped

    def overdue(self) -> JudgedError | None:
        """The limit that has been reached, and in which statement of which revision."""
        execution = self.execution
        if self._revision_overdue():
            name, limit, what = "revision_timeout", self.revision_s, f"{self._named} ran"
        elif (
            self.statement_s is not None
            and execution.statement_since is not None
            and time.monotonic() - execution.statement_since > self.statement_s
        ):
            name, limit = "statement_timeout", self.statement_s
            what = f"{self._named}: a statement ran"
        else:
            return None
        where = "in a statement" if execution.statement_since is not None else "between statements"
        return JudgedError(
            "timeout",
            f"{what} for longer than {name}={limit:g} s, and was stopped {where}",
            _ADVICE,
            execution.statement,
        )

    async def until_overdue(self) -> None:
        """Wait until a limit is reached. Raises what `overdue` returns then."""
        while True:
            await asyncio.sleep(TICK_S)
            if (error := self.overdue()) is not None:
                self.reached = error
                raise error

    def follow(self, connection: Connection) -> Callable[[], None]:
        """Watch the statements of a connection; returns the undoing."""
        execution = self.execution

        def before(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
            self.check()
            execution.statement, execution.statement_since = statement, time.monotonic()

        def after(*_: Any) -> None:
            execution.statement_since = None

        # one that failed is followed by neither, but a rollback
        endings = ("after_cursor_execute", "rollback", "rollback_savepoint")
        listeners = [("before_cursor_execute", before), *((name, after) for name in endings)]
        for name, listener in listeners:
            event.listen(connection, name, listener)

        def undo() -> None:
            for name, listener in listeners:
                event.remove(connection, name, listener)

        return undo

    @property
    def _named(self) -> str:
        current = self.execution.current
        return self.what if current == self.what else f"{self.what} {current}"

    def _revision_overdue(self) -> bool:
        began = self.execution.began
        return (
            self.revision_s is not None
            and self.execution.current is not None
            and began is not None
            and time.monotonic() - began > self.revision_s
        )


T = TypeVar("T")

logger = logging.getLogger(__name__)

INTERRUPT_PAUSES_S = (0.4, 0.2, 2.0)

"""Between interrupts: the first may fall between two statements; a coroutine is then cancelled."""


async def to_its_end(
    work: Awaitable[T], watch: Watch, until_lost: Callable[[], Coroutine[Any, Any, None]]
) -> T:
    """Await `work`; when cancelled, interrupt its statement, wait until it has rolled back.

    The same when a limit is reached, and when `until_lost` raises: the lock is lost, or the server
    out of reach. Raises JudgedError, and what that raises, then.
    """
    task = asyncio.ensure_future(work)
    losing = asyncio.create_task(until_lost())
    overdue = asyncio.ensure_future(watch.until_overdue())
    reasons = {losing, overdue}
    try:
        await asyncio.wait({task, *reasons}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            watch.stopping.set()
            if await _ended(task, watch.execution):
                raise asyncio.CancelledError
            failed = task.cancelled() or task.exception() is not None
            if losing.done():
                await losing
            if failed:
                await overdue
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        watch.stopping.set()
        watch.reached = asyncio.CancelledError()
        await _ended(task, watch.execution)
        if not task.cancelled():
            task.exception()
        raise
    except Stopped:
        raise watch.reached or watch.overdue() or asyncio.CancelledError from None
    finally:
        for reason in reasons:
            if not reason.cancel() and not reason.cancelled():
                reason.exception()  # retrieved, or asyncio complains about it


async def until_out_of_reach(backend: Backend, limit_s: float) -> None:
    """Wait until the database no longer answers a look. Raises NoAnswerError then."""
    if backend.in_place:
        await asyncio.Event().wait()  # who asks beside the one connection is in its way
    while True:
        await asyncio.sleep(limit_s / 4)
        try:
            await backend.look([VersionTable()])
        except Exception as error:
            if backend.classify(error).kind == "unreachable":
                raise NoAnswerError(
                    f"the database went out of reach: {first_line(error)}"
                ) from error
            logger.debug("looking besides: %s", type(error).__name__)


async def _ended(task: asyncio.Future[Any], execution: Execution) -> bool:
    """End `task`, whatever is cancelled meanwhile: it must not go on without the lock.

    Returns whether anything was.
    """
    cancelled = False
    pauses = itertools.chain(INTERRUPT_PAUSES_S, itertools.repeat(INTERRUPT_PAUSES_S[-1]))
    for number, pause in enumerate(pauses):
        if task.done():
            break
        if number == len(INTERRUPT_PAUSES_S) - 1 and not _inside_env.get() and _is_greenlet(task):
            task.cancel()  # last: SQLite is not rolled back by who is cut off amid a statement
        else:
            for interrupt in execution.interrupts:
                interrupt()
        try:
            await asyncio.wait({task}, timeout=pause)
        except asyncio.CancelledError:
            cancelled = True
    return cancelled


def _is_greenlet(task: asyncio.Future[Any]) -> bool:
    """A thread cannot be cancelled; it stops by itself at the next revision."""
    coroutine = getattr(task, "get_coro", lambda: None)()
    return getattr(coroutine, "__name__", "") != in_thread.__name__
