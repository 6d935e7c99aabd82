"""Migrates a database on the side: a fresh one that takes over, or a copy to rehearse on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from functools import partial
from typing import NamedTuple

from automigrator.backends.contract.examiner import TableName
from automigrator.backends.contract.sides import Known, Side, Sides
from automigrator.backends.contract.values import Place, VersionTable
from automigrator.errors import AutomigratorError, EnvError, RefusedError
from automigrator.migrations.baseline import bootstrap
from automigrator.migrations.created_tables import creations
from automigrator.migrations.drive import drive
from automigrator.migrations.execution import Command, Execution, Migration, left_open
from automigrator.migrations.probe import probe
from automigrator.migrations.statement_meter import StatementMeter
from automigrator.migrations.ways import Way
from automigrator.report import Applied
from automigrator.retention import stamp
from automigrator.runner.state import RunState
from automigrator.support.redaction import first_line

Begin = Callable[[Migration, Way, Execution], Awaitable[Mapping[str, float]]]

"""What precedes the revisions; it is shown what env.py configured for the side.

It returns the revisions that it ran, and the seconds that each took.
"""


Metered = Callable[[Place], AbstractAsyncContextManager[StatementMeter | None]]


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
    place: Place
    tables: tuple[VersionTable, ...]
    applied: tuple[Applied, ...]


@asynccontextmanager
async def migrated(
    state: RunState,
    opened: Callable[[], AbstractAsyncContextManager[Side]],
    begin: Begin,
    metering: Metered = lambda place: nullcontext(),
) -> AsyncIterator[Migrated]:
    """Context manager: migrate the side database that `opened` makes, and report its progress.

    `metering` gives what measures the revisions. Raises SideError, and what making it raises.
    """
    async with opened() as side:
        place = Place(side.engine, side.url)
        execution: Execution | None = None
        try:
            await _ensure_apart(state, place)
            migration = await state.migration(place)
            way, probed = await probe(migration)
            execution = Execution()
            ran = await begin(migration, way, probed)
            async with metering(place) as execution.measuring:
                tables = await _driven(state, migration, way, execution)
        except Exception as error:
            raise SideError(error, execution) from error
        applied = tuple(Applied(*each) for each in {**ran, **execution.done}.items())
        yield Migrated(side, place, tables, applied)


async def _ensure_apart(state: RunState, place: Place) -> None:
    """Whatever an application does to its connections: what is meant for the side stays there."""
    own = await state.backend.identity(state.session.place)
    if own == await state.backend.identity(place):
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


def sides_of(state: RunState) -> Sides:
    """The lock's databases on the side. Raises RefusedError where there can be none."""
    return state.run.offered(state.hold.sides, "databases on the side")


async def rebuild(
    state: RunState, set_aside: bool, disconnect_others: bool, also: tuple[str, ...]
) -> str | None:
    """Replace the target's database; say where the old one was set aside.

    Raises RefusedError, the old database untouched, where nothing is pending, where it holds
    tables that are not known, and where the fresh one cannot be migrated.
    """
    sides, failure = sides_of(state), state.run.failure
    damaged = failure is not None and failure.kind == "corrupt"
    heads = await _heads(state, damaged)
    await sides.ensure_replaceable(state.tables, also=also, damaged=damaged)
    known: set[TableName] = set()
    history = await state.session.history()
    pending = history.ids(history.steps(state.target.revision, state.run.before))
    known.update(creations(history, pending))  # what half of one of them has left

    async def begun(migration: Migration, way: Way, probed: Execution) -> Mapping[str, float]:
        if migration.target.bootstrap is not None:
            await bootstrap(migration, probed.contexts[0])
            known.update(await sides.tables(migration.place))
        return await _brought_to(state, heads, sides, migration, way, known)

    async def old(migration: Migration, way: Way, probed: Execution) -> Mapping[str, float]:
        return await _brought_to(state, heads, sides, migration, way, known)

    if state.target.bootstrap is not None and heads:
        # bootstrap may begin behind the old heads, where their tables are never seen
        with suppress(SideError):
            async with migrated(state, partial(sides.fresh, stamp()), old):
                pass
    at = stamp()
    try:
        async with migrated(state, partial(sides.fresh, at), begun) as fresh:
            known.update(await sides.tables(fresh.place))
            await state.hold.confirm()
            aside = await sides.take_over(
                fresh.side,
                at,
                fresh.tables,
                set_aside=set_aside,
                disconnect_others=disconnect_others,
                known=Known(frozenset(known), also),
            )
            state.applied = list(fresh.applied)
            return aside
    except SideError as failed:
        raise RefusedError(
            f"a fresh database cannot be migrated either ({first_line(failed.error)}); "
            "the old one was not touched"
        ) from failed.error


async def _brought_to(
    state: RunState,
    heads: tuple[str, ...],
    sides: Sides,
    migration: Migration,
    way: Way,
    known: set[TableName],
) -> dict[str, float]:
    """Bring a side to the heads that the old database has, and note the tables there are then."""
    ran: dict[str, float] = {}
    for head in heads:
        execution = Execution()
        command = Command(head, True, False, state.started, state.ran, state.server_says)
        await drive(migration, way, command, execution)
        if execution.error is not None:
            raise execution.error
        ran.update(execution.done)
        known.update(await sides.tables(migration.place))
    return ran


async def _heads(state: RunState, damaged: bool) -> tuple[str, ...]:
    """The heads that the database had, and those that it has now: those may be further on.

    Raises RefusedError where it is not for a fresh one to take its place.
    """
    try:
        sight = await state.look()
    except Exception as error:
        if damaged and state.backend.classify(error).kind == "corrupt":
            return state.run.before
        raise RefusedError(
            f"the database cannot be looked at again ({first_line(error)}); nothing was changed"
        ) from error
    heads, finding = sight.all_heads(), state.finding
    history = await state.session.history()
    if not history.knows(heads):
        raise RefusedError(
            f"newer code has migrated the database to {', '.join(heads)}; nothing was changed"
        )
    if finding is not None and finding.unversioned:
        raise RefusedError(
            "the database had tables and no version row, so that nobody can tell whose they are; "
            "nothing was changed"
        )
    try:
        if finding is not None:
            reached = finding.reached(history, sight)
        else:
            reached = bool(heads) and not history.steps(state.target.revision, heads)
    except AutomigratorError as error:
        raise RefusedError(f"{error}; nothing was changed") from error
    if reached:
        raise RefusedError(
            f"nothing is pending, the database is at {', '.join(heads)}; nothing was changed"
        )
    return tuple(dict.fromkeys((*state.run.before, *heads)))
