"""What is attached to a migration's connection, and taken off when that is given back.

First it is proved where it leads; then come the lock and its fence, real transactions and limits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection

from automigrator.backends.contract.backend import Backend
from automigrator.backends.contract.sessions import in_autocommit
from automigrator.backends.model_engine import arguments_of
from automigrator.errors import EnvError
from automigrator.migrations.engines import AS_OURS, ensure_as_strong
from automigrator.migrations.execution import Execution, Migration, Request
from automigrator.migrations.runs.inside import inside_env
from automigrator.support import urls
from automigrator.support.concurrency import running_loop


def adopted(request: Request, execution: Execution, theirs: Any) -> Connection:
    """The connection to migrate on: env.py's, which leads to the target's database."""
    ours, backend = request.connection, request.migration.backend
    if not isinstance(theirs, Connection):
        raise EnvError(
            f"env.py passed a {type(theirs).__name__} to context.configure(connection=); "
            "it takes a sqlalchemy.engine.Connection"
        )
    if theirs is ours:
        return ours
    if ours is not None and theirs.engine.pool is ours.engine.pool:
        attach(request, execution, theirs)
        return theirs
    if theirs.dialect.name != backend.name:
        raise EnvError(
            f"env.py opened a {theirs.dialect.name} database, the target is {backend.name}"
        )
    engines = (backend.access.given_engine, backend.access.application)
    applications = theirs.engine.pool in [each.sync_engine.pool for each in engines if each]
    if not applications and (not theirs.dialect.is_async or running_loop() is None):
        # close the pool that env.py made for itself and leaves behind; never the application's
        execution.undo.callback(theirs.engine.dispose)
    if ours is not None and request.migration.place.in_place and not theirs.in_transaction():
        return ours  # no second connection leads to a database in memory
    if not applications and not theirs.info.get(AS_OURS):
        ensure_as_strong(request.weaker, arguments_of(theirs.engine), theirs.dialect.driver)
    with untouched(theirs):
        same = leads(request, theirs)
    if not same:
        place = request.migration.place
        apart = place.url.database != backend.access.url.database
        meant = f"the copy that is meant ({place.url.database})" if apart else "the target's"
        raise EnvError(
            f"env.py connected to another database ({urls.rendered(theirs.engine.url)}) than "
            f"{meant}; let it read its URL from config.get_main_option('sqlalchemy.url') or "
            "take config.attributes['connection']"
        )
    attach(request, execution, theirs)
    return theirs


def leads(request: Request, connection: Connection) -> bool:
    """Ask a connection whether it leads to the database that is migrated."""
    backend = request.migration.backend
    if connection.dialect.name != backend.name:
        return False
    return backend.sessions.identity(connection) == request.identity


def adopt(migration: Migration, connection: Connection, undo: ExitStack, to_write: bool) -> None:
    """Make a connection's transactions real and mark them as the lock's, until `undo` ends."""
    unreal = migration.backend.sessions.adopt(connection, to_write=to_write)
    if migration.hold is not None:
        undo.callback(migration.hold.claim(connection))
    undo.callback(unreal)


def attach(request: Request, execution: Execution, connection: Connection) -> None:
    if "close" in vars(connection):
        return  # it serves several version tables
    undo = ExitStack()
    adopt(request.migration, connection, undo, request.command.apply)
    if request.command.apply:
        undo.callback(request.follow(connection))
        undo.callback(_fence(request, execution, connection))
        if execution.measuring is not None:
            undo.callback(execution.measuring.follow(connection))
    else:
        make_interruptible(request.migration.backend, execution, connection)
    close = connection.close

    def closed() -> None:
        undo.close()  # its pool may be the application's, and hand it out again
        close()

    vars(connection)["close"] = closed
    execution.undo.callback(vars(connection).pop, "close")
    execution.undo.callback(undo.close)


def _fence(request: Request, execution: Execution, connection: Connection) -> Callable[[], None]:
    """Confirm the lock before each commit, and before each statement that commits by itself.

    Those of a revision are noted in the journal first. Returns the call that undoes it.
    """

    def commit(*_: object) -> None:
        _ensure_not_ended()
        request.check()
        request.confirm("")
        if execution.met_a_revision:
            request.committing()

    known: object = None

    def statement(conn: Connection, *_: Any) -> None:
        nonlocal known
        if in_autocommit(conn):
            _ensure_not_ended()
            request.confirm("")
            if execution.met_a_revision:
                request.committing()
        elif execution.current is not None and conn.get_transaction() is not known:
            known = conn.get_transaction()
            request.began(conn)

    def unseen() -> None:
        if execution.met_a_revision and running_loop() is not request.loop:
            request.committing()

    undo = ExitStack()
    undo.callback(request.migration.backend.sessions.before_commit(connection, unseen))
    listeners: dict[str, Callable[..., None]] = {
        **dict.fromkeys(("commit", "prepare_twophase", "commit_twophase"), commit),
        "before_cursor_execute": statement,
    }
    for name, listener in listeners.items():
        event.listen(connection, name, listener)
        undo.callback(event.remove, connection, name, listener)
    return undo.close


def _ensure_not_ended() -> None:
    if inside := inside_env.get():
        inside.ensure_not_ended()


def make_interruptible(backend: Backend, execution: Execution, connection: Connection) -> None:
    """Let `execution.interrupts` end what this connection runs."""
    interrupt = backend.sessions.interrupter(connection)
    if interrupt is not None:
        execution.interrupts.append(interrupt)
    if (loop := running_loop()) is not None and (task := asyncio.current_task()) is not None:
        execution.cancel = partial(_call_soon, loop, task.cancel)


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # the loop may be closed already
        loop.call_soon_threadsafe(call)


@contextmanager
def untouched(connection: Connection) -> Iterator[None]:
    """Ask a connection something without leaving a transaction open on it."""
    began = connection.in_transaction()
    yield
    if not began and connection.in_transaction():
        connection.rollback()
