"""Connections to another database of the server, from which the target can be acted upon."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from contextlib import AsyncExitStack, asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.access import Access
from automigrator.backends.postgresql.errors import (
    TOO_MANY,
    ServerError,
    classify,
    code_of,
    with_code,
)
from automigrator.backends.postgresql.names import TargetName
from automigrator.errors import RefusedError
from automigrator.support.redaction import first_line

USUAL = "postgres"

# connected to only for a moment: while we are, nobody can create a database
LAST_RESORT = "template1"


class Maintenance:
    """The databases in which CREATE, ALTER and DROP DATABASE are run; `given` by the target.

    `name` is that of the target's own database.
    """

    def __init__(self, access: Access, name: TargetName, given: str | None) -> None:
        self.access, self.name, self._given = access, name, given

    @property
    def usual(self) -> list[str]:
        """Those in which the lock may be held."""
        return [each for each in [self._given or USUAL] if each != self.name.own]

    @property
    def key(self) -> tuple[Hashable, str] | None:
        """Equal for targets whose locks are held in the same database by sessions that are alike.

        None where no session is one that other targets may go on with.
        """
        if self.access.common is None or self.access.alike is None or not self.usual:
            return None
        return self.access.alike, self.usual[0]

    @property
    def all(self) -> list[str]:
        last = [] if self._given or self.name.own == LAST_RESORT else [LAST_RESORT]
        return self.usual + last

    async def enter(
        self, stack: AsyncExitStack, *, lasting: bool = False, acting: bool = False
    ) -> AsyncConnection:
        """Open an AUTOCOMMIT connection that `stack` closes; `lasting` where it is kept for long.

        Raises ServerError when none of the databases can be reached, for whatever reason: a role
        without rights, a pooler without an entry, a creator that leads to the target alone. Raises
        what connecting raises when the server is full.
        """
        closed: BaseException | None = None
        names = self.usual if lasting else self.all
        if names and await self.access.leads_to_one():
            names = []
            closed = RefusedError("the application's engine connects with a creator of its own")
        for name in names:
            if name in self.usual and not lasting:
                opened = self.access.shared(name, acting=acting)
            else:
                opened = self.access.connection(name, autocommit=True, acting=acting or lasting)
            try:
                return await stack.enter_async_context(opened)
            except Exception as error:
                await with_code(error, self.access, name)
                if code_of(error) == TOO_MANY:
                    raise
                closed = closed or error
        tried = ", ".join(map(repr, self.all)) or "none but the target itself"
        kind = classify(closed).kind if closed is not None else None
        why = f": {first_line(closed)}" if closed is not None else ""
        raise ServerError(
            kind or "unreachable",
            f"no maintenance database can be reached (tried {tried}{why}); nothing was changed. "
            "Name one that this role may connect to with Target(maintenance_database=...)",
        ) from closed

    @asynccontextmanager
    async def connection(self, *, acting: bool = False) -> AsyncIterator[AsyncConnection]:
        """Context manager: an AUTOCOMMIT connection; raises as `enter` does."""
        async with AsyncExitStack() as stack:
            yield await self.enter(stack, acting=acting)
