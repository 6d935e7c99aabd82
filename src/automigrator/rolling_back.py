"""Downgrades one target, under its lock; nobody is asked about a failure."""

from __future__ import annotations

import logging
from dataclasses import replace

from automigrator.course import Course
from automigrator.diagnosis import JudgedError, Left, diagnose, with_hidden_parameters
from automigrator.inspection import inspect
from automigrator.leftovers import left_behind
from automigrator.report import Outcome
from automigrator.upgrade.drives import drive, probe
from automigrator.upgrade.environment import EnvError, Execution

logger = logging.getLogger(__name__)


async def roll_back(course: Course, revision: str) -> Outcome:
    """Run the downgrades from the database's heads to `revision`; `failed` with the failure."""
    ground, run = course.ground, course.run
    run.attempt = 1

    def waiting(seconds: float, leader: str) -> None:
        what = f"the migration lock, held by {leader}"
        course.progress("waiting", run.name, what=what, seconds=seconds)

    try:
        lock = ground.backend.lock([ground.table], ground.target.lock_timeout, waiting)
        async with lock as course.hold:
            return await _rolled_back(course, revision)
    except Exception as error:  # noqa: BLE001 - any error is the target's failure
        with_hidden_parameters(error)
        failure = diagnose(
            error,
            ground.target,
            ground.backend,
            await _left(course),
            attempt=1,
            otherwise=course.doing,
        )
        course.failures.append(failure)
        logger.error("%s: rollback failed: %s", run.name, failure)
        return "failed"


async def _rolled_back(course: Course, revision: str) -> Outcome:
    ground, run, backend = course.ground, course.run, course.ground.backend
    repaired = await backend.recover([ground.table])
    if repaired is not None:
        run.note(repaired)
    history = await ground.history()
    finding = course.finding = await inspect(ground.target, backend, history, ground.place)
    if not finding.sight.exists:
        raise JudgedError("unreachable", "the database does not exist; there is nothing to undo")
    run.before = course.after = finding.heads
    way, _ = await probe(ground.target, backend, history, ground.place)
    course.drive, course.execution, course.doing = str(way), Execution(), "revision"
    steps = history.ids(history.steps(revision, finding.heads, down=True))
    await drive(
        ground.target,
        backend,
        history,
        ground.place,
        way,
        revision=revision,
        apply=True,
        down=True,
        started=course.started,
        done=course.done,
        hold=course.hold,
        execution=course.execution,
    )
    sight = await backend.look(list(finding.tables))
    course.after = sight.all_heads()
    if history.applied(steps, course.after):
        raise course.execution.error or EnvError(
            f"env.py returned as if all were well, and the database still has "
            f"{', '.join(history.applied(steps, course.after))}"
        )
    await backend.refresh()
    return "migrated" if steps else "current"


async def _left(course: Course) -> Left:
    """What a failed rollback left, and in the report what it undid for good."""
    if course.finding is None or course.execution is None:
        return Left()
    backend, history = course.ground.backend, await course.ground.history()
    left = await left_behind(backend, history, course.finding, course.execution)
    try:
        course.after = (await backend.look(list(course.finding.tables))).all_heads()
    except Exception as error:  # noqa: BLE001 - the failure says why
        logger.debug("%s: reading the heads: %s", course.run.name, type(error).__name__)
    undone = [each.revision for each in course.applied]
    kept = history.applied(undone, course.after)
    course.applied = [each for each in course.applied if each.revision not in kept]
    if course.applied and left.state == "clean":
        return replace(left, state="partial-at-boundary")
    return left
