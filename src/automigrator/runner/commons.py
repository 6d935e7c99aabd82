"""What the runs of many targets have in common; see `Cohort`."""

from __future__ import annotations

import time
from contextvars import ContextVar
from functools import cached_property, partial
from importlib import import_module
from typing import TYPE_CHECKING

from automigrator.support.concurrency import in_thread

if TYPE_CHECKING:
    from automigrator.backends.common_connections import CommonConnections
    from automigrator.backends.contract.backend import Backend
    from automigrator.migrations.common_history import CommonHistories, CommonHistory
    from automigrator.target import Target


BELIEVED_S = 60.0
"""Seconds for which a target that lacked something need not be looked at before its lock is taken.
"""


class Commons:
    """Histories that were read, ways that were found, and connections that are open."""

    def __init__(self) -> None:
        self.histories: CommonHistories | None = None
        self._behind: dict[str, float] = {}

    @cached_property
    def connections(self) -> CommonConnections:
        from automigrator.backends.common_connections import CommonConnections

        return CommonConnections()

    async def history(self, target: Target, backend: Backend) -> CommonHistory | None:
        """See `CommonHistories.of`."""
        if self.histories is None:
            # Alembic comes with it
            await in_thread(partial(import_module, "automigrator.migrations.common_history"))
            from automigrator.migrations.common_history import CommonHistories

            self.histories = self.histories or CommonHistories()
        return await self.histories.of(target, backend)

    def note_behind(self, target: Target) -> None:
        """Note that a look has just found a target to lack something."""
        self._behind[target.name] = time.monotonic()

    def is_behind(self, target: Target, *, forget: bool = False) -> bool:
        """Whether a look has found it to lack something, and that not long ago."""
        at = self._behind.get(target.name)
        if forget:
            self._behind.pop(target.name, None)
        return at is not None and time.monotonic() - at < BELIEVED_S

    async def close(self) -> None:
        """Close the connections."""
        await self.connections.close()


in_common: ContextVar[Commons | None] = ContextVar("automigrator_in_common", default=None)

"""What the targets that are opened in this context have in common with others."""
