"""Migrates a database on the side: a fresh one that is to take over, or a copy to rehearse on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import NamedTuple

from automigrator.backends.contract.sides import Side, Sides
from automigrator.backends.contract.values import Place, VersionTable
from automigrator.errors import EnvError, RefusedError
from automigrator.migrations.baseline import bootstrap
from automigrator.migrations.causes import left_open
from automigrator.migrations.drive import drive
from automigrator.migrations.execution import Command, Execution, Migration
from automigrator.migrations.probe import probe
from automigrator.migrations.ways import Way
from automigrator.report import Applied
from automigrator.retention import stamp
from automigrator.runner.state import RunState
from automigrator.support.redaction import first_line

Begin = Callable[[Migration, Execution], Awaitable[None]]

"""What precedes the revisions; it is shown what env.py configured for the side."""


class SideError(Exception):
    """Raised when a side database cannot be migrated; `error` is why.

    `execution` is None where env.py could not even be led there.
    """

    def __init__(self, error: Exception, execution: Execution | None) -> None:
        super().__init__()
        self.error = error
        self.execution = execution


class Migrated(NamedTuple):
    """A side database at the wanted heads."""

    side: Side
    tables: tuple[VersionTable, ...]
    applied: tuple[Applied, ...]


@asynccontextmanager
async def migrated(
    state: RunState, opened: Callable[[], AbstractAsyncContextManager[Side]], begin: Begin
) -> AsyncIterator[Migrated]:
    """Context manager: migrate the side database that `opened` makes, and report its progress.

    Raises SideError, and what making it raises.
    """
    async with opened() as side:
        place = Place(side.engine, side.url)
        execution: Execution | None = None
        try:
            await _ensure_apart(state, place)
            migration = await state.migration(place)
            way, probed = await probe(migration)
            execution = Execution()
            await begin(migration, probed)
            tables = await _driven(state, migration, way, execution)
        except Exception as error:
            raise SideError(error, execution) from error
        applied = tuple(Applied(*each) for each in execution.done.items())
        yield Migrated(side, tables, applied)


async def _ensure_apart(state: RunState, place: Place) -> None:
    """Whatever an application does to its connections: what is meant for the side stays there."""
    identity = state.backend.sessions.identity
    found = []
    for each in (state.session.place, place):
        async with each.engine.connect() as connection:
            found.append(await connection.run_sync(identity))
    if found[0] == found[1]:
        raise RefusedError(
            "the application's engine leads to its own database whatever database is asked for; "
            "nothing was changed. Let its connect arguments or listeners leave the database alone"
        )


async def _driven(
    state: RunState, migration: Migration, way: Way, execution: Execution
) -> tuple[VersionTable, ...]:
    """Migrate a database on the side, and return its version tables once they say so."""
    await state.run_revisions(migration, way, execution, state.ran)
    after = await drive(migration, way, Command(migration.target.revision))
    left = [revision for context in after.contexts for revision in context.pending]
    if left or not all(context.ran for context in after.contexts):
        raise execution.error or EnvError(
            f"env.py returned as if all were well; still pending: {', '.join(left) or 'everything'}"
            f"{left_open(execution.contexts)}"
        )
    return tuple(dict.fromkeys(context.table for context in after.contexts))


async def rebuild(state: RunState, *, set_aside: bool, disconnect_others: bool) -> str | None:
    """Replace the target's database; say where the old one was set aside.

    Raises RefusedError, the old database untouched, when the fresh one cannot be migrated.
    """
    sides = sides_of(state)
    await sides.ensure_replaceable(state.tables)
    at = stamp()

    async def bootstrapped(migration: Migration, probed: Execution) -> None:
        if migration.target.bootstrap is not None:
            await bootstrap(migration, probed.contexts[0].table)

    try:
        async with migrated(state, partial(sides.fresh, at), bootstrapped) as fresh:
            await state.hold.confirm()
            aside = await sides.take_over(
                fresh.side,
                at,
                fresh.tables,
                set_aside=set_aside,
                disconnect_others=disconnect_others,
            )
            state.applied = list(fresh.applied)
            return aside
    except SideError as failed:
        raise RefusedError(
            f"a fresh database cannot be migrated either ({first_line(failed.error)}); "
            "the old one was not touched"
        ) from failed.error


def sides_of(state: RunState) -> Sides:
    """The lock's databases on the side. Raises RefusedError where there can be none."""
    return state.run.offered(state.hold.sides, "databases on the side")
