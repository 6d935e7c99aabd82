"""Finishes or undoes what a killed process, or a cancelled attempt, left half done."""

from __future__ import annotations

import time
from contextlib import nullcontext

from automigrator.backends.contract.journal import Replaced
from automigrator.runner.state import Left, RunState


async def repair(state: RunState) -> str | None:
    """Repair what the journal promises, and tell.

    Returns what was done; None when there was nothing to do. Raises what the backend raises.
    """
    run = state.run
    again = run.acts.open("recover")
    expected = state.unfinished or run.taken is not None
    began = time.monotonic()
    step = state.progress.step("repair-started", "repair-failed", state.target)
    with run.acts.act("recover") as act:
        with step if expected else nullcontext():
            done = await state.hold.recover()
        if expected or done is not None:
            what, seconds = done or "nothing was left to do", time.monotonic() - began
            state.tell("repaired", what=what, seconds=seconds)
        act.changed = done is not None
        state.replaced = state.replaced or isinstance(done, Replaced)
    if again:  # the half that an earlier try could not end is gone
        state.lasting = Left()
    state.unfinished = False
    return done
