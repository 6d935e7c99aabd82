"""Runs that end before their time: by a cancellation, by their limit, or killed, and repaired."""

from __future__ import annotations

import time
from contextlib import nullcontext

from automigrator.backends.contract.journal import Replaced
from automigrator.runner.failures import failed, read_after
from automigrator.runner.records.crash_loop import repairs_counted, take_back
from automigrator.runner.records.leader_record import leave
from automigrator.runner.state import Left, RunState
from automigrator.runner.targets import time_is_up
from automigrator.support.redaction import first_line

LOOK_S = 1.0
"""Seconds for a look at a server that may be silent: somebody asked for the end."""


async def cut_short(state: RunState) -> None:
    """Forget that the start began, undo or finish what a journal is open for, and tell."""
    state.hold.hurry()
    await take_back(state)
    done: str | None = None
    acts = state.run.acts
    if acts.began("snapshot") or acts.began("recreate"):
        # the application may go on and write: a later undo would lose that
        try:
            done = await repair(state)
        except Exception as error:  # noqa: BLE001 - it is told, and the cancellation is raised
            done = f"the next start has to finish ({first_line(error)})"
    state.how_far = await _how_far(state)
    if done:
        state.how_far += f"; {done}"
    state.tell("cancelled", what=state.how_far, heads=list(state.after))


async def ran_out(state: RunState) -> None:
    """Make it a failure of the target that the run's time is over; no plugin is asked about it.

    A follower leaves no record: it would replace its leader's. Where half a revision may have
    stayed the journal is left open: the next start restores.
    """
    run, hold = state.run, state.hold
    hold.hurry()
    failure = await failed(state, time_is_up(state), within_s=LOOK_S)
    state.lasting = Left.of(failure)
    try:
        if run.acts.began("snapshot") and run.taken is None:
            await repair(state)
        elif run.acts.open("restore") or run.acts.open("recover"):
            run.note("a restore was begun: the next start finishes it, before it migrates")
        elif run.taken is not None and failure.state == "partial-within-revision":
            run.note(f"the next start puts {run.taken.place} back, before it migrates")
        elif run.taken is not None and failure.state == "unknown":
            run.note(f"the next start looks whether {run.taken.place} is to be put back")
        else:
            await hold.close_journal()
    except Exception as error:  # noqa: BLE001 - the next start finishes it
        run.note(f"the next start has to finish what was begun ({first_line(error)})")
    if state.leads:
        await leave(state, "failed")
    await read_after(state, LOOK_S)


async def _how_far(state: RunState) -> str:
    execution, finding = state.execution, state.finding
    if finding is None or execution is None or not (execution.done or execution.current):
        return "nothing was migrated"
    under_way = f"revision {execution.current} was under way" if execution.current else ""
    if not await read_after(state, LOOK_S):
        return f"{under_way or 'a migration was under way'}, and what was not committed rolls back"
    heads, history = state.after, await state.session.history()
    kept = finding.ended(history, finding.pending, heads) if history.knows(heads) else ()
    stays, gone, none = "kept", "undone", "no revision was kept"
    if finding.down_to is not None:
        stays, gone, none = "undone", "kept", "no revision was undone"
        under_way = under_way and f"the downgrade of {under_way}"
    parts = [
        under_way and f"{under_way} and was {stays if execution.current in kept else gone}",
        f"{'applied and ' * (stays == 'kept')}{stays}: {', '.join(kept)}" if kept else none,
        f"the database is at {', '.join(heads) or 'base'}",
    ]
    return "; ".join(part for part in parts if part)


async def repair(state: RunState) -> str | None:
    """Repair what the journal promises, and tell.

    Returns what was done; None when there was nothing to do. Raises what the backend raises.
    """
    run = state.run
    again = run.acts.open("recover")
    expected = state.unfinished or run.taken is not None
    began = time.monotonic()
    state.hold.counting = repairs_counted(state)
    state.hold.binaries = state.hooks.binaries
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
