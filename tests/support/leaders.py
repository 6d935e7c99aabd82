"""A run that holds the migration lock for as long as a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from automigrator import Migrator, Run, Target, hookimpl


@asynccontextmanager
async def leading(target: Target, progress: str = "") -> AsyncIterator[None]:
    """Within, another run leads, and has changed nothing yet; then it migrates.

    `progress`: how far it says that it is.
    """
    held, done = asyncio.Event(), asyncio.Event()

    class Holding:
        @hookimpl
        async def before_migrate(self, run: Run) -> None:
            assert run.hold is not None
            await run.hold.confirm(progress)
            held.set()
            await done.wait()

    leader = asyncio.create_task(Migrator(target, mode="migrate", plugins=[Holding()]).run())
    await held.wait()
    try:
        yield
    finally:
        done.set()
        report = await leader
    assert report.outcome == "migrated"
