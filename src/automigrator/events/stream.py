"""Everything that happens in a run, as a stream that any number of listeners can read."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened; `catalogue` has what there is.

    `at` is seconds since the epoch, `target` None for the whole run; `run` is the same for all
    that one call of `run()` or `rollback()` tells.
    """

    name: str
    target: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    at: float = field(default_factory=time.time)
    run: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", MappingProxyType(dict(self.data)))

    def __str__(self) -> str:
        facts = " ".join(f"{key}={value}" for key, value in self.data.items())
        return " ".join(part for part in (self.name, self.target, facts) if part)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON types."""
        told = {"name": self.name, "target": self.target, "at": self.at, "run": self.run}
        return {**self.data, **told}

    def to_log(self) -> dict[str, Any]:
        """What a log record carries as `automigrator`; the record has a time of its own."""
        return {"event": self.name, "run": self.run, "target": self.target, **self.data}


class Subscription(AsyncIterator[Event]):
    """One listener's view: bounded, so that a slow listener loses the oldest events, never the run.

    `dropped` counts what was lost. Iteration ends with the run.
    """

    def __init__(self, limit: int) -> None:
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


class EventStream:
    """Fans events out to the subscriptions that are open."""

    def __init__(self) -> None:
        self._subscriptions: list[Subscription] = []

    @property
    def listened(self) -> bool:
        """Whether anybody has subscribed."""
        return bool(self._subscriptions)

    def subscribe(self, limit: int) -> Subscription:
        subscription = Subscription(limit)
        self._subscriptions.append(subscription)
        return subscription

    def put(self, event: Event) -> None:
        for subscription in self._subscriptions:
            subscription.put(event)

    def end(self) -> None:
        """End every open subscription; later ones belong to the next run."""
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            subscription.end()
