"""Foreign keys as env.py set them, but for tables that Alembic makes anew in batch mode.

DROP TABLE deletes the table's rows first where foreign keys are on, and so fires ON DELETE for
every row that refers to them, although a copy with the same rows is about to take its place.
Inside a transaction PRAGMA foreign_keys does nothing. From Python 3.12 on the driver can switch
keys off around that one statement; before, they are off for whole transactions of a second try.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateTable, DropTable

from automigrator.backends.sqlite.codes import is_busy
from automigrator.backends.sqlite.connections import in_driver, roll_back, rows_of
from automigrator.backends.sqlite.reader import quoted
from automigrator.backends.sqlite.statements import Statements
from automigrator.errors import AutomigratorError
from automigrator.support.error_chain import chain
from automigrator.support.loggers import logger_of

logger = logger_of(__name__)

_ENABLE_FKEY: int | None = getattr(sqlite3, "SQLITE_DBCONFIG_ENABLE_FKEY", None)

Violations = dict[str, frozenset[tuple[Any, ...]]]
"""By table, the rows that refer to nothing; without tables that cannot be checked."""


class ForeignKeyError(AutomigratorError):
    """Raised when a commit would leave rows that refer to nothing; it was rolled back."""


class KeysInTheWayError(AutomigratorError):
    """Raised when foreign keys would have to be off inside a transaction, and cannot be."""

    advice = (
        "use Python 3.12 or later, whose driver can switch foreign keys off inside a transaction; "
        "or switch them off in env.py, before context.configure, as Alembic advises"
    )


class ForeignKeys:
    """The foreign keys of one connection, which revisions write on.

    With `off`, they are off in its transactions, and each commit is refused that plain keys might
    have made another one.
    """

    def __init__(self, connection: Connection, statements: Statements, *, off: bool) -> None:
        self._dbapi: Any = connection.connection.dbapi_connection
        self._driver: Any = connection.connection.driver_connection
        self._statements = statements
        self._original = self._on()
        self._off = off and self._original
        self._copies: set[tuple[str | None, str]] = set()
        self._suspended = False
        self._before: dict[str | None, Violations] = {}
        if self._off:
            self._parents = self._parents_now()
            statements.in_force["foreign_keys"] = "1"

    def begin(self, *, autocommit: bool) -> None:
        """Before a transaction; or in its place, in `autocommit`."""
        if self._off and not self._driver.in_transaction:
            self._set(autocommit)

    def began(self) -> None:
        """Inside a transaction: see what is violated already."""
        if not self._on():
            self._remember(None)

    def before_execute(self, clause: Any) -> None:
        """See a table copied, and keep its DROP from firing ON DELETE.

        Raises KeysInTheWayError where that is not possible; nothing was dropped then.
        """
        self.resume()
        if isinstance(clause, CreateTable):
            self._copies.add((clause.element.schema, clause.element.name))
        elif isinstance(clause, DropTable):
            schema, name = clause.element.schema, str(clause.element.name)
            copy = (schema, f"_alembic_tmp_{name}"[:50])  # Alembic's own name for it
            if copy in self._copies:
                self._copies.discard(copy)
                self._statements.recreating = True
                if self._on() and (child := self._referring(schema or "main", name)) is not None:
                    self._suspend(schema, name, child)

    def resume(self) -> None:
        """Switch on again what was off for one statement."""
        self._statements.recreating = False
        if self._suspended:
            self._suspended = False
            self._switch(True)

    def check(self) -> None:
        """Before a commit. Raises ForeignKeyError or KeysInTheWayError, rolled back."""
        self.resume()
        for schema, before in self._before.items():
            now = _violations(self._dbapi, schema)
            rows = (row for table in before.keys() & now for row in now[table] - before[table])
            added = sorted(rows, key=repr)
            if not added:
                continue
            what = "; ".join(f"row {row[1]} of {row[0]} refers to no {row[2]}" for row in added[:5])
            if not self._off and not self._on():
                logger.warning("the migration leaves violated foreign keys: %s", what)
                continue
            roll_back(self._dbapi)
            raise ForeignKeyError(f"foreign keys would be violated: {what}")
        if not self._off:
            return
        parents = self._parents | self._parents_now()
        if (table := self._statements.changed(parents)) is not None:
            roll_back(self._dbapi)
            raise KeysInTheWayError(
                f"rows of {table} change, to which others refer, in a transaction in which another "
                "table is made anew in batch mode: foreign keys have to be on for the one and off "
                "for the other, which this Python cannot do; the transaction was rolled back"
            )

    def as_before(self) -> None:
        """Give the connection back; no transaction may be open."""
        if self._on() != self._original:
            self._set(self._original)

    def _suspend(self, schema: str | None, name: str, child: str) -> None:
        self._remember(schema)
        if _ENABLE_FKEY is None and self._driver.in_transaction:
            raise KeysInTheWayError(
                f"{name} is to be made anew in batch mode, and rows of {child} refer to it: to "
                "drop the old table would fire ON DELETE for them, and this Python cannot switch "
                "foreign keys off inside a transaction; nothing was dropped"
            )
        self._suspended = True
        self._switch(False)

    def _switch(self, on: bool) -> None:
        if _ENABLE_FKEY is None:
            self._set(on)
        else:
            in_driver(self._dbapi, lambda raw: raw.setconfig(_ENABLE_FKEY, on))
        if self._on() != on:
            word = "on" if on else "off"
            raise KeysInTheWayError(f"foreign keys could not be switched {word} for a statement")

    def _set(self, on: bool) -> None:
        rows_of(self._dbapi, f"PRAGMA foreign_keys={'ON' if on else 'OFF'}")

    def _on(self) -> bool:
        return rows_of(self._dbapi, "PRAGMA foreign_keys") == [(1,)]

    def _remember(self, schema: str | None) -> None:
        if schema not in self._before:
            self._before[schema] = _violations(self._dbapi, schema)

    def _referring(self, schema: str, parent: str) -> str | None:
        """Name a table with rows that refer to `parent`; None where a DROP fires nothing."""
        keys = rows_of(
            self._dbapi,
            f"""
            SELECT m.name, group_concat(printf('"%w" IS NOT NULL', k."from"), ' AND ')
            FROM {quoted(schema)}.sqlite_master m
            JOIN pragma_foreign_key_list(m.name, {_literal(schema)}) k
            WHERE m.type = 'table' AND lower(k."table") = lower({_literal(parent)})
            GROUP BY m.name, k.id
            """,
        )
        for table, filled in keys:
            place = f"{quoted(schema)}.{quoted(table)}"
            if rows_of(self._dbapi, f"SELECT 1 FROM {place} WHERE {filled} LIMIT 1"):
                return str(table)
        return None

    def _parents_now(self) -> dict[str, set[str]]:
        """The tables that others refer to, with the columns that make up the key; lower case."""
        rows = rows_of(
            self._dbapi,
            """
            SELECT k."table", k."to", c.name
            FROM main.sqlite_master m JOIN pragma_foreign_key_list(m.name, 'main') k
            LEFT JOIN pragma_table_info(k."table", 'main') c ON c.pk > 0
            WHERE m.type = 'table'
            """,
        )
        found: dict[str, set[str]] = {}
        for parent, *columns in rows:
            # Python's lower case, as what is compared with it has
            found.setdefault(parent.lower(), {"rowid"}).update(
                each.lower() for each in columns if each
            )
        return found


def _violations(dbapi: Any, schema: str | None) -> Violations:
    place = quoted(schema or "main")
    names = f"SELECT name FROM {place}.sqlite_master WHERE type = 'table'"
    found = {}
    for (table,) in rows_of(dbapi, f"{names} AND name NOT GLOB 'sqlite_*'"):
        try:
            rows = rows_of(dbapi, f"PRAGMA {place}.foreign_key_check({quoted(table)})")
        except (sqlite3.Error, SQLAlchemyError) as error:
            if any(map(is_busy, chain(error))):
                raise
            continue  # its parent has no such key, say
        found[table] = frozenset(tuple(row[:3]) for row in rows)
    return found


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
