"""Blocking work beside the event loop, and work that a cancellation must not cut in half."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """Run in a daemon thread of our own, in a copy of the context; a cancel does not wait.

    The default executor is avoided: an import that leaves its thread unjoinable would keep
    `asyncio.run` from ever returning.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # T may be None

    def work() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = function()
        except StopIteration as stop:
            error = RuntimeError(f"StopIteration: {stop}")
        except BaseException as raised:  # noqa: BLE001 - handed to the awaiting task
            error = raised
        with suppress(RuntimeError):  # whoever left this thread behind has closed the loop
            loop.call_soon_threadsafe(settle, result, error)

    context = copy_context()
    threading.Thread(target=context.run, args=(work,), name="automigrator", daemon=True).start()
    return await future


async def to_the_end(work: Awaitable[T], stop: Callable[[], object] = lambda: None) -> T:
    """Await `work` to its end even when cancelled; the cancellation is raised then.

    `stop` is called at the first cancellation, to ask the work to end early.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.cancelled():
            raise
        stop()
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                continue
        if not task.cancelled():
            task.exception()  # retrieved, or asyncio complains about it
        raise
