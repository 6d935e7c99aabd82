"""The longest time that an event loop did not get round to a task that wants to run."""

from __future__ import annotations

import asyncio
import time

TICK_S = 0.001


class Stall:
    """`async with` one: `longest` is the greatest gap in seconds beyond a tick of 1 ms."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def __aenter__(self) -> Stall:
        self.longest = 0.0
        self.task = asyncio.create_task(self._watch())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()

    async def _watch(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(TICK_S)
            self.longest = max(self.longest, time.perf_counter() - began - TICK_S)
