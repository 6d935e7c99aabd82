"""What passes by itself is tried again: somebody's lock, a deadlock, a connection that was cut."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeVar

from automigrator.backends.contract.backend import Backend
from automigrator.failure import Failure, FailureKind
from automigrator.runner.diagnosis import Left
from automigrator.runner.failures import described
from automigrator.runner.state import Course

T = TypeVar("T")

TRANSIENT: frozenset[FailureKind] = frozenset({"lock-timeout", "unreachable"})

FIRST_PAUSE_S = 0.25

LONGEST_PAUSE_S = 5.0


async def patiently(course: Course, attempt: Callable[[], Awaitable[T]]) -> T:
    """Await `attempt()`, again while what it met is transient, as long as the target allows.

    No plugin is asked meanwhile. From the second try on it is watched who is in the way. What
    was raised last passes through.
    """
    deadline = time.monotonic() + course.ground.target.retry_timeout
    pause = FIRST_PAUSE_S
    async with AsyncExitStack() as watch:
        while True:
            try:
                return await attempt()
            except Exception as error:
                failure = await described(course, error)
                if not _passes(course, failure) or time.monotonic() + pause > deadline:
                    if failure.error is None or failure.error is error:
                        raise
                    raise failure.error from error  # what is behind it: the lock is lost, say
            course.lasting = Left.of(failure)
            # jitter: what two of them wait for each other for is not to meet again
            seconds = pause * random.uniform(0.5, 1)
            course.progress(
                "retrying", course.run.name, seconds=seconds, kind=failure.kind, what=_what(failure)
            )
            course.attempt_finished("failed")
            await asyncio.sleep(seconds)
            pause = min(pause * 2, LONGEST_PAUSE_S)
            if course.blockers is None:
                watching = course.ground.backend.watching_for_blockers()
                course.blockers = await watch.enter_async_context(watching)


def _passes(course: Course, failure: Failure) -> bool:
    return (
        failure.kind in TRANSIENT
        and (failure.state != "partial-within-revision" or _only_repairing(course, failure))
        and course.run.locked
    )


def _only_repairing(course: Course, failure: Failure) -> bool:
    """Whether it is a dead leader's half, which this run has yet to finish or undo.

    By the driver's word: a journal that cannot be used is out of reach as well, and stays so.
    """
    dead_leaders = course.run.unfinished and course.run.taken is None and not course.begun
    error = failure.error
    return dead_leaders and error is not None and course.ground.backend.classify(error) in TRANSIENT


def _what(failure: Failure) -> str:
    where = f" in revision {failure.revision}" if failure.revision else ""
    return f"{failure.message}{where}"


REACH_FIRST_PAUSE_S = 0.1

REACH_LONGEST_PAUSE_S = 3.0


async def reach(
    backend: Backend,
    ask: Callable[[], Awaitable[T]],
    limit_s: float,
    waiting: Callable[[float], None],
    enough: Callable[[T], bool] = lambda answer: True,
) -> T:
    """Await `ask()`, again while the database is unreachable, for at most `limit_s` seconds.

    Again also while the answer is not `enough`; the last one is returned as it is. `waiting` gets
    the seconds so far before each pause. What `ask` last raised passes through.
    """
    began = time.monotonic()
    pause = REACH_FIRST_PAUSE_S
    while True:
        try:
            async with asyncio.timeout(max(began + limit_s - time.monotonic(), 0)) as deadline:
                answer = await ask()
            if enough(answer) or time.monotonic() - began + pause > limit_s:
                return answer
        except Exception as error:
            waited = time.monotonic() - began
            overdue = deadline.expired() or waited + pause > limit_s
            if deadline.expired():
                raise TimeoutError(f"no answer from the database within {limit_s:g} s") from error
            if overdue or backend.classify(error) != "unreachable":
                raise
        waiting(time.monotonic() - began)
        # jitter: many replicas wait for the same server
        await asyncio.sleep(pause * random.uniform(0.5, 1))
        pause = min(pause * 2, REACH_LONGEST_PAUSE_S)
