"""Many targets with one history, migrated as cheaply as plain Alembic would, with every guard."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from automigrator.migrator import Migrator
from automigrator.report import Report
from automigrator.runner.commons import Commons, in_common
from automigrator.runner.modes import Mode


class Cohort:
    """Runs migrators of targets that are alike, and shares what they have in common."""

    def __init__(self) -> None:
        self._commons = Commons()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._commons.close()

    async def run(self, migrator: Migrator, *, mode: Mode | None = None) -> Report:
        """Do exactly what `migrator.run()` does. Raises what it raises."""
        token = in_common.set(self._commons)
        try:
            return await migrator.run(mode=mode)
        finally:
            in_common.reset(token)
