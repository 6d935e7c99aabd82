"""What a run leaves that is ended before its end: by whoever cancels it, or by its limit."""

from __future__ import annotations

import asyncio
import logging

from automigrator.runner.failures import failed, read_after, repair
from automigrator.runner.leader_record import leave, take_back
from automigrator.runner.lifecycle import time_is_up
from automigrator.runner.state import Course, Left
from automigrator.support.redaction import first_line

logger = logging.getLogger(__name__)

LOOK_S = 1.0

"""Whoever has asked for the end does not wait for a server that is silent."""


async def cut_short(course: Course) -> None:
    """Forget that the start began, undo what a snapshot was taken for, and tell."""
    run = course.run
    if course.hold is not None:
        course.hold.hurry()
    await take_back(course)
    done: str | None = None
    if run.copying:
        # the application may go on and write: a later undo would lose that
        try:
            done = await repair(course, course.tables, begun=run.taken is not None)
        except Exception as error:  # noqa: BLE001 - it is told, and the cancellation is raised
            done = f"the next start has to finish ({first_line(error)})"
    course.how_far = await _how_far(course)
    if done:
        course.how_far += f"; {done}"
    course.progress("cancelled", run.name, what=course.how_far, heads=list(course.after))


async def ran_out(course: Course) -> None:
    """Make it a failure of the target that the run's time is over; no plugin is asked about it.

    Where half a revision may have stayed the journal is left open: the next start restores.
    """
    run, backend = course.run, course.ground.backend
    if course.hold is not None:
        course.hold.hurry()
    failure = await failed(course, time_is_up(course), within_s=LOOK_S)
    course.lasting = Left.of(failure)
    try:
        if run.copying and run.taken is None:
            await repair(course, course.tables)
        elif run.unfinished:
            run.note("a restore was begun: the next start finishes it, before it migrates")
        elif run.taken is not None and failure.state == "partial-within-revision":
            run.note(f"the next start puts {run.taken.place} back, before it migrates")
        else:
            await backend.close()
    except Exception as error:  # noqa: BLE001 - the next start finishes it
        run.note(f"the next start has to finish what was begun ({first_line(error)})")
    await leave(course, "failed")
    await read_after(course, LOOK_S)


async def _how_far(course: Course) -> str:
    execution, finding = course.execution, course.finding
    if finding is None or execution is None or not (execution.done or execution.current):
        return "nothing was migrated"
    under_way = f"revision {execution.current} was under way" if execution.current else ""
    try:
        async with asyncio.timeout(LOOK_S):
            sight = await course.ground.backend.look(list(finding.tables))
            history = await course.ground.history()
    except Exception as error:  # noqa: BLE001 - it only tells
        logger.debug("%s: reading the heads: %s", course.run.name, first_line(error))
        return f"{under_way or 'a migration was under way'}, and what was not committed rolls back"
    course.after = heads = sight.all_heads()
    kept = history.applied(finding.pending, heads) if history.knows(heads) else ()
    parts = [
        under_way and f"{under_way} and was {'kept' if execution.current in kept else 'undone'}",
        f"applied and kept: {', '.join(kept)}" if kept else "no revision was kept",
        f"the database is at {', '.join(heads) or 'base'}",
    ]
    return "; ".join(part for part in parts if part)
