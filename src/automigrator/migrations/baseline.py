"""Databases that do not start at base: bootstrapped when new, stamped when adopted."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import MetaData, Table, event
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.access import connected
from automigrator.backends.contract import schema_file
from automigrator.backends.contract.backend import Backend
from automigrator.backends.contract.checksums import checksum, whole
from automigrator.backends.contract.schema_file import SchemaFile
from automigrator.backends.contract.values import VersionTable
from automigrator.errors import ConfigurationError, HistoryError, JudgedError, LockLostError
from automigrator.migrations.attachment import adopt
from automigrator.migrations.causes import not_found
from automigrator.migrations.execution import Configured, Execution, Migration
from automigrator.migrations.history import History
from automigrator.migrations.watchdog import Watch
from automigrator.report import heads_text
from automigrator.support.bridge import Bridge
from automigrator.support.concurrency import in_thread
from automigrator.support.redaction import first_line


class Bootstrapped(NamedTuple):
    """What was stamped, None for base, and a remark for the report where nobody has said it."""

    revision: str | None
    note: str = ""
    made: bool = True
    """Whether anything was made: a schema file that does not fit is not used."""


class UnfitError(Exception):
    """Raised where a schema file is not to be used; says why."""


async def bootstrap(migration: Migration, context: Configured) -> Bootstrapped:
    """Call the target's `bootstrap` on an empty database and stamp what it returns.

    Both or neither: one transaction. None means the heads where all tables of the models were seen
    to be created (see `Created`). Else the version table is made then and left empty, so that a
    later start knows whose tables they are. Raises JudgedError for what the callable raises,
    HistoryError when it returns no revision of this history, and ConfigurationError when that is
    no revision at all, or it is the `create_all` of models without a table. A schema file is used
    where it fits.
    """
    call, history, table = migration.target.bootstrap, migration.history, context.table
    if not callable(call):
        try:
            file = await fitting(migration, context, Path(str(call)))
            await play(migration, table, file)
        except UnfitError as error:
            how = "every revision is run instead; `automigrator schema dump` makes it anew"
            return Bootstrapped(None, f"{call} was not used, as {error}: {how}", made=False)
        return Bootstrapped(heads_text(file.heads))
    models = Created.of(call, context.models)
    async with _committed(migration) as connection:
        with Created.watched(models, connection.sync_connection) as created:
            answer = await _answer(migration, connection, call)
        whole = answer is None and created.whole
        revision = answer if answer is not None else "heads" if whole else "base"
        await connection.run_sync(_stamp, history, table, revision, "bootstrap")
    if not whole:
        return Bootstrapped(None if answer is None else str(answer))
    heads = ", ".join(history.heads)
    return Bootstrapped(
        heads,
        f"bootstrap has created every table of the models and returned None: the database is "
        f"stamped at {heads}, and no revision was run; return 'base' for those to run",
    )


async def fitting(migration: Migration, context: Configured, path: Path) -> SchemaFile:
    """Read a schema file that was made from this very history. Raises UnfitError."""
    history = migration.history
    file = await in_thread(partial(schema_file.read, path))
    if isinstance(file, str):
        raise UnfitError(file)
    if file.dialect != migration.backend.name:
        raise UnfitError(f"it was made for {file.dialect}, and this is {migration.backend.name}")
    leads_to = history.applied(file.heads, context.wanted) if history.knows(file.heads) else ()
    if not file.heads or leads_to != file.heads:
        raise UnfitError(f"it leads to {heads_text(file.heads)}, which is not on the way")
    if file.history != await in_thread(partial(made_from, migration, file.heads)):
        raise UnfitError(
            "its revisions, what they import, env.py or the target's options are others now"
        )
    return file


def made_from(migration: Migration, heads: Iterable[str]) -> str:
    """A digest of what the schema at `heads` was made from, in a thread.

    That are the revisions, the application's modules that they import, env.py itself, and options
    of the target that revisions may read.
    """
    target, history = migration.target, migration.history
    environment, *revisions = history.sources(e.revision for e in history.ancestry(heads)).items()
    imports = history.imports(dict(revisions))
    options = (tuple(target.x), target.section, target.version_table, target.version_table_schema)
    contents = [text for _, text in (environment, *revisions)]
    contents += [part for name, text in imports.items() for part in (name.encode(), text)]
    digests = [checksum(each) for each in (repr(options).encode(), *contents)]
    return whole({str(number): each for number, each in enumerate(digests)})


async def stands(migration: Migration, table: VersionTable) -> tuple[tuple[str, ...], str]:
    """The version rows of a database, and where names without a schema lead to there."""

    def ask(connection: Connection) -> tuple[tuple[str, ...], str]:
        names = migration.backend.sessions.names_in(connection)
        return _rows(connection, table), names

    async with _committed(migration) as connection:
        return await connection.run_sync(ask)


def _rows(connection: Connection, table: VersionTable) -> tuple[str, ...]:
    options = {"version_table": table.name, "version_table_schema": table.schema}
    context = MigrationContext.configure(connection, opts=options)
    return tuple(sorted(context.get_current_heads()))


async def play(migration: Migration, table: VersionTable, file: SchemaFile) -> None:
    """Make an empty database what a schema file says, in one transaction.

    Raises UnfitError where names lead elsewhere, JudgedError for what the database refuses, and
    LockLostError.
    """
    sessions = migration.backend.sessions

    def run(connection: Connection) -> None:
        names = sessions.names_in(connection)
        if names != file.names:
            raise UnfitError(f"names without a schema lead to {names} here, and to {file.names}")
        sessions.run_script(connection, file.statements)
        if (found := _rows(connection, table)) != file.heads:
            raise UnfitError(f"it makes a database at {heads_text(found)}")

    async def call(connection: AsyncConnection) -> None:
        await connection.run_sync(run)

    async with _committed(migration) as connection:
        await _answer(migration, connection, call)


class Created:
    """The tables of the models that are seen to be created on one connection.

    The models are those that env.py compares the database with (its `target_metadata`), so those of
    the head; where `bootstrap` is itself a `create_all`, they are the ones that this belongs to.
    """

    def __init__(self, models: Sequence[MetaData], connection: object) -> None:
        self._models, self._connection = models, connection
        self._tables: set[Table] = set()

    @staticmethod
    def of(call: object, models: Sequence[MetaData]) -> Sequence[MetaData]:
        """The models that are meant. Raises ConfigurationError where they have no table."""
        while isinstance(call, partial):
            call = call.func
        if getattr(call, "__func__", None) is not MetaData.create_all:
            return models
        metadata: MetaData = call.__self__  # type: ignore[attr-defined]  # it is bound
        if not metadata.tables:
            raise ConfigurationError(
                "bootstrap is the create_all of a MetaData without tables; import the modules of "
                "the models before, in Target(load=...) or in env.py. Nothing was changed"
            )
        return (metadata,)

    @classmethod
    @contextmanager
    def watched(cls, models: Sequence[MetaData], connection: object) -> Iterator[Created]:
        """Context manager: watch what is created."""
        created = cls(models, connection)
        for each in models:
            event.listen(each, "after_create", created._note)
        try:
            yield created
        finally:
            for each in models:
                event.remove(each, "after_create", created._note)

    def _note(self, _: MetaData, connection: Connection, tables: Any = (), **__: Any) -> None:
        if connection is self._connection:
            self._tables.update(tables or ())

    @property
    def whole(self) -> bool:
        """Whether there are models, and none of their tables was left out."""
        every = {table for each in self._models for table in each.tables.values()}
        return bool(every) and every <= self._tables


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


async def _answer(migration: Migration, connection: AsyncConnection, call: Any) -> Any:
    """Call `bootstrap` within the limits of a revision, for as long as the lock is held."""
    target, backend, _, _, hold = migration
    execution = Execution(current="bootstrap", began=time.monotonic())
    watch = Watch(target, backend, hold, execution, what="bootstrap")

    async def awaited() -> Any:
        # followed in this task: an interrupt cancels the one that follows
        forget = await connection.run_sync(watch.follow)
        try:
            return await call(connection)
        finally:
            await connection.run_sync(lambda _: forget())

    def called() -> Any:
        sync = connection.sync_connection
        assert sync is not None
        forget = watch.follow(sync)
        try:
            return call(sync)
        finally:
            forget()

    try:
        if _is_async(call):
            return await watch.await_end(awaited(), cancellable=True)
        bridge = Bridge(asyncio.get_running_loop())
        execution.cancel = bridge.cancel
        return await watch.await_end(in_thread(partial(bridge.run, called)))
    except (JudgedError, LockLostError, UnfitError):
        raise
    except Exception as error:
        advice = "" if callable(target.bootstrap) else _MAKE_ANEW
        raise blamed("bootstrap", error, backend, advice) from error


def _is_async(call: Any) -> bool:
    return any(map(inspect.iscoroutinefunction, (call, type(call).__call__)))


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
        wrong = not_found(history.script, revision, error)
        raise HistoryError(f"{source}: {wrong}", wrong.advice) from error


_MAKE_ANEW = (
    "make the schema file anew with `automigrator schema dump`, with a role and a server like "
    "these, or leave it out: every revision is run then"
)


def blamed(what: str, error: Exception, backend: Backend, advice: str = "") -> JudgedError:
    """The error of the target's callable `what`, told apart from the library's own errors."""
    return JudgedError(
        backend.classify(error).kind or "hook",
        f"{what} of the target raised {first_line(error)}",
        advice or f"repair the callable that Target({what}=...) was given",
    )
