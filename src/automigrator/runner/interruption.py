"""Runs that end before their time: by a cancellation, by their limit, or killed, and repaired."""

from __future__ import annotations

import time
from contextlib import nullcontext

from automigrator.backends.contract.journal import Replaced
from automigrator.runner.failures import failed, read_after
from automigrator.runner.records.crash_loop import repairs_counted, take_back
from automigrator.runner.records.leader_record import leave
from automigrator.runner.signals import not_begun
from automigrator.runner.state import Left, RunState
from automigrator.runner.targets import time_is_up
from automigrator.support.redaction import first_line

LOOK_S = 1.0
"""Seconds for a look at a server that may be silent: somebody asked for the end."""


async def cut_short(state: RunState) -> None:
    """Forget that the start began, undo or finish what a journal is open for, and tell."""
    state.hold.hurry()
    await take_back(state)
    done = left_open = ""
    acts = state.run.acts
    if acts.began("snapshot") or acts.began("recreate"):
        # the application may go on and write: a later undo would lose that
        try:
            done = await repair(state) or ""
        except Exception as error:  # noqa: BLE001 - it is told, and the cancellation is raised
            left_open = f"the next start has to finish ({first_line(error)})"
    happened, then = await _how_far(state, repaired=bool(done))
    state.how_far = "; ".join(filter(None, (happened, done, left_open or then)))
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


async def _how_far(state: RunState, *, repaired: bool) -> tuple[str, str]:
    """What was interrupted with what is in the database now, and what the next start does."""
    execution, finding, run = state.execution, state.finding, state.run
    if finding is None or execution is None or not (execution.done or execution.current):
        return not_begun(state.phase.what, rollback=run.rollback), ""
    current = execution.current
    under_way = f"revision {current} was under way" if current else ""
    if not await read_after(state, LOOK_S):
        happened = f"{under_way or 'a migration was under way'}, and what was not committed"
        return f"{happened} rolls back", "the next start looks how far it came, and goes on there"
    heads, history = state.after, await state.session.history()
    kept = finding.ended(history, finding.pending, heads) if history.knows(heads) else ()
    left = [each for each in finding.pending if each not in kept]
    stays, gone, none = "kept", "undone", "no revision was kept"
    then = f"the next start begins with {left[0]}" if left else "nothing is left to run"
    if finding.down_to is not None:
        stays, gone, none = "undone", "kept", "no revision was undone"
        under_way = under_way and f"the downgrade of {under_way}"
        then = f"another rollback to {finding.down_to} begins with {left[0]}" if left else ""
    became = f"was {stays if current in kept else gone}"
    if current in execution.observed.torn and current not in kept and not repaired:
        became = "half of it may have stayed"
        then += ", from its beginning: undo by hand first what stayed of it"
    parts = [
        under_way and f"{under_way} and {became}",
        f"{'applied and ' * (stays == 'kept')}{stays}: {', '.join(kept)}" if kept else none,
        f"the database is at {', '.join(heads) or 'base'}",
    ]
    return "; ".join(part for part in parts if part), then


def whole(state: RunState) -> str:
    """How far a run came that is stopped after its last revision."""
    did = "undone" if state.run.rollback else "applied"
    heads = ", ".join(state.after) or "base"
    return f"every revision was {did}, and the database is at {heads}; nothing is left to run"


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
