"""What a leader leaves to those who waited for it, and what they make of it.

Twenty replicas that wait for one lock would each try the revision that fails, and each recover.
"""

from __future__ import annotations

import logging
import time

from automigrator import crash_loops
from automigrator.course import Course
from automigrator.databases.holding import Record
from automigrator.failure import Failure
from automigrator.report import Outcome
from automigrator.saying import first_line

logger = logging.getLogger(__name__)

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
            counts = crash_loops.settle(course)
            plan = await _left_to_do(course)
            if course.failures[-1].kind == "unreachable":
                # what was out of this process's reach may not be out of the next one's
                if not counts:
                    await crash_loops.take_back(course)
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
