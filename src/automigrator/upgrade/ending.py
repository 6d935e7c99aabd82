"""How an env.py that runs comes to its end: by itself, cancelled, overdue, or without the lock."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from automigrator.databases.access import NoAnswerError
from automigrator.databases.backend import Backend, VersionTable
from automigrator.saying import first_line
from automigrator.threads import in_thread
from automigrator.upgrade.environment import Execution, Stopped
from automigrator.upgrade.process import _inside_env
from automigrator.upgrade.watching import Watch

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
            if backend.classify(error) == "unreachable":
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
