"""The part of some work that may be cut short, inside work that must come to its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

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
