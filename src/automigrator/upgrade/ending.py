"""How an env.py that runs comes to its end: by itself, cancelled, overdue, or without the lock."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from automigrator.databases.holding import Hold
from automigrator.threads import in_thread
from automigrator.upgrade.environment import Execution, Stopped
from automigrator.upgrade.process import _inside_env
from automigrator.upgrade.watching import Watch

INTERRUPT_PAUSES_S = (0.4, 0.2, 2.0)
"""Between interrupts: the first may fall between two statements; a coroutine is then cancelled."""


async def to_its_end(work: Any, watch: Watch, hold: Hold | None) -> None:
    """Await `work`; when cancelled, interrupt its statement, wait until it has rolled back.

    The same when a limit is reached, and when the lock is lost. Raises JudgedError and
    LockLostError then.
    """
    task = asyncio.ensure_future(work)
    losing = asyncio.ensure_future(hold.until_lost()) if hold is not None else None
    overdue = asyncio.ensure_future(watch.until_overdue())
    reasons = {each for each in (losing, overdue) if each is not None}
    try:
        await asyncio.wait({task, *reasons}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            watch.stopping.set()
            if await _ended(task, watch.execution):
                raise asyncio.CancelledError
            failed = task.cancelled() or task.exception() is not None
            if losing is not None and losing.done():
                await losing
            if failed:
                await overdue
        await asyncio.shield(task)
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
