"""What happens in a run, as a stream of events for whoever subscribes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from automigrator.events.event import Event


EVENT_LIMIT = 10_000
"""Events that a subscription keeps for a slow reader."""


class Subscription(AsyncIterator["Event"]):
    """One listener's view: bounded, so that a slow listener loses the oldest events, never the run.

    `dropped` counts what was lost. Iteration ends with the run.
    """

    def __init__(self, limit: int = EVENT_LIMIT) -> None:
        self.dropped = 0
        self._queue: deque[Event] = deque(maxlen=limit)
        self._ready = asyncio.Event()
        self._ended = False

    def put(self, event: Event) -> None:
        if len(self._queue) == self._queue.maxlen:
            self.dropped += 1
        self._queue.append(event)
        self._ready.set()

    def end(self) -> None:
        self._ended = True
        self._ready.set()

    async def __anext__(self) -> Event:
        while not self._queue:
            if self._ended:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        return self._queue.popleft()
