"""Proves a plan: a copy of a tenant migrated by replay is like one migrated by Alembic."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

from sqlalchemy import Engine, event

from automigrator.backends.contract.differences import differences
from automigrator.backends.contract.sides import Contents, Side
from automigrator.backends.contract.values import Place
from automigrator.errors import RefusedError
from automigrator.fleet.replay.course import Course, followed
from automigrator.fleet.replay.plan import UnsafeError
from automigrator.migrations.execution import Execution
from automigrator.migrations.probe import probe
from automigrator.migrations.runs.inside import inside_env
from automigrator.retention import stamp
from automigrator.runner.side_database import SideError, migrated, sides_of
from automigrator.runner.state import RunState
from automigrator.support.redaction import first_line


class UnprovedError(Exception):
    """Raised where a tenant could not prove anything; another one may."""


async def prove(state: RunState, course: Course, tenant: str | None) -> None:
    """Prove the course of one tenant on copies of it.

    Values that differ between two runs of Alembic, and between two replays, are the database's
    own clock or chance: they may differ between the two as well. Raises UnsafeError where the
    course gives something else than Alembic, UnprovedError where this tenant cannot tell, and
    LockLostError.
    """
    own = course.of(tenant)
    alembic, replay = (
        partial(_by_alembic, state, own, tenant),
        partial(_by_replay, state, own, tenant),
    )
    try:
        theirs = await alembic()
        ours = await replay()
        found = differences(theirs, ours)
        if found.values and not found.structure:
            again = await alembic()
            once_more = await replay()
            own_chance = differences(theirs, again).values & differences(ours, once_more).values
            found = differences(theirs, ours, own_chance)
    except SideError as failed:
        raise UnprovedError(
            f"Alembic cannot migrate a copy: {first_line(failed.error)}"
        ) from failed
    except RefusedError as refused:
        raise UnprovedError(str(refused)) from refused
    if found.structure:
        line = min(found.structure, key=len).partition("\n")[0]
        raise UnsafeError(f"a copy that was replayed has another structure than Alembic's: {line}")
    if found.values:
        table, column = min(found.values)
        raise UnprovedError(  # somebody may have written between two copies
            f"a copy that was replayed has other rows than Alembic's, in {table}"
            f"{f', column {column}' if column else ''}"
        )


@asynccontextmanager
async def _opened(state: RunState, tenant: str | None) -> AsyncIterator[Side]:
    """Context manager: a copy of the tenant, of its schema alone where it shares a database."""
    schemas = () if tenant is None else (tenant,)
    async with sides_of(state).copy(stamp(), schemas=schemas) as side:
        yield side


async def _by_alembic(state: RunState, course: Course, tenant: str | None) -> Contents:
    async def begin(*_: Any) -> Mapping[str, float]:
        return {}

    with _settings_noted() as noted:
        async with migrated(state, partial(_opened, state, tenant), begin) as done:
            found = await sides_of(state).contents(done.place)
    plans = [each.plan for each in course.stretches if each.plan is not None]
    parts = [part for plan in plans for part in plan.parts]
    rendered = {_plain(each.sql) for part in parts for each in part.statements}
    for database, sql in noted:
        if database == done.place.url.database and _plain(sql) not in rendered:
            raise UnsafeError(f"env.py's offline mode does not write what it sends: {sql[:80]}")
    return found


@contextmanager
def _settings_noted() -> Iterator[list[tuple[str | None, str]]]:
    """Context manager: note what the code of an env.py sets on its sessions, by database."""
    noted: list[tuple[str | None, str]] = []

    def note(connection: Any, _: Any, statement: str, *more: Any) -> None:
        if inside_env.get() and _SETS.search(statement):
            noted.append((connection.engine.url.database, statement))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield noted
    finally:
        event.remove(Engine, "before_cursor_execute", note)


_SETS = re.compile(
    r"^\s*(set|reset)\b|^\s*pragma\s+[\w.]+\s*=|(?<!pg_catalog\.)\bset_config\s*\(", re.IGNORECASE
)
"""What changes a session; what is ours names its schema."""


def _plain(sql: str) -> str:
    return " ".join(sql.rstrip("; \n").lower().split())


async def _by_replay(state: RunState, course: Course, tenant: str | None) -> Contents:
    sides = sides_of(state)
    async with _opened(state, tenant) as side:
        place = Place(side.engine, side.url)
        migration = await state.migration(place)
        try:
            way = (await probe(migration))[0] if course.needs_env else None
            await followed(migration, course, Execution(), way)
        except Exception as error:
            if state.backend.classify(error).kind in ("unreachable", "disk-full", "lock-timeout"):
                raise UnprovedError(f"a copy could not be replayed: {first_line(error)}") from error
            raise UnsafeError(f"a copy cannot be replayed: {first_line(error)}") from error
        return await sides.contents(place)
