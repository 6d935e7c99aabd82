"""Tenants in the order of their groups, so many at a time, until too many have failed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from types import MappingProxyType
from typing import Any

from automigrator.errors import ConfigurationError
from automigrator.fleet.executors.contract import Bringing, Executor
from automigrator.fleet.progress import Progress
from automigrator.fleet.report import TenantReport
from automigrator.fleet.tenants import Tenant
from automigrator.frozen import Frozen
from automigrator.support.concurrency import background

CANARY, REST, ALL = "canary", "the rest", "*"
"""The names of the first and the last group; `*` in `max_failures` means all tenants."""

Limit = int | float
"""How many tenants may fail: a number, or a share between 0 and 1."""


class Rules(Frozen):
    """How a fleet is rolled out; validated when made.

    Each field is an option of `Fleet`.

    `groups`: names of groups, in the order of the rollout; tenants of others come last; default:
    none.
    `canary`: the first so many tenants, or those of these names, before all groups; one that fails
    ends the rollout, unless `max_failures` says otherwise of the group `canary`; default 0.
    `concurrency`: tenants at a time, of all groups or by group; default 8.
    `per_server`: tenants at a time on one server; default None: no other limit.
    `max_failures`: how many tenants may fail before no further one is begun, a number or a share
    (`0.05`), of all tenants or by group (`*`: all); default None: any number.
    Raises ConfigurationError.
    """

    groups: Sequence[str] = ()
    canary: int | Sequence[str] = 0
    concurrency: int | Mapping[str, int] = 8
    per_server: int | None = None
    max_failures: Limit | Mapping[str, Limit] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.groups, str) or len(set(self.groups)) < len(tuple(self.groups)):
            raise ConfigurationError(
                f"groups={self.groups!r} is no list of names that differ, in the order of a rollout"
            )
        if wrong := {CANARY, REST, ALL} & set(self.groups):
            raise ConfigurationError(f"a group cannot be named {wrong.pop()!r}")
        if isinstance(self.canary, str):
            raise ConfigurationError('canary takes a number of tenants, or names: ["acme"]')
        if isinstance(self.canary, int):
            _number("canary", self.canary, 0)
        if self.per_server is not None:
            _number("per_server", self.per_server, 1)
        for name, number in self._by_group(self.concurrency, "concurrency").items():
            _number(f"concurrency of {name!r}" if name != ALL else "concurrency", number, 1)
        for limit in self._by_group(self.max_failures, "max_failures").values():
            share = isinstance(limit, float) and 0 <= limit <= 1
            if limit is not None and not share:
                _number("max_failures", limit, 0, "; a share is a float from 0.0 to 1.0")

    def _by_group(self, given: Any, what: str) -> Mapping[str, Any]:
        if not isinstance(given, Mapping):
            return {ALL: given}
        known = {CANARY, REST, ALL, *self.groups}
        if unknown := sorted(set(given) - known):
            raise ConfigurationError(
                f"{what} names {unknown[0]!r}, which is no group: {', '.join(sorted(known))}"
            )
        return given

    def concurrency_of(self, group: str) -> int:
        """How many tenants of a group are worked on at a time."""
        given = self._by_group(self.concurrency, "")
        return int(given.get(group, given.get(ALL, 8)))

    @property
    def most_at_once(self) -> int:
        """The largest concurrency of any group."""
        return max(self.concurrency_of(each) for each in (CANARY, *self.groups, REST))

    def limit_of(self, group: str) -> Limit | None:
        """How many tenants of a group may fail; `*` is asked for all of them."""
        given: Mapping[str, Limit | None] = self._by_group(self.max_failures, "")
        return given.get(group, 0 if group == CANARY else None)


def _number(name: str, value: object, least: int, more: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigurationError(f"{name}={value!r} is not a whole number from {least} up{more}")


class Stage:
    """One group while it is rolled out; `waiting` are its tenants by server.

    `failed`: how many of the group failed in an earlier run of the same files, and count here.
    `current`: how many lack nothing, and need not be begun.
    """

    def __init__(
        self, name: str, tenants: Iterable[Tenant], failed: int = 0, current: int = 0
    ) -> None:
        self.name = name
        self.waiting: dict[str, deque[Tenant]] = {}
        for each in tenants:
            self.waiting.setdefault(each.server, deque()).append(each)
        self.todo = sum(map(len, self.waiting.values()))
        self.total = self.todo + failed + current
        self.done, self.failed = 0, failed

    def next(self, has_room: Callable[[str], bool]) -> Tenant | None:
        """The next tenant of a server that has room; servers take turns."""
        for server in list(self.waiting):
            if has_room(server):
                tenants = self.waiting.pop(server)
                tenant = tenants.popleft()
                if tenants:
                    self.waiting[server] = tenants  # behind the others
                return tenant
        return None


def staged(
    tenants: Sequence[Tenant],
    rules: Rules,
    held: Mapping[str, bool] = MappingProxyType({}),
    takes: Callable[[str], bool] = lambda name: True,
    current: Collection[str] = (),
) -> list[Stage]:
    """The groups in order, with the tenants that are taken.

    `held`: those that are not tried, and whether each has failed, and so counts as a failure: a
    rollout that was ended by a canary must not begin with the next start. `current`: those that
    lack nothing.
    Raises ConfigurationError for a canary that is no tenant.
    """
    names = [each.name for each in tenants]
    if isinstance(rules.canary, int):
        canary = set(names[: rules.canary])
    elif unknown := sorted(set(rules.canary) - set(names)):
        raise ConfigurationError(
            f"canary names {unknown[0]!r}, and there is no tenant of that name; nothing was done"
        )
    else:
        canary = set(rules.canary)
    groups: dict[str, list[Tenant]] = {name: [] for name in (CANARY, *rules.groups, REST)}
    for each in tenants:
        known = each.group in groups
        groups[CANARY if each.name in canary else each.group if known else REST].append(each)
    stages = []
    for name, members in groups.items():
        names = [each.name for each in members]
        out = {*held, *current}
        taken = [each for each in members if each.name not in out and takes(each.name)]
        failed = sum(held.get(each, False) for each in names)
        stages.append(Stage(name, taken, failed, len(set(current).intersection(names))))
    return [stage for stage in stages if stage.total]


class Rollout:
    """One rollout; `reports` gets each tenant's as it ends."""

    def __init__(
        self,
        stages: Sequence[Stage],
        rules: Rules,
        progress: Progress,
        ended: Callable[[TenantReport], Awaitable[None]],
    ) -> None:
        self._stages, self._rules, self._progress, self._ended = stages, rules, progress, ended
        self._running: dict[str, tuple[Tenant, Stage]] = {}
        self._busy: Counter[str] = Counter()
        self._total = sum(stage.total for stage in stages)
        self._failed = sum(stage.failed for stage in stages)
        self._changed = asyncio.Event()
        self.paused = False
        self.stopped = ""
        """Why no further tenant is begun; empty while some are."""

    @property
    def untried(self) -> list[str]:
        """The tenants that were not begun, or of which nothing was heard."""
        waiting = [t.name for s in self._stages for each in s.waiting.values() for t in each]
        return [*self._running, *waiting]

    async def run(self, fleet: Bringing, executor: Executor) -> None:
        """Let the executor work on all tenants. Raises what it raises."""
        async with (
            background(self._progress.telling()),
            aclosing(self._fed()) as names,
            aclosing(executor.run(fleet, names)) as reports,
        ):
            async for report in reports:
                await self._report(report)

    def pause(self, paused: bool) -> None:
        """Begin no further tenant, or go on."""
        if paused != self.paused:
            self.paused = paused
            self._progress.say("fleet-paused" if paused else "fleet-resumed")
            self._changed.set()

    async def _fed(self) -> AsyncGenerator[str]:
        """The names of the tenants, each when there is room for it; groups follow each other."""
        for stage in self._stages:
            began = time.monotonic()
            self._progress.say("group-started", group=stage.name, tenants=stage.todo)
            self._judge(stage)
            while stage.waiting or self._running:
                tenant = None if self.stopped else self._next(stage)
                if tenant is None:
                    if self.stopped and not self._running:
                        break
                    self._changed.clear()
                    await self._changed.wait()
                    continue
                self._running[tenant.name] = tenant, stage
                self._busy[tenant.server] += 1
                self._progress.started(tenant.name, stage.name, tenant.server)
                yield tenant.name
            seconds = time.monotonic() - began
            told = {"group": stage.name, "done": stage.done, "failed": stage.failed}
            self._progress.say("group-finished", **told, seconds=seconds)
            if self.stopped:
                return

    def _next(self, stage: Stage) -> Tenant | None:
        if self.paused or len(self._running) >= self._rules.concurrency_of(stage.name):
            return None
        limit = self._rules.per_server
        return stage.next(lambda server: limit is None or self._busy[server] < limit)

    async def _report(self, report: TenantReport) -> None:
        found = self._running.pop(report.name, None)
        if found is None:
            return  # told twice: an executor works at least once
        tenant, stage = found
        self._busy[tenant.server] -= 1
        stage.done += 1
        if report.outcome in ("failed", "degraded"):
            stage.failed += 1
            self._failed += 1
        self._progress.ended(report)
        self._judge(stage)  # before anything is awaited: the executor may ask for the next one
        await self._ended(report)
        self._changed.set()

    def _judge(self, stage: Stage) -> None:
        """End the rollout where more tenants have failed than may."""
        counted = (
            (
                stage.failed,
                stage.total,
                f"of group {stage.name!r}",
                self._rules.limit_of(stage.name),
            ),
            (self._failed, self._total, "of all", self._rules.limit_of(ALL)),
        )
        for failed, total, whose, limit in counted:
            most = limit * total if isinstance(limit, float) else limit
            if most is not None and failed > most and not self.stopped:
                share = f"the share {limit:g} " if isinstance(limit, float) else f"{limit} "
                self.stopped = (
                    f"{failed} of {total} tenants {whose} failed, and max_failures lets {share}fail"
                )
                self._progress.say("fleet-stopped", reason=self.stopped)
