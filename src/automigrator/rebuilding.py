"""Builds and migrates a fresh database on the side, then lets it take the old one's place."""

from __future__ import annotations

import logging

from automigrator.course import Course
from automigrator.databases.backend import VersionTable
from automigrator.errors import RefusedError
from automigrator.run import stamp
from automigrator.saying import first_line
from automigrator.upgrade.async_drivers import sync_way
from automigrator.upgrade.drives import Way, drive, probe
from automigrator.upgrade.environment import Execution
from automigrator.upgrade.place import Place
from automigrator.upgrade.stamping import bootstrap

logger = logging.getLogger(__name__)


async def rebuild(course: Course, *, set_aside: bool, disconnect_others: bool) -> str | None:
    """Replace the target's database; says where the old one was set aside.

    Raises RefusedError, the old database untouched, when the fresh one cannot be migrated.
    """
    await course.ground.backend.ensure_replaceable(course.tables)
    at = stamp()
    applied, course.applied = course.applied, []
    try:
        way: Way | None = None
        while True:
            done, way = await _rebuilt(course, at, way, set_aside, disconnect_others)
            if way is None:
                return done
            course.applied = []
    except BaseException:
        course.applied = applied
        raise


async def _rebuilt(
    course: Course, at: str, way: Way | None, set_aside: bool, disconnect_others: bool
) -> tuple[str | None, Way | None]:
    """Where the old one was set aside; or another way, for what the async driver refused."""
    target, backend = course.ground.target, course.ground.backend
    async with backend.side(at) as side:
        place = Place(side.engine, side.url)
        try:
            found, probed = await probe(target, backend, await course.ground.history(), place)
            way = way or found
            tables = await _migrated(course, place, way, probed)
        except Exception as error:
            another = sync_way(target, place, way, error) if way is not None else None
            if another is not None:
                logger.warning(
                    "%s: a fresh database cannot be migrated by %s: %s; going on by %s",
                    course.run.name,
                    way,
                    first_line(error),
                    another,
                )
                return None, another
            raise RefusedError(
                "a fresh database cannot be migrated either "
                f"({first_line(error)}); the old one was not touched"
            ) from error
        done = await backend.take_over(
            side, at, tables, set_aside=set_aside, disconnect_others=disconnect_others
        )
        return done, None


async def _migrated(
    course: Course, place: Place, way: Way, probed: Execution
) -> tuple[VersionTable, ...]:
    """Migrate the database at `place`, and return its version tables once they say so."""
    target, backend = course.ground.target, course.ground.backend
    history = await course.ground.history()
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
