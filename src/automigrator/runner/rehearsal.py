"""Before a target is touched: what is pending is applied to a copy of it, which is removed."""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from automigrator.backends.contract.sides import Side
from automigrator.backends.contract.values import Place
from automigrator.errors import EnvError, RefusedError
from automigrator.migrations.environment import Execution
from automigrator.migrations.stamping import stamp as stamped
from automigrator.retention import stamp
from automigrator.runner.diagnosis import ADVICE
from automigrator.runner.inspection import Finding
from automigrator.runner.side_database import SideError, migrated
from automigrator.runner.state import Course


class NoRehearsalError(RefusedError):
    """Raised where the pending revisions cannot be tried on a copy; nothing was changed."""

    kind = "rehearsal"
    advice = ADVICE["rehearsal"]


async def rehearse(course: Course, finding: Finding) -> None:
    """Apply what is pending to a copy, where that is asked for and there is something to lose.

    Once for the same revisions. Raises NoRehearsalError where that cannot be done, and what a
    revision raised; then `course.rehearsing` says how far it came.
    """
    if course.rehearse is None or course.run.empty or course.rehearsed == course.plan:
        return
    began, before = time.monotonic(), course.rehearsed_s or 0.0
    course.rehearsing, course.doing = Execution(), "rehearsal"
    pending = len(finding.pending)
    told = course.progress.step(
        "rehearsal-started", "rehearsal-failed", course.ground.target, pending=pending
    )
    try:
        with told as seconds:
            await _rehearsed(course, finding)
    finally:
        course.rehearsed_s = before + time.monotonic() - began
    course.rehearsing, course.rehearsed = None, course.plan
    course.progress("rehearsed", course.run.name, pending=pending, seconds=seconds())


async def _rehearsed(course: Course, finding: Finding) -> None:
    backend, options = course.ground.backend, course.rehearse
    assert options is not None
    at = stamp()

    def copied() -> AbstractAsyncContextManager[Side]:
        return backend.copied_side(
            at,
            how=options.copy,
            disconnect_others=options.disconnect_others,
            binaries=Path(options.binaries) if options.binaries is not None else None,
        )

    async def begin(place: Place, probed: Execution) -> None:
        await _begun(course, finding, place, probed)

    why: BaseException | None = None
    try:
        async with migrated(course, copied, begin):
            pass
    except RefusedError as error:
        why = error
    except SideError as error:
        why, execution = error.__cause__, error.execution
        if execution is not None:
            course.rehearsing = execution
            course.doing = "revision" if _met_a_revision(execution) else "env"
        elif isinstance(why, EnvError):
            said = f"{why}; nothing was changed. Let env.py go to the database that it is given"
            why = _because(RefusedError(said), why)
    if isinstance(why, RefusedError):
        why = _because(NoRehearsalError(f"the revisions cannot be rehearsed: {why}"), why)
    if why is not None:
        raise why


async def _begun(course: Course, finding: Finding, place: Place, probed: Execution) -> None:
    """See that the copy is what was found, and give it the starting point that the target gets."""
    target, history = course.ground.target, await course.ground.history()
    heads = {head for context in probed.contexts for head in context.heads}
    if heads != set(finding.heads):
        raise RefusedError(
            f"the copy is at {', '.join(sorted(heads)) or 'base'}, and the database was at "
            f"{', '.join(finding.heads) or 'base'}; nothing was changed. Start again"
        )
    if finding.unversioned and target.baseline not in (None, "base"):
        assert target.baseline is not None
        table = finding.tables[0]
        backend = course.ground.backend
        await stamped(backend, history, place, table, target.baseline, course.hold)


def _because(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def _met_a_revision(execution: Execution) -> bool:
    # with revisions done it was their commit that failed
    return bool(execution.current or execution.error or execution.done)
