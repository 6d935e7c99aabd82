"""Connections to a database of the server that is not the target: there it can be acted upon."""

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

# connected to only for a moment: nobody can create a database meanwhile
LAST_RESORT = "template1"

_CLOSED_TO_US = frozenset({NO_DATABASE, NO_PRIVILEGE, "28000", "55000"})


def database_of(access: Access) -> str:
    """The name of the target database; libpq's default is the user's name."""
    return access.url.database or access.url.username or ""


class Maintenance:
    """Where CREATE, ALTER and DROP DATABASE are run from; `given` is the target's word for it."""

    def __init__(self, access: Access, given: str | None) -> None:
        self.access = access
        live = database_of(access)
        self.usual = [name for name in ([given] if given else [USUAL]) if name != live]
        self.all = self.usual + ([] if given or live == LAST_RESORT else [LAST_RESORT])

    async def enter(
        self, stack: AsyncExitStack, databases: list[str] | None = None
    ) -> AsyncConnection:
        """Open an AUTOCOMMIT connection that `stack` closes.

        Raises ServerError when every one of the databases is closed to this role, and what
        connecting raises when the server cannot be reached.
        """
        closed: BaseException | None = None
        for name in self.all if databases is None else databases:
            try:
                return await stack.enter_async_context(
                    self.access.connection(name, autocommit=True)
                )
            except Exception as error:
                await with_code(error, self.access, name)
                if code_of(error) not in _CLOSED_TO_US:
                    raise
                closed = closed or error
        tried = ", ".join(map(repr, self.all)) or "none but the target itself"
        kind = classify(closed) if closed is not None else None
        raise ServerError(
            kind or "unreachable",
            f"no maintenance database can be reached (tried {tried}); nothing was changed. "
            "Name one that this role may connect to with Target(maintenance_database=...)",
        ) from closed

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """An AUTOCOMMIT connection; raises as `enter` does."""
        async with AsyncExitStack() as stack:
            yield await self.enter(stack)
