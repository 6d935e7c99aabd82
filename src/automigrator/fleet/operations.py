"""What an operator or an application asks of a fleet besides a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from automigrator.cohort import Cohort
from automigrator.errors import ConfigurationError
from automigrator.fleet.control import Control
from automigrator.fleet.ledger import Ledger
from automigrator.fleet.looks import Looks, at_head, each_of
from automigrator.fleet.members import Apart, Members
from automigrator.fleet.progress import Progress, quietly
from automigrator.fleet.report import FleetError, FleetReport, TenantReport
from automigrator.fleet.rollout import Rollout, Rules
from automigrator.fleet.sign_up import SignUp
from automigrator.fleet.status import FleetPlan, FleetStatus, LedgerStatus
from automigrator.fleet.tenants import Making, Refusal, Tenant, settled
from automigrator.support.concurrency import ensure_asyncio, shielded
from automigrator.target import Ahead, Target

if TYPE_CHECKING:
    from automigrator.events.stream import Subscription

POLL_S = 2.0
"""Seconds between two looks of one who waits for another process."""


Standing = Literal["ready", "not yet", "out of service", "unknown"]


class Operations:
    """The part of a Fleet that is asked for explicitly: the gate does not govern it."""

    rules: Rules
    ahead: Ahead
    ledger: Ledger
    progress: Progress
    _sign_up: SignUp
    _apart: Apart
    _cohort: Cohort
    _members: Members
    _rollout: Rollout | None
    _under_way: bool

    async def _current(self, tenants: Sequence[Tenant], *, alone: bool = False) -> list[str]:
        """The tenants that lack nothing beyond doubt, by few looks at each database.

        `alone`: those that have a database to themselves are looked at, too.
        """
        with quietly():
            targets = [each.target for each in tenants]
            lacking = set(await self._cohort.lacking(targets, alone=False))
        rest = [each for each in tenants if alone and each.target in lacking]
        found = await each_of(rest, self.rules.most_at_once, self.rules.per_server, at_head)
        lacking -= {each.target for each, yes in zip(rest, found, strict=True) if yes}
        return [each.name for each in tenants if each.target not in lacking]

    async def _not_current(
        self,
        tenants: Sequence[Tenant],
        seen: Callable[[str, bool], None] = lambda name, current: None,
    ) -> list[Tenant]:
        """The tenants that have to be looked at one by one; `seen` is told of the others."""
        try:
            current = set(await self._current(tenants))
        finally:
            if not self._under_way:
                await self._cohort.aclose()
        for each in current:
            seen(each, True)
        return [each for each in tenants if each.name not in current]

    # What an operator asks for.

    async def check(self) -> FleetStatus:
        """How every tenant stands; changes nothing. Raises SourceError."""
        tenants, refused = await self._members.read()
        await self._opened_for_reading()

        def seen(name: str, current: bool) -> None:
            if current:
                self._members.note(name, "current")

        rest = await self._not_current(tenants, seen)
        status = await self._looks().status(rest, refused, seen)
        total = len(tenants) + len(refused)
        return status._replace(total=total, quarantined=self._quarantined(tenants))

    async def plan(self) -> FleetPlan:
        """The pending revisions, by groups of tenants that lack the same; changes nothing."""
        tenants, refused = await self._members.read()
        return await self._looks().plan(await self._not_current(tenants), refused)

    async def status(self) -> LedgerStatus:
        """What the ledger says, without a look at any tenant. Raises ConfigurationError."""
        self.ledger.ensure_durable("status")
        tenants, refused = await self._members.read()
        await self.ledger.open(self._apart_from_all)
        counts: dict[str, int] = {}
        for each in tenants:
            entry = self.ledger.of(each.name, await self._members.plan(each.target))
            word = "not known yet" if entry is None else entry.state
            counts[word] = counts.get(word, 0) + 1
        if refused:
            counts["no tenant"] = len(refused)
        paused = await self.ledger.store.paused()
        total = len(tenants) + len(refused)
        return LedgerStatus(total, counts, self._quarantined(tenants), paused)

    async def retry(self, *names: str) -> tuple[str, ...]:
        """End the quarantine of these tenants, or of all; returns whose ended.

        The next run tries them again. Raises ConfigurationError for a name that no tenant has.
        """
        await self._opened_for_reading()
        held = {each.tenant for each in self.ledger.quarantined()}
        await self._members.ensure(*(name for name in names if name not in held))
        released = [each for each in (names or sorted(held)) if await self.ledger.release(each)]
        return tuple(released)

    async def quarantine(self, *names: str) -> None:
        """Keep these tenants out of every run, whatever their files, until `retry`.

        Raises ConfigurationError for a name that no tenant has.
        """
        await self._members.ensure(*names)
        await self._opened_for_reading()
        for name in names:
            await self.ledger.order(name)

    async def pause(self) -> None:
        """Begin no further tenant, in any process that runs this fleet, until `resume`."""
        await self._pause(True)

    async def resume(self) -> None:
        """Go on after `pause`."""
        await self._pause(False)

    async def _pause(self, paused: bool) -> None:
        await self.ledger.store.open(self._apart_from_all)
        await self.ledger.store.pause(paused)
        if self._rollout is not None:
            self._rollout.pause(paused)

    def events(self) -> Subscription:
        """Everything that happens in the run to come, or in the rest of the one under way.

        Each call is a subscription of its own, holds 10,000 unread events at most, and ends with
        the run.
        """
        return self.progress.subscribed()

    # What the application asks for.

    def ready(self, name: str) -> bool:
        """Whether the application may serve a tenant; in memory, asks no database.

        A tenant is ready when a run or a `check()` of this process has seen it at head, or when a
        strategy has told the application to go on.
        """
        return self._members.ready(name)

    def standing(self, name: str) -> Standing:
        """Why the application may not serve a tenant yet, in a word; in memory, as `ready`.

        `ready`; `not yet`: no run has seen it at head; `out of service`: it failed, or is in
        quarantine; `unknown`: the tenants were read, and none has this name.
        """
        if self.ready(name):
            return "ready"
        if self._members.was_read and name not in self._members.known:
            return "unknown"
        failed = self._members.outcome(name) in ("failed", "quarantined")
        return "out of service" if failed else "not yet"

    async def until_ready(self, name: str, limit: float = 60.0) -> bool:
        """Wait until a tenant is ready, `limit` seconds at most; returns whether it is.

        Where no run of this process is under way, its database is looked at now and then. Raises
        ConfigurationError for a name that no tenant has.
        """
        tenant = await self._members.get(name)
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while not self.ready(name):
                    if not self._under_way and await at_head(tenant):
                        self._members.note(name, "current")
                        break
                    with suppress(TimeoutError):
                        async with asyncio.timeout(POLL_S):
                            await self._members.until_changed()
        return self.ready(name)

    async def add(self, tenant: str | Tenant | Target) -> TenantReport:
        """Make a new tenant, at head, and count it in; the gate does not govern it.

        `tenant`: a name, where the tenants come from `schemas`, `databases` or `files`; else its
        target. A database is copied of a template, which is made once for each state of the files;
        a schema, and a database whose `x` or `attributes` tell env.py of the tenant, takes as long
        as all revisions do. What is killed leaves no tenant that seems to be at head.

        Raises RefusedError where there is one already, FleetError where its revisions fail,
        MigrationError where those of the template do, and ConfigurationError.
        """
        ensure_asyncio()
        found = settled(self._named(tenant) if isinstance(tenant, str) else tenant)
        if isinstance(found, Refusal):
            raise ConfigurationError(f"{found.name!r} names no tenant: {found.why}")
        self._members.add(found)
        try:
            if found.schema is not None:
                report = await self._sign_up.schema(found, found.schema)
            else:
                plan = await self._members.plan(found.target)
                report = await self._sign_up.database(found, plan)
        except BaseException:
            self._members.forget(found)
            raise
        finally:
            if not self._under_way:
                await shielded(self._cohort.aclose())
        self._members.note(found.name, report.outcome)
        if not report.at_head:
            raise FleetError(str(report), FleetReport((report,), report.seconds))
        return report

    def _named(self, name: str) -> Tenant:
        source = self._members.source
        if not isinstance(source, Making):
            raise ConfigurationError(
                "this fleet's tenants come from a list or a function, so nobody knows the target "
                f"of {name!r}: pass a Target"
            )
        return source.tenant(name)

    def targets(self) -> list[Target]:
        """The targets of the tenants that are known, and that of the ledger."""
        known = self._members.known.values()
        found = [each.target for each in known if isinstance(each, Tenant)]
        store = self.ledger.store
        return [*found, *([store.target] if isinstance(store, Control) else [])]

    def _looks(self) -> Looks:
        return Looks(self.ahead, self.rules.most_at_once, self.rules.per_server)

    def _quarantined(self, tenants: Sequence[Tenant]) -> dict[str, str]:
        names = {each.name for each in tenants}
        found = sorted(self.ledger.quarantined(), key=lambda each: each.tenant)
        return {each.tenant: each.why for each in found if each.tenant in names}

    async def _opened_for_reading(self) -> None:
        if self.ledger.store.durable and not self._under_way:
            await self.ledger.open(self._apart_from_all)

    async def _apart_from_all(self) -> None:
        """Raise RefusedError where a tenant's database was given for the ledger."""
        if not self._members.was_read:
            await self._members.read()
        known = self._members.known.values()
        await self._apart.ensure_all(each for each in known if isinstance(each, Tenant))
