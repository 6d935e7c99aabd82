"""The part of some work that may be cut short, inside work that must come to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class Stoppable:
    """Awaits work; `stop` cancels what is awaited then, and what is awaited later."""

    def __init__(self) -> None:
        self._task: asyncio.Future[object] | None = None
        self._stopped = False

    async def __call__(self, work: Awaitable[T]) -> T:
        task = asyncio.ensure_future(work)
        if self._stopped:
            task.cancel()
        self._task = task  # type: ignore[assignment]  # of any result
        try:
            return await task
        finally:
            self._task = None

    def stop(self) -> None:
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
