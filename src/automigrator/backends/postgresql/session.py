"""What a connection leads to, what was set on it, and how to stop what it runs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.access import Access
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql.refusals import Session
from automigrator.backends.postgresql.sql import rows_of

DEAF_CALLS = 5

"""How often a statement is interrupted before its server is given up."""

SERVER = "(extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint"

"""Which server that is, by when it was started: an address may lead to another one by now."""

# what the drivers themselves set while they get to know a connection
_DRIVERS_OWN = ("application_name", "client_encoding", "jit")


def identity(connection: Connection) -> Hashable:
    """The server, by when it was started, and the database in it; the same for every driver."""
    row = connection.execute(
        text(f"""
        select d.oid::bigint, {SERVER}
        from pg_database d where d.datname = current_database()
        """)
    ).one()
    return int(row[0]), int(row[1])


def state(connection: Connection) -> Hashable:
    """What decides what an unqualified statement does on this connection."""
    row = connection.execute(
        text("select current_setting('search_path'), current_user::text, session_user::text")
    ).one()
    changed = connection.execute(
        text("select name, setting from pg_settings where source = 'session' order by name")
    ).all()
    return (
        tuple(row),
        tuple(tuple(each) for each in changed if each[0] not in _DRIVERS_OWN),
        connection.dialect.default_schema_name,
        tuple(sorted(_translated(connection).items(), key=repr)),
    )


def tagged(connection: Connection, tag: str, rule: Callable[[int], None]) -> Callable[[], None]:
    """Call the session `tag`, for whoever must end it; returns the undoing.

    `rule` is asked first whether the server is the right one; what it raises passes through.
    """
    outside = not connection.in_transaction()
    before, server = connection.execute(
        text(f"select current_setting('application_name'), {SERVER}")
    ).one()
    if outside:
        connection.rollback()
    rule(server)
    _name(connection, tag)
    if outside:
        connection.commit()  # or a rollback would take the name with it

    def undo() -> None:
        with contextlib.suppress(SQLAlchemyError):
            if connection.closed or connection.invalidated:
                return
            if connection.in_transaction():
                connection.rollback()
            _name(connection, before)
            connection.commit()

    return undo


def limited(connection: Connection, seconds: float) -> Callable[[], None]:
    """Set the session's `statement_timeout`, unless it has a shorter one; returns the undoing.

    The session's, not the transaction's: it is to hold in an autocommit block, too.
    """
    limit_ms = max(round(seconds * 1000), 1)
    outside = not connection.in_transaction()
    before = connection.execute(
        text("select setting::bigint from pg_settings where name = 'statement_timeout'")
    ).scalar_one()
    kept = 0 < before <= limit_ms
    if not kept:
        connection.execute(_STATEMENT_LIMIT, {"value": str(limit_ms)})
    if outside:
        connection.commit()  # or a rollback would take it back

    def undo() -> None:
        with contextlib.suppress(SQLAlchemyError):
            if kept or connection.closed or connection.invalidated:
                return
            if connection.in_transaction():
                connection.rollback()
            connection.execute(_STATEMENT_LIMIT, {"value": str(before)})
            connection.commit()

    return undo


_STATEMENT_LIMIT = text("select set_config('statement_timeout', :value, false)")


def _name(connection: Connection, name: str | None) -> None:
    connection.execute(
        text("select set_config('application_name', :name, false)"), {"name": name or ""}
    )


def resolve(
    connection: Connection, table: VersionTable, search_path: Sequence[str] | None
) -> VersionTable:
    """Name the schema where a connection with `search_path` would find another table, or none."""
    schema = _translated(connection).get(table.schema, table.schema)
    if schema is not None:
        return VersionTable(table.name, schema)
    path, found = connection.execute(
        text("""
        select current_schemas(false)::text[],
               (select n.nspname::text from pg_class c
                join pg_namespace n on n.oid = c.relnamespace
                where c.oid = to_regclass(quote_ident(:name)))
        """),
        {"name": table.name},
    ).one()
    if search_path is not None and tuple(path) == tuple(search_path):
        return table
    return VersionTable(table.name, found or (path[0] if path else None))


def interrupter(connection: Connection) -> Callable[[], None] | None:
    """A thread-safe call that stops the running statement; the server is told, too.

    Where that does not help `DEAF_CALLS` times the server is out of reach, and the connection
    is cut: what it still runs is ended by the lock's next holder.
    """
    driver = connection.connection.driver_connection
    if connection.dialect.is_async:
        stop = _cancel_of_current_task()
    else:
        stop = _cancel_beside(getattr(driver, "cancel", None))
    if stop is None:
        return None
    calls = itertools.count(1)

    def call() -> None:
        if next(calls) < DEAF_CALLS:
            stop()
        else:
            sever(driver)

    return call


def sever(driver: Any) -> None:
    """Cut a driver's connection from any thread; whoever waits for its answer gets an error."""
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


def _cancel_beside(cancel: Callable[[], object] | None) -> Callable[[], None] | None:
    """Cancel from a thread: it is a request of its own, to a server that may not answer."""
    if cancel is None:
        return None

    def work() -> None:
        with contextlib.suppress(Exception):  # it may have been closed meanwhile
            cancel()

    return lambda: threading.Thread(target=work, name="automigrator", daemon=True).start()


def _cancel_of_current_task() -> Callable[[], None] | None:
    """Cancel the task that the connection is used in, if it is another loop's.

    The driver passes a cancellation on to the server. On our own loop whoever interrupts
    cancels the task as well, and twice would cancel its cleaning up.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    if task is None:
        return None

    def call() -> None:
        with contextlib.suppress(RuntimeError):
            if asyncio.get_running_loop() is loop:
                return
        with contextlib.suppress(RuntimeError):  # the loop may be closed already
            loop.call_soon_threadsafe(task.cancel)

    return call


def _translated(connection: Connection) -> dict[str | None, str | None]:
    return dict(connection.get_execution_options().get("schema_translate_map") or {})


LOCK_TIMEOUT = "500ms"

"""An ALTER that queues for a lock makes everybody else queue behind it, readers too."""

_WATCH_S = 0.1


def waiting_shortly(connection: Connection) -> Callable[[], None]:
    """Give every transaction of a connection a `lock_timeout`, unless it has one; undone by a call.

    Outside a transaction there is none: what waits there, as CREATE INDEX CONCURRENTLY does, is in
    nobody's way, and would leave an invalid index.
    """

    def limit(begun: Connection) -> None:
        begun.execute(_LIMIT, {"value": LOCK_TIMEOUT})

    if connection.in_transaction():
        limit(connection)
    event.listen(connection, "begin", limit)
    return lambda: event.remove(connection, "begin", limit)


_LIMIT = text("""
    select set_config('lock_timeout', :value, true) where current_setting('lock_timeout') = '0'
""")


@asynccontextmanager
async def watched(access: Access, tag: str) -> AsyncIterator[Callable[[], tuple[str, ...]]]:
    """Look again and again who blocks the sessions with this tag; the yielded call tells."""
    found: dict[int, Session] = {}

    async def watch() -> None:
        async with access.connection(autocommit=True) as connection:
            while True:
                for row in await rows_of(connection, _BLOCKERS, tag=tag):
                    found[row[0]] = Session(*row)
                await asyncio.sleep(_WATCH_S)

    watching = asyncio.create_task(watch())
    try:
        yield lambda: tuple(map(str, found.values()))
    finally:
        watching.cancel()
        await asyncio.wait({watching})
        if not watching.cancelled():
            watching.exception()  # retrieved: who is in the way is told as well as can be


_BLOCKERS = """
    select b.pid, coalesce(b.application_name, ''), coalesce(b.usename::text, ''), b.state,
           extract(epoch from clock_timestamp() - coalesce(b.xact_start, b.query_start))::float8
    from pg_stat_activity a
    cross join lateral unnest(pg_blocking_pids(a.pid)) as blocking(pid)
    join pg_stat_activity b on b.pid = blocking.pid
    where starts_with(a.application_name, :tag) and a.wait_event_type = 'Lock'
"""
