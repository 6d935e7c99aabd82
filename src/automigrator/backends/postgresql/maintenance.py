"""Connections to another database of the server, from which the target can be acted upon."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.access import Access
from automigrator.backends.postgresql.errors import (
    NO_DATABASE,
    NO_PRIVILEGE,
    ServerError,
    classify,
    code_of,
    with_code,
)

USUAL = "postgres"

# connected to only for a moment: while we are, nobody can create a database
LAST_RESORT = "template1"

_CLOSED_TO_US = frozenset({NO_DATABASE, NO_PRIVILEGE, "28000", "55000"})


class Maintenance:
    """The databases in which CREATE, ALTER and DROP DATABASE are run; `given` by the target.

    `live` is the target's own database.
    """

    def __init__(self, access: Access, live: str, given: str | None) -> None:
        self.access, self.live = access, live
        self.usual = [name for name in ([given] if given else [USUAL]) if name != live]
        self.all = self.usual + ([] if given or live == LAST_RESORT else [LAST_RESORT])

    async def enter(self, stack: AsyncExitStack, *, lasting: bool = False) -> AsyncConnection:
        """Open an AUTOCOMMIT connection that `stack` closes; `lasting` where it is kept for long.

        Raises ServerError when every one of the databases is closed to this role, and what
        connecting raises when the server cannot be reached.
        """
        closed: BaseException | None = None
        for name in self.usual if lasting else self.all:
            if name in self.usual and not lasting:
                opened = self.access.shared(name)
            else:
                opened = self.access.connection(name, autocommit=True)
            try:
                return await stack.enter_async_context(opened)
            except Exception as error:
                await with_code(error, self.access, name)
                if code_of(error) not in _CLOSED_TO_US:
                    raise
                closed = closed or error
        tried = ", ".join(map(repr, self.all)) or "none but the target itself"
        kind = classify(closed).kind if closed is not None else None
        raise ServerError(
            kind or "unreachable",
            f"no maintenance database can be reached (tried {tried}); nothing was changed. "
            "Name one that this role may connect to with Target(maintenance_database=...)",
        ) from closed

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """Context manager: an AUTOCOMMIT connection; raises as `enter` does."""
        async with AsyncExitStack() as stack:
            yield await self.enter(stack)
