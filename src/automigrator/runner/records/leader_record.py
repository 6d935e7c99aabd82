"""What a leader leaves to those who waited for it, and what they make of it.

Twenty replicas that wait for one lock would each try the revision that fails, and each recover.
"""

from __future__ import annotations

import time
from functools import partial

from automigrator.backends.contract.record import Record
from automigrator.failure import Decision, Failure, State
from automigrator.report import Outcome
from automigrator.runner.records.crash_loop import (
    counts,
    earlier_starts,
    is_damaged,
    take_back,
)
from automigrator.runner.records.one_start import this_start
from automigrator.runner.session import Session
from automigrator.runner.state import Left, RunState
from automigrator.support.concurrency import in_thread
from automigrator.support.redaction import first_line

HALVES: tuple[State, ...] = ("unknown", "partial-within-revision")
"""States that a later start is in as well, whatever becomes of its own attempts."""

SLACK_S = 60.0
"""Seconds that the clock of a record may be put forward while a follower waits for its leader."""


async def inherited(state: RunState) -> Outcome | None:
    """Take over the failure of a leader that tried the very same while this process waited for it.

    One of the same start counts as waited for. Returns what this process's own plugins make of it,
    and none of them may touch anything. None: try it, as a later start and another deployment do.
    """
    hold = state.hold
    record = await hold.last() if state.plan else None
    if record is None or record.plan != state.plan:
        return None
    if record.outcome != "begun" and record.state in HALVES and not state.run.acts.done("recover"):
        state.earlier = state.lasting = Left(record.state)
    ours = bool(record.start) and record.start == this_start()
    if record.at < hold.since and not ours:
        return None
    put_forward = not ours and record.at > hold.since + time.monotonic() - state.began + SLACK_S
    if record.outcome == "begun" or put_forward:
        return None  # it died, or the clock was set back after the record was written
    failures = [Failure.from_dict(failure) for failure in record.failures]
    if not failures:
        return None  # it cannot be told what happened
    state.leads = False
    from automigrator.runner.rehearsals.deferral import inherited_deferral  # local: for failures

    state.wait.ended(record.outcome)
    if inherited_deferral(state, record, failures[-1]):
        state.run.notes.append(f"{record.leader} has {failures[-1].message}")
        state.tell("followed", leader=record.leader, outcome=record.outcome)
        return "degraded"
    state.failures += failures
    state.start.starts, state.lasting = record.starts, Left(record.state)
    state.run.notes.append(
        f"{record.leader} tried the same {'at this start' if ours else 'while this process waited'}"
        f", and ended {record.outcome}; it was not repeated"
    )
    state.tell("followed", leader=record.leader, outcome=record.outcome)
    state.enter("asking the plugins about a leader's failure")
    state.run.stopped = f"after {record.leader} has failed at the same"
    decision, _ = await state.decisions.decide(failures[-1]._replace(state=record.state))
    return "degraded" if decision is Decision.CONTINUE else "failed"


async def leave(state: RunState, outcome: Outcome) -> None:
    """Leave a record of a run that did not reach the heads, and take back an older one."""
    hold, run = state.run.hold, state.run
    if hold is None or run.stopped:
        return
    try:
        if state.rehearsals.deferred:
            from automigrator.runner.rehearsals.deferral import (
                leave_deferral,  # local: few rehearse
            )

            await leave_deferral(state)
        elif outcome == "failed" or outcome == "degraded":
            counted = counts(state)
            if not counted:
                state.start.starts = earlier_starts(state)
            plan = await _left_to_do(state)
            if state.failures[-1].kind == "unreachable":
                # what was out of this process's reach may not be out of the next one's
                if not counted:
                    await take_back(state)
            elif plan:
                said = tuple(failure.to_dict() for failure in state.failures)
                left, starts = state.lasting.state, state.start.starts
                record = Record(plan, outcome, hold.leader, said, left, starts, start=this_start())
                damaged = await is_damaged(state)
                await hold.leave(record._replace(first=state.start.first, damaged=damaged))
        elif state.start.stage == "counted" or await hold.last() is not None:
            await hold.leave(None)
    except Exception as error:  # noqa: BLE001 - a record only saves others work
        run.note(
            f"no record could be kept for the processes that wait ({first_line(error)}): "
            "each of them will try for itself"
        )


async def forget(session: Session, *, declarations: bool) -> None:
    """Remove what leaders left, under the lock, and what the database declares on request."""
    if not (await session.backend.look([session.table])).exists:
        return
    async with session.lock(lambda *_: None) as hold:
        await hold.leave(None)
        await hold.forget_repairs()
        if declarations:
            await hold.declare(())


async def _left_to_do(state: RunState) -> str:
    """The plan of the next start: without the revisions that stay applied."""
    if state.finding is None or not state.plan:
        return state.plan
    applied = {each.revision for each in state.applied}
    pending = [each for each in state.finding.pending if each not in applied]
    history = await state.session.history()
    return await in_thread(partial(history.digest, pending))
