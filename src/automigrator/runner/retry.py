"""Tries again after what passes by itself: a foreign lock, a deadlock, a connection cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import TypeVar

from automigrator.backends.contract.backend import Backend
from automigrator.failure import Failure, FailureKind
from automigrator.runner.failures import described
from automigrator.runner.state import Left, RunState
from automigrator.support.backoff import Backoff, Deadline
from automigrator.support.concurrency import within

T = TypeVar("T")

TRANSIENT: frozenset[FailureKind] = frozenset({"lock-timeout", "unreachable"})

FIRST_PAUSE_S = 0.25

LONGEST_PAUSE_S = 5.0


async def patiently(state: RunState, attempt: Callable[[], Awaitable[T]]) -> T:
    """Await `attempt()`, again while its failures are transient and `retry_timeout` allows.

    No plugin is asked meanwhile. From the second try on the sessions that block it are watched.
    Raises what the last try raised.
    """
    deadline = Deadline(state.session.target.retry_timeout)
    # jitter: two that wait for each other are not to meet again
    backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
    async with AsyncExitStack() as watch:
        while True:
            try:
                return await attempt()
            except Exception as error:
                failure = await described(state, error)
                seconds = backoff.pause()
                if not _passes(state, failure) or seconds > deadline.left():
                    if failure.error is None or failure.error is error:
                        raise
                    raise failure.error from error  # what is behind it: the lock is lost, say
            state.lasting = Left.of(failure)
            state.progress(
                "retrying", state.run.name, seconds=seconds, kind=failure.kind, what=_what(failure)
            )
            state.attempt_finished("failed")
            await asyncio.sleep(seconds)
            if state.blockers is None:
                assert state.hold is not None
                state.blockers = await watch.enter_async_context(state.hold.blockers())


def _passes(state: RunState, failure: Failure) -> bool:
    return (
        failure.kind in TRANSIENT
        and (failure.state != "partial-within-revision" or _only_repairing(state, failure))
        and state.run.locked
    )


def _only_repairing(state: RunState, failure: Failure) -> bool:
    """Whether the half-applied revision is a dead leader's, which this run has yet to repair.

    The driver's error decides: a journal that cannot be used is out of reach as well, for good.
    """
    run, error = state.run, failure.error
    dead_leaders = run.acts.open("recover") and run.taken is None
    if not dead_leaders or state.start.stage != "not counted" or error is None:
        return False
    return state.session.backend.classify(error).kind in TRANSIENT


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

    Asks again also while the answer is not `enough`; the last one is returned as it is. `waiting`
    gets the seconds so far before each pause. Raises what `ask` raised last.
    """
    deadline = Deadline(limit_s)
    backoff = Backoff(REACH_FIRST_PAUSE_S, REACH_LONGEST_PAUSE_S)
    silent = partial(TimeoutError, f"no answer from the database within {limit_s:g} s")
    while True:
        pause = backoff.pause()
        try:
            async with within(deadline.left(), silent):
                answer = await ask()
            if enough(answer) or pause > deadline.left():
                return answer
        except Exception as error:
            if pause > deadline.left() or backend.classify(error).kind != "unreachable":
                raise
        waiting(deadline.elapsed())
        await asyncio.sleep(pause)
