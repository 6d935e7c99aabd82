"""Builds and migrates a fresh database on the side, then lets it take the old one's place."""

from __future__ import annotations

from automigrator.course import Course
from automigrator.databases.backend import VersionTable
from automigrator.diagnosis import first_line
from automigrator.errors import RefusedError
from automigrator.run import stamp
from automigrator.upgrade.drives import drive, probe
from automigrator.upgrade.environment import Execution
from automigrator.upgrade.place import Place
from automigrator.upgrade.stamping import bootstrap


async def rebuild(course: Course, *, set_aside: bool, disconnect_others: bool) -> str | None:
    """Replace the target's database; says where the old one was set aside.

    Raises RefusedError, the old database untouched, when the fresh one cannot be migrated.
    """
    backend = course.ground.backend
    at = stamp()
    applied, course.applied = course.applied, []
    try:
        async with backend.side(at) as side:
            try:
                tables = await _migrated(course, Place(side.engine, side.url))
            except Exception as error:
                raise RefusedError(
                    "a fresh database cannot be migrated either "
                    f"({first_line(error)}); the old one was not touched"
                ) from error
            return await backend.take_over(
                side, at, tables, set_aside=set_aside, disconnect_others=disconnect_others
            )
    except BaseException:
        course.applied = applied
        raise


async def _migrated(course: Course, place: Place) -> tuple[VersionTable, ...]:
    """Migrate the database at `place`, and return its version tables once they say so."""
    target, backend = course.ground.target, course.ground.backend
    history = await course.ground.history()
    way, probed = await probe(target, backend, history, place)
    if target.bootstrap is not None:
        await bootstrap(target, backend, history, place, probed.contexts[0].table, course.hold)
    execution = Execution()
    await drive(
        target,
        backend,
        history,
        place,
        way,
        revision=target.revision,
        apply=True,
        started=course.started,
        done=course.done,
        hold=course.hold,
        execution=execution,
    )
    after = await drive(target, backend, history, place, way, revision=target.revision)
    left = [revision for context in after.contexts for revision in context.pending]
    if left or not all(context.ran for context in after.contexts):
        raise execution.error or RuntimeError(f"still pending: {', '.join(left) or 'everything'}")
    return tuple(dict.fromkeys(context.table for context in after.contexts))
