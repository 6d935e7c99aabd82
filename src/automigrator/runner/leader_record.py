"""Starts that fail one after another at the same revisions, and when it is left at that.

A device that fails or dies at every boot would else copy, purge or restore its data for ever.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import UTC, datetime

from automigrator.backends.contract.lock import FailedStarts, Record
from automigrator.errors import LockLostError
from automigrator.failure import Decision, Failure, FailureKind
from automigrator.hooks.decisions import Asking
from automigrator.report import Outcome
from automigrator.runner import leader_record
from automigrator.runner.failures import read_after
from automigrator.runner.state import Course, Left
from automigrator.support.redaction import first_line

logger = logging.getLogger(__name__)

REST_S = 24 * 60 * 60.0

"""Seconds after the last start allowed; twice as long after each further one that fails."""

EXCUSED: frozenset[FailureKind] = frozenset({"unreachable", "auth", "lock-timeout", "rehearsal"})

"""Kinds that say nothing about the revisions: a start that met no other is not counted."""


class CrashLoopError(Exception):
    """Raised when so many starts have failed that this one must not try; carries their record."""

    def __init__(self, record: Record) -> None:
        super().__init__(record.plan)
        self.record = record


async def count(course: Course) -> None:
    """Write this start down as failed, before it changes anything: it may not live to do it later.

    Raises CrashLoopError instead when the limit is reached, and LockLostError.
    """
    hold, limit = course.hold, course.max_failed_starts
    if hold is None or not limit or course.begun or course.run.in_memory:
        return
    course.begun = True
    try:
        course.found = found = await hold.last()
        earlier = _earlier(course)
        if found is not None and earlier.count >= limit:
            # also a clock that was set back by as much: else it would have to come round again
            if abs(hold.since - earlier.last) < tries_again_at(earlier, limit) - earlier.last:
                course.starts = earlier
                raise CrashLoopError(found)
            course.run.note(
                f"{_said(earlier)}; it is tried once more, as the last try was at "
                f"{_time(earlier.last)}"
            )
        course.starts = FailedStarts(earlier.count + 1, earlier.since or hold.since, hold.since)
        await hold.leave(await _begun(course, earlier))
    except (CrashLoopError, LockLostError):
        raise
    except Exception as error:  # noqa: BLE001 - the count protects, and must not prevent
        course.starts = _earlier(course)
        course.run.note(
            f"failed starts are not counted here, as no record can be kept ({first_line(error)})"
        )
    else:
        course.counted = True


async def take_back(course: Course) -> None:
    """Forget that this start began: it was cancelled, or met what says nothing of its revisions."""
    if course.counted and await _kept(course, course.found):
        course.counted, course.starts = False, _earlier(course)


def settle(course: Course) -> bool:
    """Whether this start, which has failed, is one of those that are counted."""
    counts = any(failure.kind not in EXCUSED for failure in course.failures)
    if not counts:
        course.starts = _earlier(course)
    return counts


async def last_resort(course: Course, asking: Asking, record: Record) -> Outcome:
    """What becomes of a start that must not try: nothing is touched, and the log says why."""
    run = course.run
    run.attempt, run.stopped = 0, True
    if course.repaired and record.state != "clean":
        record = replace(record, state="clean")
        await _kept(course, record)
    # what this start did says nothing of the state
    course.execution, course.lasting = None, Left(record.state)
    failure = _failure(course, record)
    course.failures.append(failure)
    decision = await _decided(course, asking, failure)
    outcome: Outcome = "degraded" if decision is Decision.CONTINUE else "failed"
    facts = {
        "failed_starts": course.starts.count,
        "since": _time(course.starts.since),
        "tries_again_at": _time(tries_again_at(course.starts, course.max_failed_starts)),
        "outcome": outcome,
        "failure": failure.to_dict(),
    }
    then = (
        "the application starts on the database as it is"
        if outcome == "degraded"
        else "the application is not to start"
    )
    course.progress("crash-loop", run.name, told=f"{failure}\n{then}", **facts)
    await read_after(course)
    return outcome


def tries_again_at(starts: FailedStarts, limit: int) -> float:
    """When a start may try once more, on the clock of the record."""
    return starts.last + REST_S * 2.0 ** min(starts.count - limit, 16)  # 180 years


async def _decided(course: Course, asking: Asking, failure: Failure) -> Decision | None:
    match course.last_resort:
        case "ask":
            return (await asking.decide(failure))[0]
        case "continue":
            course.run.failure = failure
            return asking.checked(Decision.CONTINUE, "last_resort='continue'")
        case "abort":
            return Decision.ABORT


async def _kept(course: Course, record: Record | None) -> bool:
    """Whether the record could be kept; who is out of reach stays counted as before."""
    assert course.hold is not None
    try:
        await course.hold.leave(record)
    except Exception as error:  # noqa: BLE001 - it has no bearing on how this start ends
        logger.debug("%s: the record stays: %s", course.run.name, first_line(error))
        return False
    return True


async def _begun(course: Course, earlier: FailedStarts) -> Record:
    """The record of a start that begins, with what it leaves if it dies."""
    assert course.hold is not None
    found = course.found if earlier.count else None
    state = found.state if found is not None and not course.repaired else "clean"
    pending = course.finding.pending if course.finding is not None else ()
    if (await course.ground.history()).uses_autocommit(pending):
        state = "partial-within-revision"
    failures = found.failures if found is not None else ()
    return Record(course.plan, "begun", course.hold.leader, failures, state, course.starts)


def _earlier(course: Course) -> FailedStarts:
    """Those that failed before this one at the same revisions."""
    found = course.found
    return found.starts if found is not None and found.plan == course.plan else FailedStarts()


def _failure(course: Course, record: Record) -> Failure:
    starts = course.starts
    known = Failure.from_dict(record.failures[-1]) if record.failures else None
    where = f"revision {known.revision}: " if known is not None and known.revision else ""
    last = f"{where}{known.message}" if known is not None else ""
    if record.outcome == "begun":
        why = "the last one died while it migrated: killed, out of memory, or without power"
        why += f". The last failure before that: {last}" if last else ""
    else:
        why = f"the last failure: {last}"
    again = _time(tries_again_at(starts, course.max_failed_starts))
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
        database=course.ground.target.url,
    )


def _said(starts: FailedStarts) -> str:
    many = "1 start has" if starts.count == 1 else f"{starts.count} starts in a row have"
    return f"{many} failed at these revisions since {_time(starts.since)}"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


SLACK_S = 60.0

"""Seconds that the clock of a record may be put forward while a leader is waited for."""


async def inherited(course: Course) -> Outcome | None:
    """How the leader ended that was waited for, when it tried the very same; None: try it.

    A start that did not wait for it tries again, and so does another deployment.
    """
    hold = course.hold
    if hold is None or not course.plan:
        return None
    record = await hold.last()
    if record is None or record.plan != course.plan or record.at < hold.since:
        return None
    if record.outcome == "begun":
        return None  # it died
    if record.at > hold.since + time.monotonic() - course.began + SLACK_S:
        return None  # of before the clock was set back
    course.failures += [Failure.from_dict(failure) for failure in record.failures]
    course.followed, course.starts = True, record.starts
    course.run.notes.append(
        f"{record.leader} tried the same while this process waited; it was not repeated"
    )
    course.progress("followed", course.run.name, leader=record.leader, outcome=record.outcome)
    return record.outcome


async def leave(course: Course, outcome: Outcome) -> None:
    """Leave word of a run that did not reach the heads, and take back an older one's."""
    hold, run = course.hold, course.run
    if hold is None or course.followed or course.served or run.stopped or not run.locked:
        return
    try:
        if outcome == "failed" or outcome == "degraded":
            counts = leader_record.settle(course)
            plan = await _left_to_do(course)
            if course.failures[-1].kind == "unreachable":
                # what was out of this process's reach may not be out of the next one's
                if not counts:
                    await leader_record.take_back(course)
            elif plan:
                said = tuple(failure.to_dict() for failure in course.failures)
                state = course.lasting.state
                await hold.leave(Record(plan, outcome, hold.leader, said, state, course.starts))
        elif course.counted or await hold.last() is not None:
            await hold.leave(None)
    except Exception as error:  # noqa: BLE001 - a record only saves others work
        run.note(
            f"no record could be kept for the processes that wait ({first_line(error)}): "
            "each of them will try for itself"
        )


async def _left_to_do(course: Course) -> str:
    """The plan of whoever comes next: without the revisions that stay applied."""
    if course.finding is None or not course.plan:
        return course.plan
    applied = {each.revision for each in course.applied}
    pending = [each for each in course.finding.pending if each not in applied]
    return (await course.ground.history()).digest(pending)
