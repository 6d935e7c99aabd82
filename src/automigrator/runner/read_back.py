"""Reads the heads after a migration, as patiently as its limits allow."""

from __future__ import annotations

import asyncio

from automigrator.backends.contract.values import Sight
from automigrator.failure import FailureKind
from automigrator.runner.state import RunState
from automigrator.support.backoff import Backoff, Deadline
from automigrator.support.redaction import first_line

TRANSIENT: frozenset[FailureKind] = frozenset({"lock-timeout", "unreachable"})
"""Kinds of what passes by itself."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 3.0


async def read_back(state: RunState) -> Sight:
    """Look, again while the database is locked or out of reach, within the target's limits.

    What has just been committed must not count as failed because a look did. Raises what the last
    look raised.
    """
    target = state.target
    deadline = Deadline(max(target.connect_timeout, target.retry_timeout))
    backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
    while True:
        pause = backoff.pause()
        try:
            return await state.look()
        except Exception as error:
            kind = state.backend.classify(error).kind
            if kind not in TRANSIENT or pause > deadline.left():
                raise
            what = f"the database to answer ({first_line(error)})"
            state.tell("waiting", on="server", what=what, seconds=deadline.elapsed(), progress="")
        await asyncio.sleep(pause)
