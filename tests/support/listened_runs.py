"""Runs whose events a plugin hears: recorded, with losses, and cancelled in the middle."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence

import pytest

from automigrator import Event, Migrator, hookimpl


class Recording:
    """A plugin that keeps every event."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    @hookimpl
    def on_event(self, event: Event) -> None:
        self.events.append(event)


def with_losses(events: Sequence[Event], times: int) -> Iterator[list[Event]]:
    """The events of one run, whatever is lost or out of order between the first and the last."""
    first, *between, last = events
    seed = random.randrange(10**9)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(times):
        told = [event for event in between if chance.random() < 0.7]
        if chance.random() < 0.5:
            chance.shuffle(told)
        yield [first, *told, last, *told[:3]]


async def cancel_in_a_revision(migrator: Migrator) -> None:
    """Run, and cancel that when a revision is under way."""
    events = migrator.events()
    running = asyncio.create_task(migrator.run())
    async for event in events:
        if event.name == "revision-started":
            break
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
