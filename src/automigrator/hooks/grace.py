"""How a hook ends that is cancelled: soon, or it is given up; an act on the database is neither."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from automigrator.errors import RefusedError
from automigrator.threads import in_thread

logger = logging.getLogger(__name__)

T = TypeVar("T")

GRACE_S = 2.0
"""Seconds that an in-house hook has to end after its cancellation."""

_TICK_S = 0.1


@dataclass(slots=True, eq=False)
class Call:
    """One call of a hook: how many acts on the database it is in, and whether it is to end."""

    acts: int = 0
    cancelled: bool = False
    given_up: bool = False


class Overdue(Exception):
    """Raised when a call exceeded its deadline; `given_up` says that it still runs."""

    def __init__(self, *, given_up: bool) -> None:
        super().__init__()
        self.given_up = given_up


_current: ContextVar[Call | None] = ContextVar("automigrator_call", default=None)


@contextmanager
def acting(act: str) -> Iterator[None]:
    """Within, the hook that runs here is not given up. Raises RefusedError when it is to end."""
    call = _current.get()
    if call is None:
        yield
        return
    if call.cancelled:
        raise RefusedError(f"cannot {act}: the hook was told to end; nothing was changed")
    call.acts += 1
    try:
        yield
    finally:
        call.acts -= 1


async def called(
    name: str,
    work: Coroutine[Any, Any, T],
    deadline_s: float | None,
    grace_s: float | None,
    given_up: Callable[[], object],
) -> T:
    """Await a hook's work, for at most `deadline_s` seconds.

    When it is overdue, or the caller is cancelled, the work is cancelled, and awaited for
    `grace_s` seconds more; then it is left behind, and `given_up` told. None waits as long as it
    takes. Raises Overdue, the error of the work behind it, and what the work raises.
    """
    call = Call()
    token = _current.set(call)
    task = asyncio.create_task(work)
    _current.reset(token)
    try:
        await asyncio.wait({task}, timeout=deadline_s)
    except asyncio.CancelledError:
        await _ended(task, call, grace_s, given_up)
        ended = task.done() and not task.cancelled() and task.exception() is None
        if call.cancelled and ended:  # one that was done already has swallowed nothing
            logger.warning("%s swallowed its CancelledError; the run ends all the same", name)
        raise
    if task.done():
        return task.result()
    if await _ended(task, call, grace_s, given_up):
        raise asyncio.CancelledError
    failed = task.done() and not task.cancelled() and task.exception()
    raise Overdue(given_up=call.given_up) from failed or None


async def in_thread_to_its_end(function: Callable[[], T]) -> T:
    """Run in a thread, which cannot be cancelled; only a second cancellation leaves it behind."""
    thread = asyncio.ensure_future(in_thread(function))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        if not thread.done():
            await asyncio.wait({thread})
        if not thread.cancelled():
            thread.exception()  # retrieved, or asyncio complains about it
        raise


async def _ended(
    task: asyncio.Task[Any], call: Call, grace_s: float | None, given_up: Callable[[], object]
) -> bool:
    """Cancel a hook's task and wait for it; returns whether the caller was cancelled meanwhile."""
    call.cancelled, cancelled, left_s = task.cancel(), False, grace_s
    while not task.done() and (left_s is None or left_s > 0):
        began, acts = time.monotonic(), call.acts > 0
        try:
            await asyncio.wait({task}, timeout=_TICK_S)
        except asyncio.CancelledError:
            cancelled = True
        if left_s is not None and not acts:
            left_s -= time.monotonic() - began
    if task.done():
        _retrieved(task)
    else:
        call.given_up = True
        task.add_done_callback(_retrieved)
        task.cancel()
        given_up()
    return cancelled


def _retrieved(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # or asyncio complains about it where nobody awaits any more
