"""Sync code in a thread of its own, whose awaits are done on an event loop that runs elsewhere."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet  # type: ignore[import-untyped]  # it ships no types

T = TypeVar("T")

LOOK_S = 0.5
"""Seconds after which it is looked whether the loop is still there."""


class _Greenlet(greenlet):  # type: ignore[misc]
    __sqlalchemy_greenlet_provider__ = True
    """What SQLAlchemy asks for before it lets a driver await."""


class Bridge:
    """Runs sync code in the calling thread; what its drivers await is done on `loop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._awaited: Future[Any] | None = None

    def run(self, function: Callable[[], T]) -> T:
        """Call `function`. Raises what it raises, and RuntimeError when the loop is closed."""
        asyncio.set_event_loop(self._loop)  # drivers make futures for the current one
        try:
            return self._run(function)
        finally:
            asyncio.set_event_loop(None)

    def _run(self, function: Callable[[], T]) -> T:
        inner = _Greenlet(function, getcurrent())
        inner.gr_context = getcurrent().gr_context
        result: Any = inner.switch()
        while not inner.dead:
            try:
                value = self.result(result)
            except BaseException:  # noqa: BLE001 - raised where it was awaited
                result = inner.throw(*sys.exc_info())
            else:
                result = inner.switch(value)
        answer: T = result
        return answer

    def result(self, awaitable: Awaitable[T]) -> T:
        """Wait for what is awaited on the loop. Raises RuntimeError when the loop is closed."""
        self._awaited = future = asyncio.run_coroutine_threadsafe(_done(awaitable), self._loop)
        while True:
            try:
                return future.result(LOOK_S)
            except TimeoutError:
                if future.done():
                    raise
                if self._loop.is_closed():
                    raise RuntimeError("the event loop was closed meanwhile") from None
            except CancelledError:
                raise asyncio.CancelledError from None

    def cancel(self) -> None:
        """Cancel what is awaited now; may be called from any thread."""
        if self._awaited is not None:
            self._awaited.cancel()


async def _done(awaitable: Awaitable[T]) -> T:
    return await awaitable
