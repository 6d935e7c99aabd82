"""The time that a run has for all its targets; when it is over, what is under way is undone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from automigrator.diagnosis import JudgedError, Left, diagnose
from automigrator.failure import Failure
from automigrator.report import Report, TargetReport
from automigrator.target import Target

if TYPE_CHECKING:
    from automigrator.course import Course
    from automigrator.run import Run

RUNNING = "running env.py"
"""What a course is at while the pending revisions run."""

_ADVICE = (
    "start again: it goes on from where the database is now. If that is no help, raise "
    "Migrator(run_timeout=), or find out what it waited for"
)


class TimeIsUpError(JudgedError):
    """Raised when a run took longer than its `run_timeout`."""

    def __init__(self, seconds: float, what: str, statement: str | None = None) -> None:
        super().__init__(
            "timeout",
            f"the run took longer than run_timeout={seconds:g} s; when its time was over it was "
            f"{what}",
            _ADVICE,
            statement,
        )


@dataclass(slots=True, eq=False)
class RunLimit:
    """What is left of a run's time; made when the run begins."""

    seconds: float
    _ends: float = field(init=False)
    _timeout: asyncio.Timeout | None = None
    _earlier: int = 0

    def __post_init__(self) -> None:
        self._ends = asyncio.get_running_loop().time() + self.seconds

    def begin(self) -> asyncio.Timeout:
        """What the work is awaited within; it is cancelled when the time is over."""
        self._earlier = _cancellations()
        self._timeout = asyncio.timeout_at(self._ends)
        return self._timeout

    def is_over(self) -> bool:
        """Whether the time is over and nobody else ends the run; ask in the run's task."""
        timeout = self._timeout
        return timeout is not None and timeout.expired() and _cancellations() <= self._earlier + 1


def time_is_up(course: Course) -> TimeIsUpError:
    """The error of a run whose time is over: what it waited for, or did."""
    assert course.limit is not None
    execution = course.execution
    if course.at == RUNNING and execution is not None and execution.current is not None:
        what = f"running revision {execution.current}, which was stopped"
        return TimeIsUpError(course.limit.seconds, what, execution.statement)
    return TimeIsUpError(course.limit.seconds, course.at)


async def within(course: Course, work: Callable[[Run], Awaitable[TargetReport]]) -> TargetReport:
    """Await one target's part of a run; as long as the run has time, and then report that."""
    limit = course.limit
    if limit is None:
        return await work(course.run)
    try:
        async with limit.begin() as timeout:
            return await work(course.run)
    except TimeoutError:
        if not timeout.expired():
            raise
    error = time_is_up(course)
    # the attempts answer for what they began; here nothing was, or all of it is committed
    applied = tuple(each.revision for each in course.applied)
    left = Left("partial-at-boundary", applied) if applied else course.lasting
    failure = _failure(error, course.ground.target, left, attempt=course.run.attempt)
    course.failures.append(failure)
    course.progress("failed", course.run.name, told=failure, **failure.to_dict())
    return course.report("failed")


async def looked_within(
    seconds: float | None, targets: Sequence[Target], work: Awaitable[Report]
) -> Report:
    """Await a run that changes nothing; a report of failure when it takes longer."""
    try:
        async with asyncio.timeout(seconds) as timeout:
            return await work
    except TimeoutError:
        if seconds is None or not timeout.expired():
            raise
    first, *others = targets
    error = TimeIsUpError(seconds, "still looking, and nothing was changed")
    failed = TargetReport(
        first.name, "failed", failures=(_failure(error, first, Left(), attempt=0),)
    )
    return Report((failed, *(TargetReport(each.name, "not-run") for each in others)), seconds)


def _failure(error: TimeIsUpError, target: Target, left: Left, *, attempt: int) -> Failure:
    return diagnose(error, target, None, left, attempt=attempt, otherwise="timeout")


def _cancellations() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0
