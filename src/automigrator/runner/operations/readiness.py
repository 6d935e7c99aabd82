"""A look at the databases for a health endpoint: one SELECT each, where they lack nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

from automigrator.readiness import Readiness
from automigrator.runner.fast_path import current
from automigrator.status import Status
from automigrator.support.loggers import logger_of
from automigrator.support.redaction import first_line
from automigrator.target import Target

logger = logger_of(__name__)


async def looked(
    last: Readiness, targets: Sequence[Target], check: Callable[[], Awaitable[Status]], limit: float
) -> Readiness:
    """What the databases say now, within `limit` seconds; no answer is one, too."""
    try:
        async with asyncio.timeout(limit):
            reason = await _lacking(targets, check)
    except TimeoutError:
        reason = f"the databases did not answer within {limit:g} s"
    except Exception as error:  # noqa: BLE001 - whoever asks may be anybody: the log has it
        logger.warning("looking whether the databases are ready: %s", first_line(error))
        reason = f"the databases could not be looked at: {type(error).__name__}"
    now = "every database is at the revision that the code expects"
    return last._replace(ready=not reason, reason=reason or now)


async def _lacking(targets: Sequence[Target], check: Callable[[], Awaitable[Status]]) -> str:
    async with AsyncExitStack() as kept:
        done, _ = await current(targets, kept)
        if len(done) == len(targets):
            return ""
    names = [each.name for each in await check() if not each.current]
    return f"not at the revision that the code expects: {', '.join(names)}" if names else ""
