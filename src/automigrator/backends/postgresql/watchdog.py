"""A server that falls silent: how long it is waited for, and what it was asked for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

from automigrator.errors import NoAnswerError

T = TypeVar("T")

SILENT_S = 60.0

"""Seconds after which a server is given up that says nothing amid a migration."""

_CUT_S = 0.5


async def answered(work: Awaitable[T], limit_s: float, what: str) -> T:
    """Await what a server answers at once. Raises NoAnswerError when it does not."""
    try:
        async with asyncio.timeout(limit_s) as limit:
            return await work
    except Exception as error:
        if not limit.expired():
            raise
        raise silent(limit_s, what) from error


async def heard(
    work: Awaitable[T],
    ask: Callable[[], Awaitable[object]],
    cut: Callable[[], object],
    limit_s: float,
    what: str,
) -> T:
    """Await what takes as long as it takes, while the server answers what it is asked besides.

    When it does not, `cut` is called for the connections that `work` may wait for. A cancellation
    is passed on to `work`, and it is awaited. Raises NoAnswerError, and what `work` raises.
    """
    task = asyncio.ensure_future(work)
    listening = asyncio.create_task(_until_silent(ask, limit_s))
    cancelled = False
    try:
        while not task.done():
            waited = {task, listening} if not listening.done() else {task}
            try:
                await asyncio.wait(
                    waited,
                    timeout=_CUT_S if listening.done() else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            except asyncio.CancelledError:
                cancelled = True
                task.cancel()
            if listening.done() and not task.done():
                cut()
    finally:
        given_up = not listening.cancel()
    if cancelled:
        if not task.cancelled():
            task.exception()  # retrieved, or asyncio complains about it
        raise asyncio.CancelledError
    if given_up and not task.cancelled() and task.exception() is not None:
        raise silent(limit_s, what) from task.exception()
    return task.result()


def silent(limit_s: float, what: str) -> NoAnswerError:
    """The error of a server that did not answer."""
    return NoAnswerError(f"no answer from the database server within {limit_s:g} s to {what}")


async def _until_silent(ask: Callable[[], Awaitable[object]], limit_s: float) -> None:
    while True:
        await asyncio.sleep(limit_s / 4)
        try:
            async with asyncio.timeout(limit_s) as limit:
                await ask()
        except Exception:  # noqa: BLE001 - a refusal is an answer, too
            if limit.expired():
                return


_AGAIN_S = 0.5


class Stoppable:
    """Awaits work, one after another; once stopped it ends what it awaits, and begins no more."""

    def __init__(self) -> None:
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        self._stopped.set()

    async def __call__(self, work: Awaitable[T]) -> T:
        """Await work that may be cancelled."""
        task = asyncio.ensure_future(work)
        if self._stopped.is_set():
            task.cancel()
        with self._told() as told:
            told.add_done_callback(lambda told: told.cancelled() or task.cancel())
            return await task

    async def asked(
        self, work: Callable[[], Awaitable[T]], ask: Callable[[], Awaitable[object]]
    ) -> T:
        """Await work that ends when it is asked to; it is asked until it has, and not after."""
        if self._stopped.is_set():
            raise asyncio.CancelledError
        task = asyncio.ensure_future(work())
        with self._told() as told:
            await asyncio.wait({task, told}, return_when=asyncio.FIRST_COMPLETED)
            while not task.done():
                with contextlib.suppress(Exception):  # what cannot be asked comes to its end
                    await ask()
                await asyncio.wait({task}, timeout=_AGAIN_S)  # it may not have begun when asked
        return await task

    @contextlib.contextmanager
    def _told(self) -> Iterator[asyncio.Task[Any]]:
        told = asyncio.create_task(self._stopped.wait())
        try:
            yield told
        finally:
            told.cancel()
