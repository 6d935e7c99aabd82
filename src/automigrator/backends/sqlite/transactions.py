"""Real transactions on a SQLite connection, whose batch operations fire no foreign key.

The driver begins a transaction at the first INSERT only, so that DDL before it is committed at
once; SQLAlchemy documents the remedy used here (pysqlite, "Transactions with SQLite").
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from automigrator.backends.sqlite.codes import is_busy
from automigrator.backends.sqlite.connections import main_file, rows_of
from automigrator.errors import AutomigratorError
from automigrator.support.error_chain import chain

logger = logging.getLogger(__name__)

Violations = frozenset[tuple[Any, ...]]


class ForeignKeyError(AutomigratorError):
    """Raised when a commit would leave rows that refer to nothing; it was rolled back."""


def make_real(connection: Connection, *, to_write: bool = True) -> Callable[[], None]:
    """Let `connection` BEGIN for real, with foreign keys off and checked before each commit.

    They are off because recreating a parent table (a batch operation) would delete its children
    by ON DELETE CASCADE; inside a transaction the pragma does nothing. SQLite's rollback journal
    is on the disk, even where the application has turned it off. Returns the call that undoes
    all this.
    """
    dbapi: Any = connection.connection.dbapi_connection
    level = getattr(dbapi, "isolation_level", "")
    enforced = rows_of(dbapi, "PRAGMA foreign_keys") == [(1,)]
    journal = _unsafe_journal(connection) if to_write else None

    def set_pragmas(foreign_keys: str, journal_mode: str | None) -> None:
        if enforced:
            rows_of(dbapi, f"PRAGMA foreign_keys={foreign_keys}")
        if journal is not None:
            rows_of(dbapi, f"PRAGMA journal_mode={journal_mode}")

    def as_before() -> None:
        dbapi.isolation_level = level
        set_pragmas("ON", journal)

    try:
        set_pragmas("OFF", "DELETE")
        before = _violations(dbapi)
    except BaseException:
        with suppress(SQLAlchemyError, sqlite3.Error, ValueError):
            as_before()
        raise

    def begin(conn: Connection) -> None:
        if conn.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
            return
        dbapi.isolation_level = None  # an autocommit_block resets it
        # IMMEDIATE: a deferred one that has read cannot wait for another writer. But at its end it
        # waits for readers, even if it has written nothing
        rows_of(dbapi, "BEGIN IMMEDIATE" if to_write else "BEGIN")

    def check(conn: Connection) -> None:
        if before is None:
            return
        now = _violations(dbapi)
        added = sorted((now or frozenset()) - before, key=repr)
        if not added:
            return
        what = "; ".join(f"row {row[1]} of {row[0]} refers to no {row[2]}" for row in added[:5])
        if enforced:
            with suppress(sqlite3.Error, SQLAlchemyError):
                rows_of(dbapi, "ROLLBACK")
            raise ForeignKeyError(f"foreign keys would be violated: {what}")
        logger.warning("the migration leaves violated foreign keys: %s", what)

    event.listen(connection, "begin", begin)
    event.listen(connection, "commit", check)
    if connection.in_transaction():
        begin(connection)

    def undo() -> None:
        with suppress(SQLAlchemyError, sqlite3.Error):
            if not connection.closed and not connection.invalidated:
                event.remove(connection, "begin", begin)
                event.remove(connection, "commit", check)
                if connection.in_transaction():
                    connection.rollback()
                # a COMMIT that a reader blocked leaves it open: a pragma would do nothing
                dbapi.rollback()
        # even after it was given back: the application's pool hands out the same one again
        with suppress(SQLAlchemyError, sqlite3.Error, ValueError):
            as_before()

    return undo


def _violations(dbapi: Any) -> Violations | None:
    """Return the rows that refer to nothing; None when the schema itself cannot be checked."""
    try:
        return frozenset(tuple(row) for row in rows_of(dbapi, "PRAGMA foreign_key_check"))
    except (sqlite3.Error, SQLAlchemyError) as error:
        if any(map(is_busy, chain(error))):
            raise
        return None


def _unsafe_journal(connection: Connection) -> str | None:
    """Return the journal mode of a file if no transaction in it, nor a kill, could be undone."""
    ((mode,),) = rows_of(connection.connection.dbapi_connection, "PRAGMA journal_mode")
    return mode if mode in ("off", "memory") and main_file(connection) is not None else None
