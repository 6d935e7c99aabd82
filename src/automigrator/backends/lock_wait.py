"""Waiting for a lock that another process holds: it is tried again and again, never queued for.

`Target.lock_timeout` sets the limit.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from automigrator.backends.contract.backend import Waiting
from automigrator.errors import LockTimeoutError
from automigrator.support.backoff import Backoff, Deadline

_FIRST_S, _LONGEST_S, _TELL_S = 0.03, 0.75, 1.0


def this_process() -> str:
    """Name this process for those that wait: process, host and since when, in UTC."""
    now = datetime.now(UTC).strftime("%H:%M:%S")
    return f"process {os.getpid()} on {socket.gethostname()} since {now} UTC"


async def poll(
    acquire: Callable[[], Awaitable[bool]],
    timeout_s: float,
    waiting: Waiting,
    leader: Callable[[], Awaitable[str]],
    what: str,
) -> float:
    """Try `acquire` until it succeeds; returns the seconds waited. Raises LockTimeoutError."""
    deadline, told = Deadline(timeout_s), Deadline(0)
    backoff = Backoff(_FIRST_S, _LONGEST_S, factor=1.5, jitter=2 / 3)
    while not await acquire():
        if deadline.is_over():
            raise LockTimeoutError(
                f"the migration lock of {what} was still held by {await leader()} after "
                f"{deadline.elapsed():.0f} s; nothing was changed"
            )
        if told.is_over():
            told = Deadline(_TELL_S)
            waiting(deadline.elapsed(), await leader())
        await asyncio.sleep(min(backoff.pause(), timeout_s))
    return deadline.elapsed()
