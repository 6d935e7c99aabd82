"""Builds a fresh, migrated database, and lets it take the place of one that cannot be migrated."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from automigrator.backends.contract.examiner import TableName
from automigrator.backends.contract.sides import Known, Sides
from automigrator.errors import AutomigratorError, RefusedError
from automigrator.migrations.baseline import bootstrap
from automigrator.migrations.created_tables import creations
from automigrator.migrations.drive import drive
from automigrator.migrations.execution import Command, Execution, Migration
from automigrator.migrations.ways import Way
from automigrator.retention import stamp
from automigrator.runner.side_database import SideError, migrated, sides_of
from automigrator.runner.state import RunState
from automigrator.support.redaction import first_line


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
            await bootstrap(migration, probed.contexts[0].table)
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
        command = Command(head, apply=True, started=state.started, done=state.ran)
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
