"""Databases that do not start at base: bootstrapped when new, stamped when adopted."""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.access import connected
from automigrator.backends.contract.backend import Backend
from automigrator.backends.contract.values import VersionTable
from automigrator.errors import ConfigurationError, JudgedError, LockLostError
from automigrator.migrations.attachment import adopt
from automigrator.migrations.execution import Execution, Migration
from automigrator.migrations.history import History
from automigrator.migrations.watchdog import Watch
from automigrator.support.redaction import first_line


async def bootstrap(migration: Migration, table: VersionTable) -> str | None:
    """Call the target's `bootstrap` on an empty database and stamp what it returns.

    Both or neither: one transaction. For None the version table is made and left empty, so that
    a later start knows whose tables they are. Raises JudgedError for what the callable raises,
    and ConfigurationError when it returns no revision of this history.
    """
    async with _committed(migration) as connection:
        answer = await _answer(migration, connection)
        revision = "base" if answer is None else answer
        await connection.run_sync(_stamp, migration.history, table, revision, "bootstrap")
    return None if answer is None else str(answer)


@asynccontextmanager
async def _committed(migration: Migration) -> AsyncIterator[AsyncConnection]:
    """Context manager: yield a connection, and commit at the end if the lock is still held."""
    target, _, _, place, hold = migration
    async with connected(place.engine, target.connect_timeout) as connection:
        undo = ExitStack()
        await connection.run_sync(lambda sync: adopt(migration, sync, undo, to_write=True))
        try:
            yield connection
            if hold is not None:
                await hold.confirm()
            await connection.commit()
        finally:
            await connection.rollback()
            await connection.run_sync(lambda _: undo.close())


async def _answer(migration: Migration, connection: AsyncConnection) -> Any:
    """Call `bootstrap` within the limits of a revision, for as long as the lock is held."""
    target, backend, _, _, hold = migration
    call = target.bootstrap
    assert call is not None
    execution = Execution(current="bootstrap", began=time.monotonic())
    watch = Watch(target, backend, hold, execution, what="bootstrap")

    forget = await connection.run_sync(watch.follow)
    try:
        if inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(type(call).__call__):
            return await watch.await_end(call(connection), cancellable=True)
        return await watch.await_end(connection.run_sync(call), cancellable=True)
    except (JudgedError, LockLostError):
        raise
    except Exception as error:
        raise blamed("bootstrap", error, backend) from error
    finally:
        await connection.run_sync(lambda _: forget())


async def stamp(migration: Migration, table: VersionTable, revision: str) -> None:
    """Write the heads of `revision` into the version table, running nothing."""
    async with _committed(migration) as connection:
        await connection.run_sync(_stamp, migration.history, table, revision, "baseline")


def _stamp(
    connection: Connection, history: History, table: VersionTable, revision: Any, source: str
) -> None:
    if not isinstance(revision, str):
        raise ConfigurationError(
            f"{source} gave a {type(revision).__name__}; it must be a revision such as 'head', "
            "or None to go on from base"
        )
    options = {"version_table": table.name, "version_table_schema": table.schema}
    context = MigrationContext.configure(connection, opts=options)
    try:
        context.stamp(history.script, revision)
    except CommandError as error:
        raise ConfigurationError(
            f"{source} names {revision!r}, which is no revision of this history: {error}"
        ) from error


def blamed(what: str, error: Exception, backend: Backend) -> JudgedError:
    """The error of the target's callable `what`, told apart from the library's own errors."""
    return JudgedError(
        backend.classify(error).kind or "hook",
        f"{what} of the target raised {first_line(error)}",
        f"repair the callable that Target({what}=...) was given",
    )
