"""What a fleet may put in the place of env.py, where it has proved that to be the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from automigrator.migrations.execution import Execution
    from automigrator.runner.inspection import Finding

Play = Callable[["Execution"], Awaitable[None]]

"""Applies what is pending, fills in the record, and raises what env.py would raise."""


class Replays(Protocol):
    """Applies pending revisions without env.py; `state` is the RunState of a target's run."""

    async def completed(self, state: Any, finding: Finding) -> Finding | None:
        """Add what env.py would say of itself, where it is known; None: ask env.py."""

    async def prepared(self, state: Any, finding: Finding) -> Play | None:
        """Prove, under the lock, that the pending revisions may be replayed; None: they may not."""
