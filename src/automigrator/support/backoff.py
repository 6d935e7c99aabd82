"""Waiting again and again: growing pauses, and the time that is left."""

from __future__ import annotations

import asyncio
import random
import time


class Backoff:
    """Pauses between tries: `first_s` seconds, then `factor` times longer, up to `longest_s`.

    Each pause is shortened at random by up to the share `jitter` (0 to 1), so that processes
    that wait for the same thing do not all come back at the same moment.
    """

    def __init__(
        self, first_s: float, longest_s: float, factor: float = 2.0, jitter: float = 0.5
    ) -> None:
        self.longest_s = longest_s
        self.factor = factor
        self.jitter = jitter
        self._next_s = first_s

    def pause(self) -> float:
        """The next pause in seconds."""
        seconds = self._next_s
        self._next_s = min(seconds * self.factor, self.longest_s)
        return seconds * random.uniform(1 - self.jitter, 1)

    async def sleep(self) -> None:
        """Sleep for the next pause."""
        await asyncio.sleep(self.pause())


class Deadline:
    """A limit of `seconds` from now on, on the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._began = time.monotonic()

    def elapsed(self) -> float:
        """Seconds since the deadline was set."""
        return time.monotonic() - self._began

    def left(self) -> float:
        """Seconds that are left; 0 when it is over."""
        return max(self.seconds - self.elapsed(), 0.0)

    def is_over(self) -> bool:
        """Whether no time is left."""
        return self.elapsed() >= self.seconds
