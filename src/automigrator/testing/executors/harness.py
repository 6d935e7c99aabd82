"""A fleet for each case, the executor that is tested, and what it made of the tenants."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import Connection, text

from automigrator.fleet.executors.contract import Executor
from automigrator.fleet.report import TenantReport
from automigrator.testing.conformance import FREE_S, Conformance, backend_of
from automigrator.testing.contents import connected
from automigrator.testing.executors.tenants import HEAD, VARIABLE, Tenants

WORKERS = "workers"


class Fed:
    """An iterator of tenants that counts how many were asked for and not reported yet."""

    def __init__(self, *names: str) -> None:
        self._names = list(names)
        self.held: set[str] = set()
        self.reported: dict[str, asyncio.Event] = {}
        self.waits_for: dict[str, str] = {}
        """The tenant that must be reported before this one is fed, as a group waits for another."""

    async def __aiter__(self) -> AsyncIterator[str]:
        for name in self._names:
            if name in self.waits_for:
                await self.of(self.waits_for[name]).wait()
            self.held.add(name)
            yield name

    def of(self, name: str) -> asyncio.Event:
        return self.reported.setdefault(name, asyncio.Event())


class ExecutorCase(Conformance):
    """What every case has: `tenants`, and `ran`, which runs them."""

    __test__ = False

    offers: ClassVar[Sequence[str]] = ()
    """`"workers"` where tenants are brought in other processes than the one that runs."""

    capacity: ClassVar[int] = 8
    """The number of tenants that the executor may hold at a time."""

    frozen_on: ClassVar[Sequence[str]] = ("sqlite", "postgresql")
    """Where a frozen worker's tenants are finished before it is thawed or killed."""

    tenants: Tenants

    def make(self) -> Executor:
        """Make the executor that is tested; one that needs more overrides `running`."""
        kind = type(self).__name__
        raise TypeError(f"{kind} says of no executor how it is made: define make(), or running()")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Executor]:
        """Context manager: an executor whose workers, if it needs any, are there."""
        yield self.make()

    @asynccontextmanager
    async def losing(self, *names: str) -> AsyncIterator[Executor]:
        """Context manager: an executor to which these tenants will be fed, and others that help.

        One of the others has begun with the first of `names`, or the executor will let it.
        """
        async with self.running() as executor:
            yield executor

    def offered(self) -> frozenset[str]:
        return frozenset(self.offers)

    @contextmanager
    def opened(self, kind: str, folder: Path, fixture: Callable[[str], Any]) -> Iterator[None]:
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = str(folder / "fleet")
        self.kind = kind
        try:
            with super().opened(kind, folder, fixture):
                url = self.fresh.url() if kind != "sqlite" else None
                if url is not None:
                    asyncio.run(backend_of(url).create())
                self.tenants = Tenants.make(folder / "fleet", url)
                yield
        finally:
            os.environ.pop(VARIABLE)
            if before is not None:
                os.environ[VARIABLE] = before

    async def ran(
        self, executor: Executor, fed: Fed, fleet: Tenants | None = None
    ) -> dict[str, TenantReport]:
        """Run the executor, and return its reports; fails where a tenant is reported twice."""
        reports: dict[str, TenantReport] = {}
        async with aclosing(executor.run(fleet or self.tenants, aiter(fed))) as running:
            async for report in running:
                assert report.name not in reports, f"{report.name} is reported twice"
                assert report.name in fed.held, f"{report.name} is reported, and was not fed"
                reports[report.name] = report
                fed.held.discard(report.name)
                fed.of(report.name).set()
        return reports

    async def are_at_head(self, *names: str) -> None:
        """Fails where a tenant is not at head, or its data steps were not done once each."""
        for name in names:
            heads, steps = await self.standing(name)
            assert heads == (HEAD,), f"{name} is at {heads}"
            assert steps == 2, f"{name} has {steps} rows, and each of its 2 revisions inserts one"

    async def are_untouched(self, *names: str) -> None:
        """Fails where something of a revision is in a tenant."""
        for name in names:
            assert await self.standing(name) == ((), 0), f"{name} was changed"

    async def nothing_is_under_way(self) -> None:
        """Fails where a tenant is still being brought somewhere."""
        async with asyncio.timeout(FREE_S):
            while self.tenants.under_way():  # noqa: ASYNC110 - another process ends it
                await asyncio.sleep(0.05)

    async def standing(self, name: str) -> tuple[tuple[str, ...], int]:
        """The heads of a tenant, and the number of rows that its revisions inserted."""
        url, schema = self.tenants.url(name), self.tenants.schema(name)
        if schema is None and not os.path.exists(url.database or ""):  # noqa: ASYNC240 - a stat
            return (), 0
        place = f'"{schema}".' if schema else ""
        found: Counter[str] = Counter()
        async with connected(url) as connection:
            for query, catalog in (
                ("SELECT version_num FROM {}alembic_version", "alembic_version"),
                ("SELECT 'steps' FROM {}steps", "steps"),
            ):
                if await connection.run_sync(_has, catalog, schema):
                    rows = await connection.execute(text(query.format(place)))
                    found.update(row[0] for row in rows)
        steps = found.pop("steps", 0)
        return tuple(sorted(found)), steps


def _has(connection: Connection, table: str, schema: str | None) -> bool:
    return connection.dialect.has_table(connection, table, schema=schema)
