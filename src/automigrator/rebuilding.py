"""Builds and migrates a fresh database on the side, then lets it take the old one's place."""

from __future__ import annotations

from automigrator.course import Course
from automigrator.errors import RefusedError
from automigrator.on_the_side import SideError, migrated
from automigrator.run import stamp
from automigrator.saying import first_line
from automigrator.upgrade.environment import Execution
from automigrator.upgrade.place import Place
from automigrator.upgrade.stamping import bootstrap


async def rebuild(course: Course, *, set_aside: bool, disconnect_others: bool) -> str | None:
    """Replace the target's database; says where the old one was set aside.

    Raises RefusedError, the old database untouched, when the fresh one cannot be migrated.
    """
    await course.ground.backend.ensure_replaceable(course.tables)
    target, backend = course.ground.target, course.ground.backend
    at = stamp()

    async def bootstrapped(place: Place, probed: Execution) -> None:
        if target.bootstrap is not None:
            table = probed.contexts[0].table
            history = await course.ground.history()
            await bootstrap(target, backend, history, place, table, course.hold)

    try:
        async with migrated(course, lambda: backend.side(at), bootstrapped) as fresh:
            aside = await backend.take_over(
                fresh.side,
                at,
                fresh.tables,
                set_aside=set_aside,
                disconnect_others=disconnect_others,
            )
            course.applied = list(fresh.applied)
            return aside
    except SideError as failed:
        error = failed.__cause__
        assert error is not None
        raise RefusedError(
            f"a fresh database cannot be migrated either ({first_line(error)}); "
            "the old one was not touched"
        ) from error
