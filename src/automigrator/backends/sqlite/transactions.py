"""Real transactions on a SQLite connection, where nobody else begins them.

The driver begins a transaction at the first INSERT only, so that DDL before it is committed at
once; SQLAlchemy documents remedies (pysqlite, "Transactions with SQLite"), and an env.py that uses
one of them begins by itself.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from automigrator.backends.contract.sessions import in_autocommit
from automigrator.backends.sqlite.connections import main_file, roll_back, rows_of
from automigrator.backends.sqlite.foreign_keys import ForeignKeys
from automigrator.backends.sqlite.statements import IgnoredPragmaError, Statements

# after a COMMIT of the revision's own: these need no transaction, and some can have none
_OUTSIDE = re.compile(
    r"(?>(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/|;)*)"
    r"(?:pragma|vacuum|attach|detach|begin|commit|end|rollback|savepoint|release)\b",
    re.IGNORECASE | re.DOTALL,
)

_Listeners = dict[str, Callable[..., None]]

_GONE = (SQLAlchemyError, sqlite3.Error, ValueError, RuntimeError)


def make_real(
    connection: Connection, *, to_write: bool = True, keys_off: bool = False
) -> Callable[[], None]:
    """Let `connection` BEGIN for real unless it is in AUTOCOMMIT, or has begun already.

    SQLite's rollback journal is on the disk, even where the application has turned it off.
    `keys_off`: see `ForeignKeys`. Returns the call that undoes all this.
    """
    dbapi: Any = connection.connection.dbapi_connection
    level = getattr(dbapi, "isolation_level", "")
    listeners: _Listeners = {}
    begin: Callable[[], None] = partial(_begin_reading, connection)
    undo = ExitStack()
    try:
        if to_write:
            begin, listeners = _writing(connection, keys_off, undo)
        if level is None or isinstance(level, str):
            undo.callback(_quietly, lambda: setattr(dbapi, "isolation_level", level))
    except BaseException:
        _quietly(undo.close)
        raise
    begin_impl = connection._begin_impl

    def begin_after_others(transaction: Any) -> None:
        # a listener on the connection would be called before the engine's own
        begin_impl(transaction)
        begin()

    for name, listener in listeners.items():
        event.listen(connection, name, listener)
    vars(connection)["_begin_impl"] = begin_after_others
    if connection.in_transaction():
        begin()

    def undone() -> None:
        with suppress(*_GONE):
            vars(connection).pop("_begin_impl", None)
            if not connection.closed and not connection.invalidated:
                for name, listener in listeners.items():
                    event.remove(connection, name, listener)
                if connection.in_transaction():
                    connection.rollback()
                # a COMMIT that a reader blocked leaves it open: a pragma would do nothing
                dbapi.rollback()
        # even after it was given back: the application's pool hands out the same one again
        undo.close()

    return undone


def _begin_reading(connection: Connection) -> None:
    driver: Any = connection.connection.driver_connection
    if not in_autocommit(connection) and not driver.in_transaction:
        rows_of(connection.connection.dbapi_connection, "BEGIN")


def _writing(
    connection: Connection, keys_off: bool, undo: ExitStack
) -> tuple[Callable[[], None], _Listeners]:
    """Return what begins a transaction that writes, and what listens to it; `undo` ends both."""
    dbapi: Any = connection.connection.dbapi_connection
    driver: Any = connection.connection.driver_connection
    statements = Statements(dbapi, connection.info)
    if (journal := _unsafe_journal(connection)) is not None:
        undo.callback(_quietly, lambda: rows_of(dbapi, f"PRAGMA journal_mode={journal}"))
        rows_of(dbapi, "PRAGMA journal_mode=DELETE")
    keys = ForeignKeys(connection, statements, off=keys_off)
    undo.callback(_quietly, keys.as_before)
    undo.callback(_quietly, statements.observe())
    ours = False
    """Whether a transaction of SQLAlchemy's is open that is to be real."""

    def begin() -> None:
        nonlocal ours
        ours = not in_autocommit(connection)
        keys.begin(autocommit=not ours)
        if ours:
            ensure_begun()

    def ensure_begun() -> None:
        if not driver.in_transaction:
            # a deferred one that has read cannot wait for another writer. But at its end it waits
            # for readers, even if it has written nothing
            rows_of(dbapi, "BEGIN IMMEDIATE")
        keys.began()

    def before_cursor_execute(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        statements.ensure_none_ignored()
        if ours and not driver.in_transaction and not _OUTSIDE.match(statement):
            ensure_begun()  # a script, or the revision itself, has committed
        statements.statement = statement

    def after_cursor_execute(*_: Any) -> None:
        statements.statement = None
        statements.ensure_none_ignored()

    def commit(_: Connection) -> None:
        nonlocal ours
        try:
            statements.ensure_none_ignored()
        except IgnoredPragmaError:
            roll_back(dbapi)
            raise
        keys.check()
        ours = False

    def rollback(_: Connection) -> None:
        nonlocal ours
        ours = False
        statements.rolled_back()
        keys.resume()

    return begin, {
        "before_execute": lambda _, clause, *more: keys.before_execute(clause),
        "after_execute": lambda *_: keys.resume(),
        "before_cursor_execute": before_cursor_execute,
        "after_cursor_execute": after_cursor_execute,
        "commit": commit,
        "rollback": rollback,
    }


def _quietly(act: Callable[[], object]) -> None:
    with suppress(*_GONE):
        act()


def _unsafe_journal(connection: Connection) -> str | None:
    """Return the journal mode of a file if no transaction in it, nor a kill, could be undone."""
    ((mode,),) = rows_of(connection.connection.dbapi_connection, "PRAGMA journal_mode")
    return mode if mode in ("off", "memory") and main_file(connection) is not None else None
