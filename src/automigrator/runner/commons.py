"""What the runs of many targets have in common; see `Cohort`."""

from __future__ import annotations

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


class Commons:
    """Histories that were read, ways that were found, and connections that are open."""

    def __init__(self) -> None:
        self._histories: CommonHistories | None = None
        self.behind: set[str] = set()
        """Names of targets that a look has just found to lack something."""

    @cached_property
    def connections(self) -> CommonConnections:
        from automigrator.backends.common_connections import CommonConnections

        return CommonConnections()

    async def history(self, target: Target, backend: Backend) -> CommonHistory | None:
        """See `CommonHistories.of`."""
        if self._histories is None:
            # Alembic comes with it
            await in_thread(partial(import_module, "automigrator.migrations.common_history"))
            from automigrator.migrations.common_history import CommonHistories

            self._histories = self._histories or CommonHistories()
        return await self._histories.of(target, backend)

    async def close(self) -> None:
        """Close the connections."""
        await self.connections.close()


in_common: ContextVar[Commons | None] = ContextVar("automigrator_in_common", default=None)

"""What the targets that are opened in this context have in common with others."""
