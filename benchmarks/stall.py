"""The longest time that an event loop did not get round to a task that wants to run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

TICK_S = 0.001


class Stall:
    """`async with` one: `longest` is the greatest gap in seconds beyond a tick of 1 ms.

    `queued_s` is how long the loop's thread has waited for a CPU until now; `blocked` is the
    longest gap without that, which is the machine's and not the work's.
    """

    def __init__(self, queued_s: Callable[[], float] = lambda: 0.0) -> None:
        self._queued_s = queued_s
        self.reset()

    def reset(self) -> None:
        self.longest = self.blocked = 0.0

    async def __aenter__(self) -> Stall:
        self.reset()
        self.task = asyncio.create_task(self._watch())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()

    async def _watch(self) -> None:
        while True:
            queued, began = self._queued_s(), time.perf_counter()
            await asyncio.sleep(TICK_S)
            gap = time.perf_counter() - began - TICK_S
            self.longest = max(self.longest, gap)
            self.blocked = max(self.blocked, gap - (self._queued_s() - queued))
