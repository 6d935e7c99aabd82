"""Whether this process may migrate: `mode=`, else `RUN_MIGRATIONS`, else no."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

from automigrator.errors import ConfigurationError, FollowTimeoutError, PendingError
from automigrator.report import Report, TargetReport
from automigrator.support.loggers import logger_of

if TYPE_CHECKING:
    from automigrator.events.notifier import Notifier
    from automigrator.status import Status, TargetStatus
    from automigrator.target import Target

Mode = Literal["migrate", "check", "wait", "skip"]

VARIABLE = "RUN_MIGRATIONS"

_WORDS: dict[str, Mode] = {
    **dict.fromkeys(("1", "true", "yes", "on"), "migrate"),
    **dict.fromkeys(("0", "false", "no", "off", ""), "skip"),
    "check": "check",
    "wait": "wait",
}


def validated(mode: str | None) -> Mode | None:
    """Return `mode` when it is one; raise ConfigurationError naming the values when it is not."""
    if mode is None or mode in get_args(Mode):
        return mode  # type: ignore[return-value]  # narrowed by the line above
    raise ConfigurationError(
        f"mode={mode!r} is not one of {', '.join(map(repr, get_args(Mode)))}; "
        f"leave it out and {VARIABLE} in the environment says"
    )


def resolve(mode: Mode | None) -> Mode:
    """The mode in force. Raises ConfigurationError when `RUN_MIGRATIONS` holds an unknown word."""
    if mode is not None:
        return mode
    word = os.environ.get(VARIABLE, "")
    try:
        return _WORDS[word.strip().lower()]
    except KeyError:
        raise ConfigurationError(
            f"{VARIABLE}={word!r} is not understood; use 1/true/yes/on to migrate, "
            "0/false/no/off (or leave it unset) to skip, check to raise when anything is pending, "
            "wait to wait until another process has migrated"
        ) from None


logger = logger_of("automigrator")

POLL_S, TELL_S = 0.5, 1.0

_FOUND = {
    "current": "every database is at the revision that the code expects",
    "failed": "it has failed, or cannot succeed",
    "timeout": "nobody has migrated",
}

SKIP_S = 2.0
"""Seconds for the look of a run that was not asked for."""

Check = Callable[[], "Awaitable[Status]"]


async def skipped(tell: Notifier, targets: Sequence[Target]) -> Report:
    """The report of a run that was not asked for; it warns of journals that are open."""
    why = f"off: set {VARIABLE}=1, or pass Migrator(mode='migrate'), to migrate at startup"
    for target in targets:
        if await _unfinished(target):
            why += (
                f"; {target.name} may hold half of an earlier migration that did not end: a start "
                "that migrates may undo it, and with it what the application writes until then"
            )
    tell("skipped", reason=why)
    return Report(reason=why)


async def _unfinished(target: Target) -> bool:
    """Whether a journal is open; False where the database does not say so at once."""
    from automigrator.runner.session import opened

    try:
        async with asyncio.timeout(SKIP_S), opened(target) as session:
            if session.backend.in_place:
                return False
            return (await session.backend.look([session.table])).unfinished
    except Exception:  # noqa: BLE001 - nobody asked for more
        return False


async def checked(check: Check) -> Report:
    """The report of databases that need nothing. Raises PendingError."""
    status = await check()
    if not status.current:
        raise PendingError(f"migrations are needed; nothing was changed\n{status}", status)
    return _current(status)


async def followed(check: Check, targets: Sequence[Target], tell: Notifier, limit: float) -> Report:
    """Wait until another process has migrated; the report of failure where it has failed.

    Raises FollowTimeoutError after `limit` seconds.
    """
    # local: no other mode needs them
    from automigrator.events.lock_wait import progress_of
    from automigrator.runner.leaders import Leaders

    leaders = Leaders(targets)
    began = told = time.monotonic()
    what = ""

    def ended(found: Literal["current", "failed", "timeout"]) -> float:
        """Tell the end of the wait, if there was one; returns its seconds."""
        seconds = time.monotonic() - began
        if what:
            data = {"what": what, "seconds": seconds, "found": found}
            tell("waited", on="leader", **data, result=_FOUND[found])
        return seconds

    while True:
        status = await check()
        if status.current:
            return _current(status, partial(leaders.reported, waited_s=ended("current")))
        if (failed := await leaders.failed(status)) is not None:
            ended("failed")
            return failed
        now = time.monotonic()
        if now - began > limit:
            ended("timeout")
            raise FollowTimeoutError(
                f"no other process has migrated within {limit:.3g} s, and in the mode "
                f"'wait' this one must not; nothing was changed\n{status}{leaders.said()}",
                status,
            )
        if now - told > TELL_S or told == began:
            what = f"{leaders.now or 'another process'} to migrate"
            progress = progress_of(leaders.now)
            tell("waiting", on="leader", what=what, seconds=now - began, progress=progress)
            told = now
        await asyncio.sleep(min(POLL_S, limit))


def _unwaited(status: TargetStatus) -> TargetReport:
    heads = status.heads
    return TargetReport(status.name, "current", heads, heads, notes=status.notes)


def _current(
    status: Status, reported: Callable[[TargetStatus], TargetReport] = _unwaited
) -> Report:
    for each in status.targets:
        for note in each.notes:
            logger.warning("%s: %s", each.name, note)
    return Report(tuple(map(reported, status.targets)))
