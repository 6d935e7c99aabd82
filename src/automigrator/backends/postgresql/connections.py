"""A migration's connection: where it leads, what is set on it, how to stop its statement.

It has env.py's search path: see `sql` on how a statement is written that is safe under any.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import threading
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

from sqlalchemy import NullPool, event, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.contract.sessions import OURS
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql.scripts import ScriptedSessions
from automigrator.backends.postgresql.sql import (
    CHOSEN_OR_EMPTY,
    LIMITS_OF_TIME,
    SERVER,
    STATEMENT_TIMEOUT,
    SearchPath,
    literal,
)
from automigrator.support.postgresql_urls import (
    TUNING_OF_ASYNCPG,
    TUNING_OF_LIBPQ,
    settings_of_options,
)

DEAF_CALLS = 5
"""The number of interrupts of a statement after which its server is given up."""


def tagged(
    connection: Connection, tag: str, rule: Callable[[int, float], None]
) -> Callable[[], None]:
    """Name the session `tag`, so that a later holder of the lock finds it; returns the undoing.

    `rule` gets the server and the connection's age in seconds, and raises for the wrong server.
    """
    outside = not connection.in_transaction()
    server, age_s, before, _ = connection.execute(_NAME, {"name": tag}).one()
    if outside:
        connection.commit()
    undo = _undoing(connection, "application_name", before)
    try:
        rule(server, age_s)
    except BaseException:
        undo()
        raise
    return undo


_NAME = text(f"""
    select {SERVER}, (select extract(epoch from pg_catalog.clock_timestamp()
         operator(pg_catalog.-) backend_start)::pg_catalog.float8  -- pg_stat_activity joins more
                      from pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid())),
           pg_catalog.current_setting('application_name'),
           pg_catalog.set_config('application_name', :name, false)
""")


def sharing(connection: Connection, key: int) -> Callable[[], None]:
    """Hold an advisory key, shared, as long as the session lasts, or until the returned call."""
    outside = not connection.in_transaction()
    connection.execute(text(f"select pg_catalog.pg_try_advisory_lock_shared({key:d})"))
    if outside:
        connection.rollback()

    def undo() -> None:
        with contextlib.suppress(SQLAlchemyError):
            if not (connection.closed or connection.invalidated):
                connection.execute(text(f"select pg_catalog.pg_advisory_unlock_shared({key:d})"))
                connection.rollback()

    return undo


def _asked(connection: Connection, query: str) -> tuple[Any, ...]:
    """Read one row, and leave the connection outside a transaction where it was."""
    outside, row = not connection.in_transaction(), connection.execute(text(query)).one()
    if outside:
        connection.rollback()
    return tuple(row)


def _set(connection: Connection, name: str, value: str, before: str) -> Callable[[], None]:
    """Set a session's setting, and return the call that sets it back to `before`."""
    outside = not connection.in_transaction()
    connection.execute(_SET, {"name": name, "value": value})
    if outside:
        connection.commit()  # or a rollback would take it back
    return _undoing(connection, name, before)


def _undoing(connection: Connection, name: str, before: str) -> Callable[[], None]:
    """The call that sets a session's setting back to `before`."""

    def undo() -> None:
        with contextlib.suppress(SQLAlchemyError):
            ends = isinstance(connection.engine.pool, NullPool)  # and its session with it
            if ends or connection.closed or connection.invalidated:
                return
            if connection.in_transaction():
                connection.rollback()
            connection.connection.rollback()  # a COMMIT that a listener refused leaves it open
            connection.execute(_SET, {"name": name, "value": before})
            connection.commit()

    return undo


_SET = text("select pg_catalog.set_config(:name, :value, false)")


def _unlimited(connection: Connection) -> Callable[[], None]:
    """Lift the limits of time of a session; returns the call that sets them again."""
    (found,) = _asked(connection, LIMITS_OF_TIME)
    undo = contextlib.ExitStack()
    for name, before in (each.split("=") for each in found or ()):
        undo.callback(_set(connection, name, "0", before))
    return undo.close


def sever(driver: Any) -> None:
    """Cut a driver's connection from any thread; a call that waits for its answer gets an error."""
    transport = getattr(driver, "_transport", None)  # asyncpg's
    with contextlib.suppress(Exception):  # it may have been closed meanwhile
        end = driver if transport is None else transport.get_extra_info("socket")
        with socket.socket(fileno=os.dup(end.fileno())) as copy:
            copy.shutdown(socket.SHUT_RDWR)


def cut(connection: AsyncConnection) -> None:
    """Cut a connection of ours, if it is open."""
    sync = connection.sync_connection
    if sync is not None and not sync.closed and not sync.invalidated:
        sever(sync.connection.driver_connection)


def _cancel_beside(cancel: Callable[[], object]) -> Callable[[], None]:
    """Cancel from a thread: the request opens a connection to a server that may not answer."""

    def work() -> None:
        with contextlib.suppress(Exception):  # it may have been closed meanwhile
            cancel()

    return lambda: threading.Thread(target=work, name="automigrator", daemon=True).start()


def _cancel_of_current_task() -> Callable[[], object]:
    """Cancel the task that the connection is used in; the driver passes that on to the server.

    A connection of ours is used in no task: what is awaited for it is cancelled by who awaits it.
    """
    try:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
    except RuntimeError:
        return lambda: None
    assert task is not None  # a greenlet of SQLAlchemy's is always awaited in one

    def call() -> None:
        with contextlib.suppress(RuntimeError):  # the loop may be closed already
            loop.call_soon_threadsafe(task.cancel)

    return call


LOCK_TIMEOUT_MS = 500
"""Short: while an ALTER queues for a lock, everybody else queues behind it, readers too."""


def waiting_shortly(connection: Connection, limit_ms: Callable[[], int]) -> Callable[[], None]:
    """Give each transaction on a connection a `lock_timeout` if it has none; returns the undoing.

    Outside a transaction nothing is set: CREATE INDEX CONCURRENTLY, say, waits there without
    being in anybody's way, and would leave an invalid index.
    """

    def limit(begun: Connection) -> None:
        begun.execute(_LIMIT, {"value": f"{limit_ms()}ms"})

    if connection.in_transaction():
        limit(connection)
    event.listen(connection, "begin", limit)
    return lambda: event.remove(connection, "begin", limit)


_LIMIT = text("""
    select pg_catalog.set_config('lock_timeout', :value, true)
    where pg_catalog.current_setting('lock_timeout') operator(pg_catalog.=) '0'
""").execution_options(**{OURS: True})


_MERELY = (
    TUNING_OF_LIBPQ
    | TUNING_OF_ASYNCPG
    | {"application_name", "fallback_application_name", "prepared_statement_name_func"}
)
"""Arguments that change neither what is done on a connection nor what comes of it."""

_MARK = "automigrator.transaction"


class ServerSessions(ScriptedSessions):
    """Connections of asyncpg and psycopg; their transactions are real."""

    def __init__(self, search_path: Callable[[], SearchPath | None]) -> None:
        self._search_path = search_path

    def identity(self, connection: Connection) -> Hashable:
        """See `Sessions`; the same for every driver."""
        row = connection.execute(
            text(f"""
            select d.oid::pg_catalog.int8, {SERVER} from pg_catalog.pg_database d
            where d.datname operator(pg_catalog.=) pg_catalog.current_database()
            """)
        ).one()
        return tuple(row)

    def limit_statements(self, connection: Connection, seconds: float) -> Callable[[], None]:
        """Set the session's `statement_timeout`, not the transaction's.

        An autocommit block is limited, too. 0 lifts every limit of time that the server, the role
        or the connection has.
        """
        if not seconds:
            return _unlimited(connection)
        limit_ms = max(round(seconds * 1000), 1)
        (before,) = _asked(connection, STATEMENT_TIMEOUT)
        if 0 < before <= limit_ms:
            return lambda: None
        return _set(connection, "statement_timeout", str(limit_ms), str(before))

    def interrupter(self, connection: Connection) -> Callable[[], None] | None:
        """See `Sessions`; the server is told, too.

        After `DEAF_CALLS` calls in vain the server is out of reach, and the connection is cut: the
        lock's next holder ends what it still runs.
        """
        driver = connection.connection.driver_connection
        if connection.dialect.is_async:
            stop = _cancel_of_current_task()
        else:
            # psycopg's `cancel` asks in clear text, whatever the connection itself is
            cancel = getattr(driver, "cancel_safe", None) or getattr(driver, "cancel", None)
            if cancel is None:
                return None
            stop = _cancel_beside(cancel)
        calls = itertools.count(1)

        def call() -> None:
            if next(calls) < DEAF_CALLS:
                stop()
            else:
                sever(driver)

        return call

    def mark(self, connection: Connection, number: int) -> None:
        """See `Sessions`; a session's setting is rolled back with its transaction."""
        with contextlib.closing(connection.connection.cursor()) as cursor:
            cursor.execute(f"select pg_catalog.set_config('{_MARK}', '{number:d}', false)")
            cursor.fetchall()

    def marked(self, connection: Connection) -> int | None:
        driver = connection.connection
        with contextlib.closing(driver.cursor()) as cursor:
            cursor.execute(f"select pg_catalog.current_setting('{_MARK}', true)")
            ((number,),) = cursor.fetchall()
        driver.rollback()
        return int(number or 0)

    def transaction(self, connection: Connection) -> str | None:
        """See `Sessions`; the server remembers for long which transactions were committed."""
        with contextlib.closing(connection.connection.cursor()) as cursor:
            cursor.execute("select pg_catalog.txid_current()::pg_catalog.text")
            ((transaction,),) = cursor.fetchall()
        return str(transaction)

    def resolve(self, connection: Connection, table: VersionTable) -> VersionTable:
        """Add the schema where a connection with the search path would find another, or none."""
        translated = connection.get_execution_options().get("schema_translate_map") or {}
        schema = translated.get(table.schema, table.schema)
        if schema is not None:
            return VersionTable(table.name, schema)
        path, found = connection.execute(
            text("""
            select pg_catalog.current_schemas(false)::pg_catalog.text[],
                   (select n.nspname::pg_catalog.text from pg_catalog.pg_class c
                    join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) c.relnamespace
                    where c.oid operator(pg_catalog.=)
                          pg_catalog.to_regclass(pg_catalog.quote_ident(:name)))
            """),
            {"name": table.name},
        ).one()
        looked = self._search_path()
        if looked is not None and tuple(path) == looked.schemas:
            return table
        return VersionTable(table.name, found or (path[0] if path else None))

    def given_later(self, arguments: Mapping[str, Any]) -> tuple[Collection[str], Sequence[str]]:
        options = settings_of_options(arguments.get("options") or "")
        given = {"server_settings", *(["options"] if options is not None else ())}
        settings = {**(options or {}), **(arguments.get("server_settings") or {})}
        statements = [
            f"select pg_catalog.set_config({literal(name)}, {literal(str(value))}, false)"
            for name, value in settings.items()
            if name != "application_name"  # the lock's name for the session is there
        ]
        return arguments.keys() - given - _MERELY, statements

    def led_apart(self, connection: Connection, table: VersionTable) -> Callable[[], str] | None:
        """See `Sessions`; a `search_path` that env.py chose itself is left to it."""
        looked = self._search_path()
        setting, schemas = connection.execute(
            text(
                "select pg_catalog.current_setting('search_path'), "
                "pg_catalog.current_schemas(false)::pg_catalog.text[]"
            )
        ).one()
        if looked is None or setting == looked.setting or not schemas:
            return None
        named = {"schema": schemas[0], "version_table": table.name}
        translated = connection.get_execution_options().get("schema_translate_map") or {}
        if None in translated or connection.execute(text(CHOSEN_OR_EMPTY), named).scalar():
            return None

        def apart() -> str:
            looked = self._search_path()
            first = looked.schemas[:1] if looked is not None else ()
            if first == (schemas[0],):
                return ""
            return (
                "env.py sets no search_path, so what the revisions name without a schema is in "
                f"schema {schemas[0]}, and the target's own connections look first in "
                f"{f'schema {first[0]}' if first else 'no schema'}; if that is not meant, let "
                "env.py set the search_path that the application sets"
            )

        return apart
