"""Strategies that do one thing, always."""

from __future__ import annotations

from dataclasses import dataclass

from automigrator import Decision, Failure, Run, hookimpl


@dataclass
class Restoring:
    """Takes a snapshot, puts it back, and decides."""

    decision: Decision | None = Decision.CONTINUE
    effect = "reverting"

    @hookimpl
    async def before_migrate(self, run: Run) -> None:
        await run.snapshot()

    @hookimpl
    async def on_failure(self, run: Run, failure: Failure) -> Decision | None:
        await run.restore()
        return self.decision


class Rebuilding:
    """Replaces the database, and asks for another attempt."""

    effect = "discarding"

    @hookimpl
    async def on_failure(self, run: Run, failure: Failure) -> Decision:
        await run.recreate_database()
        return Decision.RETRY
