"""Waits for a server that is not up yet, with a limit."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from automigrator.databases.backend import Backend

T = TypeVar("T")

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 3.0


async def reach(
    backend: Backend,
    ask: Callable[[], Awaitable[T]],
    limit_s: float,
    waiting: Callable[[float], None],
    enough: Callable[[T], bool] = lambda answer: True,
) -> T:
    """Await `ask()`, again while the database is unreachable, for at most `limit_s` seconds.

    Again also while the answer is not `enough`; the last one is returned as it is. `waiting` gets
    the seconds so far before each pause. What `ask` last raised passes through.
    """
    began = time.monotonic()
    pause = FIRST_PAUSE_S
    while True:
        try:
            async with asyncio.timeout(max(began + limit_s - time.monotonic(), 0)) as deadline:
                answer = await ask()
            if enough(answer) or time.monotonic() - began + pause > limit_s:
                return answer
        except Exception as error:
            waited = time.monotonic() - began
            overdue = deadline.expired() or waited + pause > limit_s
            if deadline.expired():
                raise TimeoutError(f"no answer from the database within {limit_s:g} s") from error
            if overdue or backend.classify(error) != "unreachable":
                raise
        waiting(time.monotonic() - began)
        # jitter: many replicas wait for the same server
        await asyncio.sleep(pause * random.uniform(0.5, 1))
        pause = min(pause * 2, LONGEST_PAUSE_S)
