"""A server that falls silent: how long it is waited for, and what it was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from automigrator.databases.access import NoAnswerError

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
