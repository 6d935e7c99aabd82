"""Work in threads, work that must not be cut in half, and work that is watched."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from automigrator.errors import ConfigurationError

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """Run in a daemon thread of our own, in a copy of the context; a cancel does not wait.

    The default executor is avoided: an import that leaves its thread unjoinable would keep
    `asyncio.run` from ever returning.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def work() -> None:
        try:
            settle = partial(future.set_result, function())
        except StopIteration as stop:
            settle = partial(future.set_exception, RuntimeError(f"StopIteration: {stop}"))
        except BaseException as error:  # noqa: BLE001 - handed to the awaiting task
            settle = partial(future.set_exception, error)
        with suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(lambda: future.cancelled() or settle())

    context = copy_context()
    threading.Thread(target=context.run, args=(work,), name="automigrator", daemon=True).start()
    return await future


def _cancel(task: asyncio.Future[Any]) -> None:
    task.cancel()


async def beside(
    work: Awaitable[T],
    *watchers: Awaitable[object],
    end: Callable[[asyncio.Future[T]], object] = _cancel,
    pauses: Iterable[float] = (),
    on_cancel: Callable[[asyncio.Future[T]], object] = _cancel,
) -> T:
    """Await `work` to its end while watchers run; the first watcher that is over ends it.

    `end(task)` is then called to end the work, and again after each of `pauses` (seconds; by
    default once), until it is done. `on_cancel(task)` is called at each cancellation instead;
    both cancel the task unless given, and must not raise. The work is always awaited, the
    watchers are cancelled.

    Returns what the work returns. Raises CancelledError when cancelled; else the error of a
    watcher that was over first, even where the work succeeded; else the work's own error.
    """
    task = started(work)
    watching = [started(each) for each in watchers]
    both: set[asyncio.Future[Any]] = {task, *watching}
    again = iter(pauses)
    cancelled = over = False
    try:
        while not task.done():
            over = any(each.done() for each in watching)
            if over:
                end(task)
            try:
                await asyncio.wait(
                    {task} if over else both,
                    timeout=next(again, None) if over else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            except asyncio.CancelledError:
                cancelled = True
                on_cancel(task)
    finally:
        for each in watching:
            each.cancel()
    if cancelled:
        raise asyncio.CancelledError
    for each in watching if over else ():
        if (error := error_of(each)) is not None:
            raise error from error_of(task)
    return task.result()


async def shielded(work: Awaitable[T], stop: Callable[[], object] = lambda: None) -> T:
    """Await `work` to its end even when cancelled; the cancellation is raised then.

    `stop` is called at each cancellation, to ask the work to end early.
    """
    return await beside(work, on_cancel=lambda task: stop())


@asynccontextmanager
async def background(
    work: Coroutine[Any, Any, T], stop: Callable[[], object] | None = None
) -> AsyncIterator[asyncio.Future[T]]:
    """Context manager: run `work` beside the block, and end it with the block.

    At the end `stop` is called, where it is given, else the work is cancelled; either way it is
    awaited. Yields the task: its error is not raised, see `error_of`.
    """
    task = started(work)
    try:
        yield task
    finally:
        (stop or task.cancel)()
        await shielded(asyncio.wait({task}))


@asynccontextmanager
async def within(
    limit_s: float | None, overdue: Callable[[], Exception] = TimeoutError
) -> AsyncIterator[None]:
    """Context manager: limit the block to `limit_s` seconds; None sets no limit.

    Raises what `overdue` makes when the time is over, whatever the block turns its cancellation
    into: drivers raise errors of their own then.
    """
    try:
        async with asyncio.timeout(limit_s) as limit:
            yield
    except Exception as error:
        if not limit.expired():
            raise
        raise overdue() from error


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread; None where there is none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def ensure_asyncio() -> None:
    """Raise ConfigurationError where no event loop of asyncio runs."""
    if running_loop() is None:
        raise ConfigurationError(
            "no asyncio event loop is running here, and nothing was touched; under trio call "
            "run_sync() in a thread (`await trio.to_thread.run_sync(migrator.run_sync)`), and "
            "the other methods there by asyncio.run()"
        )


def started(work: Awaitable[T]) -> asyncio.Future[T]:
    """Start `work` as a task; asyncio does not complain when nobody asks for its error."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(error_of)
    return task


def error_of(task: asyncio.Future[Any]) -> BaseException | None:
    """The error of a task; None where it is not done, was cancelled or succeeded."""
    return task.exception() if task.done() and not task.cancelled() else None
