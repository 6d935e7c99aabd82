"""Looks at all tenants, some at a time; what tenants of the same heads lack is found out once."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import TypeVar

from automigrator.failure import Failure
from automigrator.fleet.digest import key_of
from automigrator.fleet.progress import quietly
from automigrator.fleet.status import FleetPlan, FleetStatus, Lacking, TenantProblem
from automigrator.fleet.tenants import Refusal, Tenant
from automigrator.runner.fast_path import nothing_to_do
from automigrator.runner.operations.status import planned, standing
from automigrator.runner.session import opened
from automigrator.support.redaction import said
from automigrator.target import Ahead, passwords_of

T = TypeVar("T")

Key = tuple[object, ...]
"""Tenants with the same key lack the same: the history, and the heads of the version table."""


async def at_head(tenant: Tenant) -> bool:
    """Whether a tenant is at head beyond doubt, by one SELECT; raises nothing of its database."""
    try:
        with quietly():
            async with opened(tenant.target) as session:
                return bool(await nothing_to_do(session))
    except Exception:  # noqa: BLE001 - a run says more
        return False


async def each_of(
    tenants: Iterable[Tenant],
    at_once: int,
    per_server: int | None,
    work: Callable[[Tenant], Awaitable[T]],
) -> list[T]:
    """Do some work for every tenant, so many at a time; results in the tenants' order."""
    places: dict[str, asyncio.Semaphore] = defaultdict(
        lambda: asyncio.Semaphore(per_server or at_once)
    )
    todo = list(enumerate(tenants))
    done: list[T | None] = [None] * len(todo)
    remaining = iter(todo)

    async def worker() -> None:
        for number, tenant in remaining:
            async with places[tenant.server]:
                done[number] = await work(tenant)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(at_once, len(todo))):
            group.create_task(worker())
    return done  # type: ignore[return-value]  # each was set


class Looks:
    """The looks of one `check` or `plan`."""

    def __init__(self, ahead: Ahead, at_once: int, per_server: int | None) -> None:
        self._ahead, self._at_once, self._per_server = ahead, at_once, per_server
        self._lacks: dict[Key, Lacking] = {}

    async def status(
        self,
        tenants: Sequence[Tenant],
        refused: Sequence[Refusal],
        seen: Callable[[str, bool], None] = lambda name, current: None,
    ) -> FleetStatus:
        """How all tenants stand. `seen` is told of each whether it is current."""

        async def look(tenant: Tenant) -> Lacking | TenantProblem | None:
            found = await self._look(tenant)
            seen(tenant.name, found is None)
            return found

        found = await each_of(tenants, self._at_once, self._per_server, look)
        groups: dict[tuple[object, ...], list[Lacking]] = defaultdict(list)
        for each in found:
            if isinstance(each, Lacking):
                groups[each.heads, each.wanted, each.pending].append(each)
        lacking = [
            some[0]._replace(tenants=tuple(name for each in some for name in each.tenants))
            for some in groups.values()
        ]
        lacking.sort(key=lambda each: -len(each.tenants))
        problems = [each for each in found if isinstance(each, TenantProblem)]
        problems += [TenantProblem(each.name, "env", each.why) for each in refused]
        total = len(tenants) + len(refused)
        return FleetStatus(total, tuple(lacking), tuple(problems))

    async def plan(self, tenants: Sequence[Tenant], refused: Sequence[Refusal]) -> FleetPlan:
        """What a run would apply, with the revisions of each group."""
        status = await self.status(tenants, refused)
        by_name = {each.name: each for each in tenants}
        groups = []
        for lacking in status.lacking:
            target = by_name[lacking.tenants[0]].target
            groups.append((lacking, await planned(target, target.ahead or self._ahead, sql=False)))
        return FleetPlan(tuple(groups), status.problems)

    async def _look(self, tenant: Tenant) -> Lacking | TenantProblem | None:
        """What a tenant lacks; None for nothing. A problem is an answer, never an error."""
        try:
            with quietly():
                return await self._looked(tenant)
        except Exception as error:  # noqa: BLE001 - any error is what is wrong with the tenant
            kind = getattr(error, "kind", None) or "env"
            return TenantProblem(tenant.name, kind, said(error, passwords_of(tenant.target)))

    async def _looked(self, tenant: Tenant) -> Lacking | TenantProblem | None:
        key: Key | None = None
        async with opened(tenant.target) as session:
            if await nothing_to_do(session):
                return None
            with suppress(Exception):  # the full look says what is wrong
                sight = await session.backend.look([session.table])
                heads = sight.all_heads()
                if sight.exists and not sight.unfinished and (heads or not sight.has_tables):
                    key = key_of(tenant.target), session.table.name, heads
        if key is not None and (known := self._lacks.get(key)):
            return known._replace(tenants=(tenant.name,))
        target = tenant.target
        found = await standing(target, target.ahead or self._ahead)
        unversioned = found.problem is not None and found.problem.kind == "unversioned"
        if unversioned and (new := await tenant.as_base()) is not None:
            found = await standing(new.target, target.ahead or self._ahead)
        if found.problem is not None:
            return _problem(tenant, found.problem)
        if found.current:
            return None
        lacking = Lacking(found.heads, found.wanted, found.pending, (tenant.name,))
        if key is not None and found.heads == heads and found.pending:
            self._lacks[key] = lacking  # env.py keeps its heads where they were looked for
        return lacking


def _problem(tenant: Tenant, failure: Failure) -> TenantProblem:
    return TenantProblem(tenant.name, failure.kind, failure.message)
