"""Many targets with one history, brought to head for what plain Alembic costs, and as safely."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from automigrator.migrations.runs.together import beside_others
from automigrator.migrator import Migrator
from automigrator.report import Report
from automigrator.runner.commons import Commons, in_common
from automigrator.runner.modes import Mode
from automigrator.runner.roll_call import Heads, heads_of, lacking
from automigrator.target import Target


class Cohort:
    """Runs migrators, and lets them share what they have in common.

    That is the history in the files, read once and again when one changes; the way in which env.py
    reaches a database, found for the first target and checked by each next one as it migrates; and
    connections of our own, the lock's sessions among them, which go from one target to the next.
    What protects a target is its own as ever: its lock, its records, its looks.

    Use it as an async context manager, in one event loop; runs may go on side by side. Their
    targets need names of their own. Its connections are closed at the end.
    """

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
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections that are not in use; what is in use is closed when it is done."""
        await self._commons.close()

    async def run(self, migrator: Migrator, *, mode: Mode | None = None) -> Report:
        """Do what `migrator.run()` does; `mode` overrides the Migrator's. Raises what it raises."""
        with self._shared(), beside_others():
            return await migrator.run(mode=mode)

    async def heads(self, targets: Sequence[Target]) -> dict[str, Heads]:
        """Read every target's heads by its name: one connection and few statements a database.

        Empty where it has no version row. None where only a look at the target by itself can tell:
        env.py has to be asked for its version table, the database is not there or out of reach, or
        a migration of before was killed.
        """
        with self._shared():
            return await heads_of(targets)

    async def lacking(self, targets: Sequence[Target], *, alone: bool = True) -> tuple[Target, ...]:
        """Return the targets that `run` is for: all but those which lack nothing beyond doubt.

        `alone`: whether targets that have a database to themselves are looked at as well, one by
        one; their runs do it as cheaply. Default True; False returns them all.
        """
        with self._shared():
            return await lacking(targets, self._commons, alone=alone)

    @contextmanager
    def _shared(self) -> Iterator[None]:
        token = in_common.set(self._commons)
        try:
            yield
        finally:
            in_common.reset(token)
