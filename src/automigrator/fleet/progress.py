"""How far a rollout is: counts, an estimate, events for subscribers, and a line now and then."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from automigrator.events.catalogue import Declared, debug, error, event, info, warning
from automigrator.events.event import Event
from automigrator.events.stream import Subscription
from automigrator.fleet.report import TenantReport
from automigrator.support.loggers import logger_of

logger = logger_of("automigrator.fleet")

TELL_S = 3.0
"""Seconds between two lines, and two `fleet-progress` events."""

WINDOW = 200
"""Tenants that ended last, by whose pace the time left is estimated."""

LOUD = 20
"""Failing tenants that get a line of their own; the report names the others."""

_DECLARED = (
    info("fleet-started", "tenants groups", "{tenants} tenants, {groups} groups"),
    info("group-started", "group tenants", "group {group}: {tenants} tenants"),
    info(
        "group-finished",
        "group done failed seconds",
        "group {group}: {done} done, {failed} failed in {seconds:.1f} s",
    ),
    debug("tenant-started", "group server", "started"),
    debug(
        "tenant-finished",
        "outcome before after applied attempts failure seconds worker notes",
        "{outcome} in {seconds:.2f} s",
    ),
    warning("tenant-failed", "outcome kind message revision", "{outcome}, {kind}: {message}"),
    info(
        "fleet-progress",
        "total done failed running seconds_left",
        "{done} of {total} tenants done, {failed} failed, {running} running{left}",
    ),
    warning("fleet-paused", "", "paused: no further tenant is begun"),
    info("fleet-resumed", "", "resumed"),
    error("fleet-stopped", "reason", "no further tenant is begun: {reason}"),
    event(None, "fleet-finished", "outcome counts seconds", "{outcome} in {seconds:.1f} s"),
)

CATALOGUE: Mapping[str, Declared] = {each.name: each for each in _DECLARED}
"""Every event of a rollout by its name; `docs/fleets.md` has the table."""


def sentence(told: Event) -> str:
    """What an event says to a person."""
    left = told.data.get("seconds_left")
    more = {"left": "" if left is None else f", about {left:.0f} s left"}
    return CATALOGUE[told.name].said(told.target, {**told.data, **more}, None)


class Progress:
    """What is known of a rollout while it goes on; it grows with no tenant.

    `total`, `done`, `failed`, `running` are numbers of tenants; those that failed are done, too.
    """

    def __init__(self) -> None:
        self.total = self.done = self.failed = self.running = 0
        self._subscriptions: list[Subscription] = []
        self._ended_at: deque[float] = deque(maxlen=WINDOW)
        self._run = ""
        self._loud = 0

    def begin(self, total: int, groups: int) -> None:
        """Count anew, for a rollout of so many tenants."""
        self.total, self.done, self.failed, self.running = total, 0, 0, 0
        self._ended_at.clear()
        self._ended_at.append(time.monotonic())
        self._run, self._loud = os.urandom(8).hex(), 0
        self.say("fleet-started", tenants=total, groups=groups)

    def started(self, name: str, group: str, server: str) -> None:
        """A tenant was given to the executor."""
        self.running += 1
        self.say("tenant-started", name, group=group, server=server)

    def ended(self, report: TenantReport, *, ran: bool = True) -> None:
        """A tenant's report is there. `ran`: whether the executor had it."""
        self.done += 1
        if ran:
            self.running -= 1
            self._ended_at.append(time.monotonic())
        told = report.to_dict()
        self.say("tenant-finished", told.pop("name"), **told)
        if report.outcome not in ("failed", "degraded"):
            return
        self.failed += 1
        self._loud += 1
        if self._loud <= LOUD:
            failure = {key: (report.failure or {}).get(key) for key in ("kind", "message")}
            revision = (report.failure or {}).get("revision")
            loud = {"outcome": report.outcome, **failure, "revision": revision}
            self.say("tenant-failed", report.name, **loud)

    @property
    def seconds_left(self) -> float | None:
        """The tenants that are left, at the pace of the last ones that ended; None before that."""
        ended = self._ended_at
        if len(ended) < 2:
            return None
        pace_s = (time.monotonic() - ended[0]) / (len(ended) - 1)
        return pace_s * (self.total - self.done)

    def counts(self) -> dict[str, Any]:
        """What `fleet-progress` carries."""
        left = self.seconds_left
        told = {name: getattr(self, name) for name in ("total", "done", "failed", "running")}
        return {**told, "seconds_left": None if left is None else round(left, 1)}

    async def telling(self) -> None:
        """Tell how far the rollout is, every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(TELL_S)
            self.say("fleet-progress", **self.counts())

    def say(self, name: str, tenant: str | None = None, /, **data: Any) -> None:
        """Report an event to the log and to those who subscribed."""
        declared = CATALOGUE[name]
        level = declared.level_for(data)
        logged = logger.isEnabledFor(level)
        if not (logged or self._subscriptions):
            return
        told = Event(name, tenant, data, run=self._run)
        if logged:
            logger.log(level, "%s", sentence(told), extra={"automigrator": told.to_log()})
        for subscription in self._subscriptions:
            subscription.put(told)

    def subscribed(self) -> Subscription:
        """Another listener, until the run ends; it holds a bounded number of unread events."""
        self._subscriptions.append(Subscription())
        return self._subscriptions[-1]

    def end(self) -> None:
        """End the subscriptions with the run."""
        while self._subscriptions:
            self._subscriptions.pop().end()


_TOLD = ("failed", "run-finished")
"""What a tenant's own run says of its failure, and the fleet says again."""

_within: ContextVar[bool] = ContextVar("automigrator.fleet", default=False)


@contextmanager
def quietly() -> Iterator[None]:
    """Context manager: what a tenant's run says up to INFO is told at DEBUG only."""
    token = _within.set(True)
    try:
        yield
    finally:
        _within.reset(token)


def _loud(record: logging.LogRecord) -> bool:
    if not _within.get():
        return True
    told = getattr(record, "automigrator", {}).get("event")
    if record.levelno > logging.INFO and told not in _TOLD:
        return True
    return logging.getLogger(record.name).getEffectiveLevel() <= logging.DEBUG


for _name in ("automigrator", "automigrator.migrations.isolation"):
    logging.getLogger(_name).addFilter(_loud)
