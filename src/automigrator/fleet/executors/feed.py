"""The tenants that an executor takes, one at a time, and those that it has to take again."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from automigrator.support.concurrency import shielded, started


class Feed:
    """Tenants to bring, each taken when there is room for it; those given back come first.

    The rollout may wait for the report of one tenant before it yields the next, and a tenant that
    is given back meanwhile must not wait for that: so nobody but the feed waits for the rollout.
    """

    def __init__(self, tenants: AsyncIterator[str]) -> None:
        self._tenants = tenants
        self._again: deque[str] = deque()
        self._out: set[str] = set()
        self._asked: asyncio.Future[str | None] | None = None
        self._ended = False
        self._change: asyncio.Future[None] | None = None

    async def take(self) -> str | None:
        """The next tenant, which is then to be given back or `done`; None when all are done.

        Raises what the tenants' own iterator raises.
        """
        while not self._again:
            if self._asked is None and not self._ended:
                self._asked = started(self._next())
            if self._asked is not None and self._asked.done():
                asked, self._asked = self._asked, None
                tenant = asked.result()
                if tenant is not None:
                    self._out.add(tenant)
                    return tenant
                self._ended = True
                self._changed()
            if self._ended and not self._out:
                return None
            if self._change is None:
                self._change = asyncio.get_running_loop().create_future()
            waits: set[asyncio.Future[Any]] = {self._change}
            waits |= {self._asked} if self._asked is not None else set()
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        return self._again.popleft()

    def give_back(self, tenant: str) -> None:
        """Let somebody take a tenant again: its worker is lost."""
        self._again.append(tenant)
        self._changed()

    def done(self, tenant: str) -> None:
        """Note that a tenant has been reported."""
        self._out.discard(tenant)
        self._changed()

    async def aclose(self) -> None:
        """Ask the rollout for no further tenant."""
        self._ended = True
        if self._asked is not None:
            self._asked.cancel()
            await shielded(asyncio.wait({self._asked}))

    async def _next(self) -> str | None:
        return await anext(self._tenants, None)

    def _changed(self) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)
        self._change = None
