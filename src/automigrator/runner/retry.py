"""Waits for the server, and repeats an attempt after what passes: a deadlock, a lost connection."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from automigrator.backends.contract.values import Sight
from automigrator.errors import ConfigurationError
from automigrator.failure import Failure
from automigrator.report import Outcome
from automigrator.runner.attempt import attempt
from automigrator.runner.failures import described, settle
from automigrator.runner.read_back import TRANSIENT
from automigrator.runner.state import Left, RunState
from automigrator.support.backoff import Backoff, Deadline
from automigrator.support.concurrency import within

FIRST_PAUSE_S = 0.25

LONGEST_PAUSE_S = 5.0


async def patiently(state: RunState) -> Outcome:
    """Make an attempt, again while its failures are transient and `retry_timeout` allows.

    No plugin is asked meanwhile. From the second try on the sessions that block it are watched.
    Raises what the last try raised.
    """
    deadline = Deadline(state.target.retry_timeout)
    # jitter: two that wait for each other are not to meet again
    backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
    failure: Failure | None = None
    async with AsyncExitStack() as watch:
        while True:
            try:
                if failure is not None and failure.state == "unknown":
                    await settle(state, failure)
                return await attempt(state)
            except Exception as error:
                failure = await described(state, error)
                seconds = backoff.pause()
                if not _passes(state, failure) or seconds > deadline.left():
                    if failure.error is None or failure.error is error:
                        raise
                    raise failure.error from error  # what is behind it: the lock is lost, say
            state.lasting = Left.of(failure)
            where = f" in revision {failure.revision}" if failure.revision else ""
            what = f"{failure.message}{where}"
            state.tell("retrying", seconds=seconds, kind=failure.kind, what=what)
            state.attempt_finished("failed")
            await asyncio.sleep(seconds)
            if state.blockers is None:
                state.blockers = await watch.enter_async_context(state.hold.blockers())


def _passes(state: RunState, failure: Failure) -> bool:
    """Whether to try again; not after half a revision, unless a dead leader left that half.

    This run has yet to repair it then. The driver's error decides: an unusable journal
    also has the kind `unreachable`, but waiting does not help.
    """
    run, error = state.run, failure.error
    if failure.kind not in TRANSIENT or not run.locked:
        return False
    if failure.state != "partial-within-revision":
        return True
    dead_leaders = run.acts.open("recover") and run.taken is None
    if not dead_leaders or state.start.stage != "not counted" or error is None:
        return False
    return state.backend.classify(error).kind in TRANSIENT


REACH_FIRST_PAUSE_S = 0.1

REACH_LONGEST_PAUSE_S = 3.0


async def reach(state: RunState, *, to_write: bool = False) -> Sight:
    """Look, again while the database is unreachable, for `connect_timeout` seconds.

    `to_write`: again also while it takes no writes; during a fail-over the address may lead to a
    standby that is yet to be promoted. The last answer is returned as it is. Raises what the last
    look raised that came to its end.
    """
    what = "a standby to be promoted" if to_write else "the database server"
    deadline = Deadline(state.target.connect_timeout)
    backoff = Backoff(REACH_FIRST_PAUSE_S, REACH_LONGEST_PAUSE_S)
    silent = TimeoutError(f"no answer from the database within {deadline.seconds:g} s")
    last: Exception = silent
    waited_s = 0.0
    while True:
        pause = backoff.pause()
        try:
            async with within(deadline.left(), lambda: silent):
                sight = await state.look()
        except ConfigurationError:
            raise  # an argument that the driver refuses does not become right
        except Exception as error:
            last = error if error is not silent else last
            state.unreached = last
            if pause > deadline.left() or state.backend.classify(error).kind != "unreachable":
                if last is error:
                    raise
                raise last from last.__cause__
        else:
            state.unreached = None
            enough = sight.writable or not to_write
            if enough and waited_s:
                state.tell("reached", waited_s=waited_s)
            if enough or pause > deadline.left():
                return sight
        waited_s = deadline.elapsed()
        state.enter(f"waiting for {what}")
        state.tell("waiting", on="server", what=what, seconds=waited_s, progress="")
        await asyncio.sleep(pause)
