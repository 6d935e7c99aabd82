"""The time that a run has for all its targets; when it is over, what is under way is undone."""

from __future__ import annotations

import asyncio

from automigrator.errors import JudgedError
from automigrator.failure import FailureKind

_ADVICE = (
    "start again: it goes on from where the database is now. If that is no help, raise the limit, "
    "or find out what it waited for"
)


class TimeIsUpError(JudgedError):
    """Raised when a run took longer than its `limit`, `Timeouts(run=60)`, say."""

    def __init__(
        self,
        limit: str,
        what: str,
        statement: str | None = None,
        *,
        kind: FailureKind = "timeout",
        advice: str = _ADVICE,
    ) -> None:
        super().__init__(
            kind,
            f"the run took longer than {limit}; when its time was over it was {what}",
            advice,
            statement,
        )


def limit_text(seconds: float | None, given: str = "") -> str:
    """How a person has set a run's limit: `given`, or the option of the migrator."""
    return given or f"Timeouts(run={seconds:g})"


class RunLimit:
    """What is left of a run's time, None for no limit; made when the run begins.

    `given`: how a person has set it, where that is not the migrator's option.
    """

    def __init__(self, seconds: float | None, given: str = "") -> None:
        self.given = given
        self.seconds = seconds
        self._ends = None if seconds is None else asyncio.get_running_loop().time() + seconds
        self._timeout: asyncio.Timeout | None = None
        self._earlier = 0

    def begin(self) -> asyncio.Timeout:
        """What the work is awaited within; it is cancelled when the time is over."""
        self._earlier = _cancellations()
        self._timeout = asyncio.timeout_at(self._ends)
        return self._timeout

    def left_s(self, least_s: float) -> float | None:
        """The seconds that are left, and `least_s` at least; None where there is no limit."""
        if self._ends is None:
            return None
        return max(least_s, self._ends - asyncio.get_running_loop().time())

    def is_over(self) -> bool:
        """Whether the time is over and nobody else ends the run; ask in the run's task."""
        timeout = self._timeout
        return timeout is not None and timeout.expired() and _cancellations() <= self._earlier + 1


def _cancellations() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0
