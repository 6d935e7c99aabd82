"""Step 8 of a run: an error becomes a failure, is told, and is put to the plugins."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Collection, Sequence

from automigrator.backends.contract.backend import Backend
from automigrator.backends.contract.values import VersionTable
from automigrator.errors import JudgedError, LockLostError
from automigrator.failure import Decision, Failure
from automigrator.hooks.decisions import Asking
from automigrator.migrations.created_tables import there_already
from automigrator.migrations.environment import Execution
from automigrator.migrations.history import History
from automigrator.report import Applied
from automigrator.runner.diagnosis import diagnose
from automigrator.runner.inspection import Finding
from automigrator.runner.state import Course, Left
from automigrator.support.error_chain import chain
from automigrator.support.redaction import first_line, hide_secrets
from automigrator.target import passwords_of

logger = logging.getLogger(__name__)

HASTE_S = 2.0

"""Seconds for what would be good to know of a database that is out of reach, most likely."""


async def answered(course: Course, asking: Asking, error: Exception) -> Decision | None:
    """Step 8: what the plugins decide about an error."""
    run = course.run
    failure = await failed(course, error)
    if course.limit is not None and course.limit.is_over():
        await read_after(course, HASTE_S)
        return None
    course.at = "asking the plugins about a failure"
    decision, whose = await asking.decide(failure)
    course.lasting = Left.of(run.failure or failure)
    if decision is None:
        course.progress("passed", run.name)
    else:
        course.progress("decided", run.name, decision=decision.value, plugin=whose)
    if decision is not Decision.RETRY:
        await read_after(course, HASTE_S if failure.kind == "unreachable" else None)
    return decision


async def failed(course: Course, error: Exception, within_s: float | None = None) -> Failure:
    """Make an error a failure of this attempt, and tell; see `described`."""
    run = course.run
    failure = await described(course, error, within_s)
    course.failures.append(failure)
    told = f"attempt {run.attempt} failed: {failure}"
    course.progress("failed", run.name, told=told, **failure.to_dict())
    course.attempt_finished("failed")
    return failure


async def described(course: Course, error: Exception, within_s: float | None = None) -> Failure:
    """The failure that an error is, with the state it left; what stays applied is noted.

    `within_s` is how long the database is asked for the state alone, where time is short.
    """
    ground, run = course.ground, course.run
    if within_s is None:
        error = await _or_lock_lost(course, error)
        if isinstance(error, JudgedError) and error.kind == "unreachable":
            within_s = HASTE_S  # it has just been waited for
    hide_secrets(error, passwords_of(ground.target))
    failure = diagnose(
        error,
        ground.target,
        ground.backend,
        await _left(course, within_s),
        attempt=run.attempt,
        otherwise=course.doing,
    )
    _keep_applied(course, failure)
    failure = dataclasses.replace(failure, in_rehearsal=course.rehearsing is not None)
    if within_s is not None:
        return failure
    failure = dataclasses.replace(failure, hints=await _hints(course, failure))
    blockers = course.blockers() if course.blockers is not None else ()
    if failure.kind == "lock-timeout" and blockers:
        message = f"{failure.message}; in the way: {', '.join(blockers)}"
        failure = dataclasses.replace(failure, message=message)
    return failure


async def _hints(course: Course, failure: Failure) -> tuple[str, ...]:
    """What lay about before the attempt, and the tables that what is still pending creates."""
    finding, ground = course.finding, course.ground
    if finding is None or course.execution is None:
        return ()
    pending = [each for each in finding.pending if each not in failure.applied]
    found: tuple[str, ...] = ()
    if len(finding.contexts) == 1:
        try:
            examiner = ground.backend.examiner([ground.table])
            found = await there_already(examiner, await ground.history(), pending)
        except Exception as error:  # noqa: BLE001 - the error that brought us here matters
            logger.debug("%s: looking for debris: %s", course.run.name, type(error).__name__)
    return (*course.debris, *found)


async def _or_lock_lost(course: Course, error: Exception) -> Exception:
    """The error, or what is behind it: the lock is gone, and a next holder ended our sessions.

    Without the lock no strategy may act: another process may be at the database by now.
    """
    run, backend = course.run, course.ground.backend
    lost = next((each for each in chain(error) if isinstance(each, LockLostError)), None)
    if lost is None and run.locked and course.hold is not None:
        try:
            await course.hold.confirm()
        except LockLostError as gone:
            gone.__cause__, lost = error, gone
    if lost is None:
        return error
    run.locked = False
    try:
        await backend.look([course.ground.table])
    except Exception as gone:  # noqa: BLE001 - it only tells why the lock was lost
        if backend.classify(gone) == "unreachable":
            return JudgedError(
                "unreachable",
                "the database server went away while it was being migrated: this run was "
                f"{course.at} ({first_line(gone)}); it rolls back what was not committed",
            )
    return lost


def _keep_applied(course: Course, failure: Failure) -> None:
    execution = course.execution
    if execution is None:
        return
    seconds = dict(execution.done)
    known = {applied.revision for applied in course.applied}
    course.applied += [Applied(r, seconds.get(r, 0.0)) for r in failure.applied if r not in known]


async def look_again(course: Course, failure: Failure) -> Failure:
    """The failure with the state that the database is in now."""
    left = await _left(course)
    return dataclasses.replace(failure, state=left.state, applied=left.applied, debris=left.debris)


async def _left(course: Course, within_s: float | None = None) -> Left:
    if course.rehearsing is not None:
        return Left(revision=course.rehearsing.current).after(course.lasting)
    if course.finding is None or course.execution is None:
        return course.lasting
    ground = course.ground
    left = await left_behind(
        ground.backend,
        await ground.history(),
        course.finding,
        course.execution,
        course.debris,
        within_s,
    )
    return left.after(course.lasting)


async def read_after(course: Course, within_s: float | None = None) -> None:
    """Note the heads that the database has now, where it can be asked."""
    try:
        async with asyncio.timeout(within_s):
            sight = await course.ground.backend.look(list(course.tables))
    except Exception as error:  # noqa: BLE001 - the failure says why
        logger.debug("%s: reading the heads: %s", course.run.name, type(error).__name__)
    else:
        course.after = sight.all_heads()


async def left_behind(
    backend: Backend,
    history: History,
    finding: Finding,
    execution: Execution,
    known_debris: Collection[str] = (),
    within_s: float | None = None,
) -> Left:
    """The state, the revisions that stay applied, and the debris that was not there before.

    What the database does not say within `within_s` seconds is taken for the worst.
    """
    ran = [revision for revision, _ in execution.done]
    if execution.current is not None:
        ran.append(execution.current)
    try:
        async with asyncio.timeout(within_s):
            sight = await backend.look(list(finding.tables))
            debris = tuple(each for each in await backend.debris() if each not in known_debris)
    except Exception:  # noqa: BLE001 - the error that brought us here is the one to report
        # a dead server rolls back what was not committed
        torn = history.uses_autocommit(ran) or not _one_transaction(finding)
        state = "partial-within-revision" if ran and torn else "clean"
        return Left(state, revision=execution.current)  # type: ignore[arg-type]  # str widens
    heads = sight.all_heads()
    if not history.knows(heads):
        # newer code has migrated it meanwhile: nothing there is this run's to undo
        return Left("clean", revision=execution.current)
    applied = history.applied(_new(history, finding, ran), heads)
    lost = [revision for revision in ran if revision not in applied]
    if debris or history.uses_autocommit(lost):
        return Left("partial-within-revision", applied, debris, execution.current)
    if applied:
        return Left("partial-at-boundary", applied, (), execution.current)
    return Left("clean", revision=execution.current)


def _new(history: History, finding: Finding, ran: list[str]) -> list[str]:
    """Those of `ran` that the database did not have before."""
    old = set(history.applied(ran, finding.heads))
    return [revision for revision in dict.fromkeys(ran) if revision not in old]


def _one_transaction(finding: Finding) -> bool:
    return all(context.one_transaction for context in finding.contexts)


async def repair(
    course: Course, tables: Sequence[VersionTable], *, begun: bool = False
) -> str | None:
    """What was done; None when there was nothing to do. Raises what the backend raises.

    `begun` says that there is something, where the backend has not been asked for long.
    """
    backend, tell, target = course.ground.backend, course.progress, course.ground.target
    if begun or backend.unfinished():
        with tell.step("repair-started", "repair-failed", target) as seconds:
            done = await backend.recover(tables)
        tell("repaired", target.name, what=done or "nothing was left to do", seconds=seconds())
        return done
    began = time.monotonic()
    done = await backend.recover(tables)
    if done is not None:
        tell("repaired", target.name, what=done, seconds=time.monotonic() - began)
    return done
