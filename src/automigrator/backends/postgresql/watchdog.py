"""A server that falls silent: how long to wait for it, and what it was asked for."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from automigrator.errors import NoAnswerError
from automigrator.support.concurrency import background, beside, started, within

T = TypeVar("T")

SILENT_S = 60.0
"""Seconds after which a server is given up that says nothing amid a migration."""

CUT_S = 0.5
"""Seconds between two cuts of a connection to a silent server."""

_AGAIN_S = 0.5


def answering(limit_s: float, what: str) -> AbstractAsyncContextManager[None]:
    """Context manager: ask what a server answers at once. Raises NoAnswerError when it does not."""
    return within(limit_s, lambda: silent(limit_s, what))


async def severing(
    work: Awaitable[T],
    silence: Awaitable[object],
    cut: Callable[[], bool],
    limit_s: float,
    what: str,
) -> T:
    """Await `work`; when `silence` is over first, cut the connections that `work` waits for.

    `cut` does so, again and again until `work` has ended, and says whether it did. A cancellation
    is passed on to `work`, and `work` is awaited. Raises NoAnswerError, and what `work` raises.
    """
    severed = False

    def end(_: object) -> None:
        nonlocal severed
        severed = cut() or severed

    try:
        return await beside(work, silence, end=end, pauses=itertools.repeat(CUT_S))
    except Exception as error:
        if not severed:
            raise
        raise silent(limit_s, what) from error


def silent(limit_s: float, what: str) -> NoAnswerError:
    """The error of a server that did not answer."""
    return NoAnswerError(f"no answer from the database server within {limit_s:g} s to {what}")


async def until_silent(ask: Callable[[], Awaitable[object]], limit_s: float) -> None:
    """Ask a server again and again, on another connection, until it is silent for `limit_s`."""
    while True:
        await asyncio.sleep(limit_s / 4)
        try:
            async with asyncio.timeout(limit_s) as limit:
                await ask()
        except Exception:  # noqa: BLE001 - a refusal is an answer, too
            if limit.expired():
                return


class Stoppable:
    """Awaits one piece of work after another; `stop` ends the current one and all later ones."""

    def __init__(self) -> None:
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        self._stopped.set()

    async def __call__(self, work: Awaitable[T]) -> T:
        """Await work that may be cancelled."""
        task = started(work)
        if self._stopped.is_set():
            task.cancel()
        return await beside(task, self._stopped.wait())

    async def asked(
        self, work: Callable[[], Awaitable[T]], ask: Callable[[], Awaitable[object]]
    ) -> T:
        """Await work that ends when `ask` asks it to; it is asked until it ends, and not after."""
        if self._stopped.is_set():
            raise asyncio.CancelledError
        task = started(work())
        async with background(self._stopped.wait()) as stopped:
            both: set[asyncio.Future[Any]] = {task, stopped}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            while not task.done():
                with contextlib.suppress(Exception):  # work that cannot be asked ends by itself
                    await ask()
                await asyncio.wait({task}, timeout=_AGAIN_S)  # it may not have begun when asked
        return await task
