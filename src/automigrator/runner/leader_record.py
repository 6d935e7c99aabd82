"""What a leader leaves to followers and to later starts, and what they make of it.

Twenty replicas that wait for one lock would each try the revision that fails, and each recover. A
device that fails or dies at every boot would copy, purge or restore its data for ever.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import UTC, datetime

from automigrator.backends.contract.lock import FailedStarts, Hold, Record
from automigrator.errors import LockLostError
from automigrator.failure import Decision, Failure, FailureKind
from automigrator.hooks.decisions import Decisions
from automigrator.report import Outcome
from automigrator.runner.failures import read_after
from automigrator.runner.state import Left, RunState
from automigrator.support.redaction import first_line

logger = logging.getLogger(__name__)

SLACK_S = 60.0
"""Seconds that the clock of a record may be put forward while a follower waits for its leader."""

REST_S = 24 * 60 * 60.0
"""Seconds after the last start allowed; twice as long after each further one that fails."""

EXCUSED: frozenset[FailureKind] = frozenset({"unreachable", "auth", "lock-timeout", "rehearsal"})
"""Kinds that say nothing about the revisions: a start that met no other is not counted."""


class CrashLoopError(Exception):
    """Raised when so many starts have failed that this one must not try; carries their record."""

    def __init__(self, record: Record) -> None:
        super().__init__(record.plan)
        self.record = record


async def inherited(state: RunState) -> Outcome | None:
    """Return how the leader ended that this process waited for, when it tried the very same.

    None: try it. A start that did not wait for the leader tries again, and so does another
    deployment.
    """
    hold = state.hold
    if hold is None or not state.plan:
        return None
    record = await hold.last()
    if record is None or record.plan != state.plan or record.at < hold.since:
        return None
    if record.outcome == "begun":
        return None  # it died
    if record.at > hold.since + time.monotonic() - state.began + SLACK_S:
        return None  # of before the clock was set back
    state.failures += [Failure.from_dict(failure) for failure in record.failures]
    state.start.starts = record.starts
    state.run.notes.append(
        f"{record.leader} tried the same while this process waited; it was not repeated"
    )
    state.progress("followed", state.run.name, leader=record.leader, outcome=record.outcome)
    return record.outcome


async def leave(state: RunState, outcome: Outcome) -> None:
    """Leave a record of a run that did not reach the heads, and take back an older one."""
    hold, run = state.run.hold, state.run
    if hold is None or run.stopped:
        return
    try:
        if outcome == "failed" or outcome == "degraded":
            counts = any(failure.kind not in EXCUSED for failure in state.failures)
            if not counts:
                state.start.starts = _earlier(state)
            plan = await _left_to_do(state)
            if state.failures[-1].kind == "unreachable":
                # what was out of this process's reach may not be out of the next one's
                if not counts:
                    await take_back(state)
            elif plan:
                said = tuple(failure.to_dict() for failure in state.failures)
                left, starts = state.lasting.state, state.start.starts
                await hold.leave(Record(plan, outcome, hold.leader, said, left, starts))
        elif state.start.stage == "counted" or await hold.last() is not None:
            await hold.leave(None)
    except Exception as error:  # noqa: BLE001 - a record only saves others work
        run.note(
            f"no record could be kept for the processes that wait ({first_line(error)}): "
            "each of them will try for itself"
        )


async def _left_to_do(state: RunState) -> str:
    """The plan of the next start: without the revisions that stay applied."""
    if state.finding is None or not state.plan:
        return state.plan
    applied = {each.revision for each in state.applied}
    pending = [each for each in state.finding.pending if each not in applied]
    return (await state.session.history()).digest(pending)


async def count(state: RunState) -> None:
    """Write this start down as failed, before it changes anything: it may die before it can.

    Raises CrashLoopError instead when the limit is reached, and LockLostError.
    """
    hold, limit, start = state.hold, state.policy.max_failed_starts, state.start
    if hold is None or not limit or start.stage != "not counted" or state.run.in_memory:
        return
    start.stage = "begun"
    try:
        start.found = found = await hold.last()
        earlier = _earlier(state)
        if found is not None and earlier.count >= limit:
            # also a clock that was set back by as much: else it would have to come round again
            if abs(hold.since - earlier.last) < tries_again_at(earlier, limit) - earlier.last:
                start.starts = earlier
                raise CrashLoopError(found)
            state.run.note(
                f"{_said(earlier)}; it is tried once more, as the last try was at "
                f"{_time(earlier.last)}"
            )
        start.starts = FailedStarts(earlier.count + 1, earlier.since or hold.since, hold.since)
        await hold.leave(await _begun(state, hold, earlier))
    except (CrashLoopError, LockLostError):
        raise
    except Exception as error:  # noqa: BLE001 - the count protects, and must not prevent
        start.starts = _earlier(state)
        state.run.note(
            f"failed starts are not counted here, as no record can be kept ({first_line(error)})"
        )
    else:
        start.stage = "counted"


async def take_back(state: RunState) -> None:
    """Forget that this start began: it was cancelled, or its failure is not the revisions'."""
    if state.start.stage == "counted" and await _kept(state, state.start.found):
        state.start.stage, state.start.starts = "begun", _earlier(state)


async def last_resort(state: RunState, decisions: Decisions, record: Record) -> Outcome:
    """Say what becomes of a start that must not try: nothing is touched, and the log says why."""
    run = state.run
    run.attempt, run.stopped = 0, True
    if run.acts.done("recover") and record.state != "clean":
        record = replace(record, state="clean")
        await _kept(state, record)
    # what this start did says nothing of the state
    state.execution, state.lasting = None, Left(record.state)
    failure = _failure(state, record)
    state.failures.append(failure)
    decision = await _decided(state, decisions, failure)
    outcome: Outcome = "degraded" if decision is Decision.CONTINUE else "failed"
    starts = state.start.starts
    facts = {
        "failed_starts": starts.count,
        "since": _time(starts.since),
        "tries_again_at": _time(tries_again_at(starts, state.policy.max_failed_starts)),
        "outcome": outcome,
        "failure": failure.to_dict(),
    }
    then = (
        "the application starts on the database as it is"
        if outcome == "degraded"
        else "the application is not to start"
    )
    state.progress("crash-loop", run.name, told=f"{failure}\n{then}", **facts)
    await read_after(state)
    return outcome


def tries_again_at(starts: FailedStarts, limit: int) -> float:
    """When a start may try once more, on the clock of the record."""
    return starts.last + REST_S * 2.0 ** min(starts.count - limit, 16)  # 180 years


async def _decided(state: RunState, decisions: Decisions, failure: Failure) -> Decision | None:
    match state.policy.last_resort:
        case "ask":
            return (await decisions.decide(failure))[0]
        case "continue":
            state.run.failure = failure
            return decisions.checked(Decision.CONTINUE, "last_resort='continue'")
        case "abort":
            return Decision.ABORT


async def _kept(state: RunState, record: Record | None) -> bool:
    """Whether the record could be kept; out of reach, the start stays counted as before."""
    assert state.hold is not None
    try:
        await state.hold.leave(record)
    except Exception as error:  # noqa: BLE001 - it has no bearing on how this start ends
        logger.debug("%s: the record stays: %s", state.run.name, first_line(error))
        return False
    return True


async def _begun(state: RunState, hold: Hold, earlier: FailedStarts) -> Record:
    """The record of a start that begins, with what it leaves if it dies."""
    start = state.start
    found = start.found if earlier.count else None
    left = found.state if found is not None and not state.run.acts.done("recover") else "clean"
    pending = state.finding.pending if state.finding is not None else ()
    if (await state.session.history()).uses_autocommit(pending):
        left = "partial-within-revision"
    failures = found.failures if found is not None else ()
    return Record(state.plan, "begun", hold.leader, failures, left, start.starts)


def _earlier(state: RunState) -> FailedStarts:
    """Those that failed before this one at the same revisions."""
    found = state.start.found
    return found.starts if found is not None and found.plan == state.plan else FailedStarts()


def _failure(state: RunState, record: Record) -> Failure:
    starts = state.start.starts
    known = Failure.from_dict(record.failures[-1]) if record.failures else None
    where = f"revision {known.revision}: " if known is not None and known.revision else ""
    last = f"{where}{known.message}" if known is not None else ""
    if record.outcome == "begun":
        why = "the last one died while it migrated: killed, out of memory, or without power"
        why += f". The last failure before that: {last}" if last else ""
    else:
        why = f"the last failure: {last}"
    again = _time(tries_again_at(starts, state.policy.max_failed_starts))
    return Failure(
        known.kind if known is not None else "revision",
        f"{_said(starts)}, so this one tried nothing: no snapshot, no migration, no purge and no "
        f"restore; {why}",
        state=record.state,
        revision=known.revision if known is not None else None,
        statement=known.statement if known is not None else None,
        advice="deploy revisions or an env.py that are repaired, or call `await migrator.clear()` "
        f"once the cause is gone; a start after {again} tries once more by itself",
        attempt=0,
        database=state.session.target.url,
    )


def _said(starts: FailedStarts) -> str:
    many = "1 start has" if starts.count == 1 else f"{starts.count} starts in a row have"
    return f"{many} failed at these revisions since {_time(starts.since)}"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
