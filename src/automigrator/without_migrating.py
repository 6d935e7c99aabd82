"""The modes of `run()` that migrate nothing: `skip`, `check` and `wait`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from automigrator import gate
from automigrator.errors import FollowTimeoutError, PendingError
from automigrator.progress import Progress
from automigrator.report import Report, Status, TargetReport

logger = logging.getLogger("automigrator")

POLL_S, TELL_S = 0.5, 10.0

Check = Callable[[], Awaitable[Status]]


def skipped(tell: Progress) -> Report:
    """The report of a run that was not asked for."""
    why = f"off: set {gate.VARIABLE}=1, or pass Migrator(mode='migrate'), to migrate at startup"
    tell("skipped", reason=why)
    return Report(reason=why)


async def checked(check: Check) -> Report:
    """The report of databases that need nothing. Raises PendingError."""
    status = await check()
    if not status.current:
        raise PendingError(f"migrations are needed; nothing was changed\n{status}", status)
    return _current(status)


async def followed(check: Check, tell: Progress, limit: float) -> Report:
    """Wait until another process has migrated. Raises FollowTimeoutError after `limit` seconds."""
    began = told = time.monotonic()
    while True:
        status = await check()
        if status.current:
            return _current(status)
        now = time.monotonic()
        if now - began > limit:
            raise FollowTimeoutError(
                f"no other process has migrated within {limit:g} s, and {gate.VARIABLE}=wait "
                f"says that this one must not; nothing was changed\n{status}",
                status,
            )
        if now - told > TELL_S or told == began:
            what = "another process to migrate"
            tell("waiting", on="leader", what=what, seconds=now - began)
            told = now
        await asyncio.sleep(min(POLL_S, limit))


def _current(status: Status) -> Report:
    for each in status.targets:
        for note in each.notes:
            logger.warning("%s: %s", each.name, note)
    return Report(
        tuple(
            TargetReport(
                each.name, "current", before=each.heads, after=each.heads, notes=each.notes
            )
            for each in status.targets
        )
    )
