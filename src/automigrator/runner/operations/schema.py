"""Makes and checks schema files, on databases beside the target's, which stays as it is."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from automigrator.backends.contract import schema_file
from automigrator.backends.contract.differences import differences
from automigrator.backends.contract.schema_file import SchemaFile
from automigrator.backends.contract.sides import Sides
from automigrator.backends.contract.values import Place, VersionTable
from automigrator.errors import ConfigurationError, RefusedError
from automigrator.migrations.baseline import UnfitError, made_from, play, stands
from automigrator.retention import stamp
from automigrator.runner.pipeline import load_plugins
from automigrator.runner.side_database import Migrated, SideError, migrated, sides_of
from automigrator.runner.state import RunState
from automigrator.support.concurrency import in_thread
from automigrator.target import Target

_MOST = 20
"""Differences that are listed."""


async def dump(state: RunState, path: Path, binaries: Path | None) -> None:
    """Write a schema file, whole or not at all, once it was seen to equal a replay.

    Raises RefusedError where it does not, and what the revisions raise.
    """
    async with _beside(state) as sides:
        state.hold.binaries = binaries or state.hooks.binaries
        async with _replayed(state, sides) as done:
            table = _only(done)
            migration = await state.migration(done.place)
            heads, names = await stands(migration, table)
            statements = await sides.script(done.place)
        history = await in_thread(partial(made_from, migration, heads))
        file = SchemaFile(state.backend.name, heads, history, names, statements)
        text = file.dumped()
        if found := await _compared(state, sides, file):
            raise RefusedError(
                f"what the revisions make is not made again by SQL: {'; '.join(found)}. No schema "
                "file was written; new databases run every revision"
            )
    await in_thread(partial(_write, path, text))


async def check(state: RunState, path: Path) -> tuple[str, ...]:
    """Say in what the database of a schema file differs from that of the revisions; none: equal."""
    file = await in_thread(partial(schema_file.read, path))
    if isinstance(file, str):
        return (f"{path}: {file}",)
    if file.dialect != state.backend.name:
        return (f"{path} was made for {file.dialect}, and this is {state.backend.name}",)
    async with _beside(state) as sides:
        migration = await state.migration()
        known = migration.history.knows(file.heads)
        if not known or file.history != await in_thread(partial(made_from, migration, file.heads)):
            return ("it was made from other revisions, and is not used",)
        return await _compared(state, sides, file)


def path_of(target: Target, given: str | Path | None) -> Path:
    """The schema file that is meant. Raises ConfigurationError where none is named."""
    if given is None:
        if target.bootstrap is None or callable(target.bootstrap):
            raise ConfigurationError(
                "no schema file is named; name one, or say Target(bootstrap='schema.sql')"
            )
        given = os.fspath(target.bootstrap)
    return Path(given)


@asynccontextmanager
async def _beside(state: RunState) -> AsyncIterator[Sides]:
    """Context manager: databases beside the target's, under its lock."""
    await load_plugins(state)
    if not (await state.backend.look([state.session.table])).exists:
        await state.owner.create_database(state.run)
    async with state.locked():
        try:
            yield sides_of(state)
        except SideError as failed:
            raise failed.error from None


@asynccontextmanager
async def _replayed(state: RunState, sides: Sides) -> AsyncIterator[Migrated]:
    """Context manager: a new database that the revisions have made."""

    async def begin(*_: Any) -> Mapping[str, float]:
        return {}

    async with migrated(state, partial(sides.fresh, stamp()), begin) as done:
        yield done


async def _compared(state: RunState, sides: Sides, file: SchemaFile) -> tuple[str, ...]:
    """In what a new database made by the file and the later revisions differs from a replay."""
    async with _replayed(state, sides) as done:
        table = _only(done)
        replayed = await sides.contents(done.place)

    async def begin(migration: Any, *_: Any) -> Mapping[str, float]:
        await play(migration, table, file)
        return {}

    try:
        async with migrated(state, partial(sides.fresh, stamp()), begin) as done:
            loaded = await sides.contents(Place(done.side.engine, done.side.url))
    except SideError as failed:
        if isinstance(failed.error, UnfitError):
            return (str(failed.error),)
        raise
    found = differences(replayed, loaded)
    rows = [f"rows of {name}{f', column {c}' if c else ''}" for name, c in sorted(found.values)]
    return tuple([*sorted(found.structure), *rows][:_MOST])


def _only(done: Migrated) -> VersionTable:
    if len(done.tables) != 1:
        raise RefusedError("a schema file is of one version table, and env.py has several")
    return done.tables[0]


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_text(text, "utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
