"""Downgrades one target, under its lock; nobody is asked about a failure."""

from __future__ import annotations

import logging
import time

from automigrator.errors import EnvError, JudgedError
from automigrator.migrations.drive import drive
from automigrator.migrations.environment import Execution
from automigrator.migrations.probe import probe
from automigrator.report import Outcome
from automigrator.runner.diagnosis import diagnose
from automigrator.runner.failures import left_behind, repair
from automigrator.runner.inspection import inspect
from automigrator.runner.lifecycle import ended_by
from automigrator.runner.state import Course, Left
from automigrator.support.redaction import hide_secrets
from automigrator.target import passwords_of

logger = logging.getLogger(__name__)


async def roll_back(course: Course, revision: str) -> Outcome:
    """Run the downgrades from the database's heads to `revision`; `failed` with the failure."""
    tell, target, began = course.progress, course.ground.target, time.monotonic()
    kind = course.ground.backend.name
    tell("rollback-started", target.name, revision=revision, database=kind, url=target.url)
    outcome = "failed"
    try:
        outcome = answer = await _outcome(course, revision)
        return answer
    except BaseException as error:
        outcome = ended_by(error)
        raise
    finally:
        seconds = time.monotonic() - began
        tell("rollback-finished", target.name, revision=revision, outcome=outcome, seconds=seconds)


async def _outcome(course: Course, revision: str) -> Outcome:
    ground, run = course.ground, course.run
    run.attempt = 1
    try:
        lock = ground.backend.lock([ground.table], ground.target.lock_timeout, course.waiting)
        async with lock as course.hold:
            course.progress("locked", run.name, waited_s=course.hold.waited_s)
            return await _rolled_back(course, revision)
    except Exception as error:  # noqa: BLE001 - any error is the target's failure
        hide_secrets(error, passwords_of(ground.target))
        failure = diagnose(
            error,
            ground.target,
            ground.backend,
            await _left(course),
            attempt=1,
            otherwise=course.doing,
        )
        course.failures.append(failure)
        told = f"rollback failed: {failure}"
        course.progress("failed", run.name, told=told, **failure.to_dict())
        return "failed"


async def _rolled_back(course: Course, revision: str) -> Outcome:
    ground, run, backend = course.ground, course.run, course.ground.backend
    repaired = await repair(course, [ground.table])
    if repaired is not None:
        run.notes.append(repaired)
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
        return left._replace(state="partial-at-boundary")
    return left
