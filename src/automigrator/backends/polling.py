"""Waiting for a lock that another process holds: tried again and again, never queued for."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from automigrator.errors import LockTimeoutError

Waiting = Callable[[float, str], None]

"""Gets the seconds waited so far and who holds the lock."""

_FIRST_S, _LONGEST_S, _TELL_S = 0.02, 0.5, 1.0


def this_process() -> str:
    """Who this is, for those who wait: process, host and since when, in UTC."""
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
    began = time.monotonic()
    told, pause = began, _FIRST_S
    while not await acquire():
        now = time.monotonic()
        if now - began >= timeout_s:
            raise LockTimeoutError(
                f"the migration lock of {what} was still held by {await leader()} after "
                f"{now - began:.0f} s; nothing was changed"
            )
        if now - told >= _TELL_S or told == began:
            told = now
            waiting(now - began, await leader())
        await asyncio.sleep(min(pause * random.uniform(0.5, 1.5), timeout_s))
        pause = min(pause * 1.5, _LONGEST_S)
    return time.monotonic() - began
