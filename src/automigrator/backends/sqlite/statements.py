"""What SQLite itself says about each statement of a connection, when it compiles it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from automigrator.backends import advice
from automigrator.backends.sqlite.connections import in_driver, rows_of
from automigrator.errors import AutomigratorError

# the only ones that SQLite passes over in silence inside a transaction; others fail by themselves
_PASSED_OVER = ("foreign_keys", "journal_mode")

_SWITCH = {"on": "1", "yes": "1", "true": "1", "off": "0", "no": "0", "false": "0"}

_CHANGES = frozenset({sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE})


class IgnoredPragmaError(AutomigratorError):
    """Raised for a pragma that does nothing inside a transaction, which is rolled back."""

    advice = advice.OUTSIDE


class Change(NamedTuple):
    """A kind of change to a table; names are in lower case."""

    action: int
    table: str
    column: str = ""
    replacing: bool = False
    """Whether an INSERT may delete rows that are in its way."""


@dataclass(slots=True)
class Statements:
    """Observes the statements of one connection, from whichever cursor they come.

    An authorizer is asked by SQLite itself, which has parsed the statement; nothing is guessed.
    """

    changes: set[Change] = field(default_factory=set)
    """What transactions changed."""
    statement: str | None = None
    """The one that SQLAlchemy is executing; None for what reaches the driver directly."""
    recreating: bool = False
    """Whether it drops a table whose copy is there already."""
    _asked: list[tuple[str, str]] = field(default_factory=list)
    _ignored: str | None = None

    def observe(self, dbapi: Any) -> Callable[[], None]:
        """Begin to observe; returns the call that ends it."""

        def begin(raw: Any) -> None:
            raw.set_authorizer(lambda *what: self._compiled(raw, *what))

        in_driver(dbapi, begin)
        return lambda: in_driver(dbapi, lambda raw: raw.set_authorizer(None))

    def _compiled(
        self, raw: Any, action: int, name: Any, value: Any, schema: Any, inner: Any
    ) -> int:
        if action == sqlite3.SQLITE_PRAGMA:
            if value is not None and str(name).lower() in _PASSED_OVER and raw.in_transaction:
                self._asked.append((str(name).lower(), str(value).lower()))
        elif action in _CHANGES and raw.in_transaction and not self.recreating:
            text = self.statement
            replacing = text is None or inner is not None or "replace" in text.lower()
            self.changes.add(Change(action, str(name).lower(), str(value or "").lower(), replacing))
        return sqlite3.SQLITE_OK

    def ensure_none_ignored(self, dbapi: Any, in_force: dict[str, str]) -> None:
        """Raise IgnoredPragmaError where SQLite passed over a pragma; again until the rollback.

        `in_force`: what counts as a pragma's value instead of what SQLite says.
        """
        asked, self._asked = self._asked, []
        for name, value in asked:
            now = in_force.get(name) or str(rows_of(dbapi, f"PRAGMA {name}")[0][0]).lower()
            if _SWITCH.get(value, value) != now:
                self._ignored = f"PRAGMA {name}={value}"
        if self._ignored is not None:
            raise IgnoredPragmaError(
                f"{self._ignored} does nothing inside a transaction, and the revision runs in one; "
                "the transaction is rolled back. Put it into op.get_context().autocommit_block()"
            )

    def rolled_back(self) -> None:
        self._asked.clear()
        self._ignored = None

    def changed(self, parents: Iterable[tuple[str, frozenset[str]]]) -> str | None:
        """Name a parent table whose rows may have gone, or have got another key.

        `parents`: tables and the columns that others refer to.
        """
        for table, key in parents:
            for change in self.changes:
                if change.table != table:
                    continue
                moved = change.action == sqlite3.SQLITE_UPDATE and change.column in key
                gone = change.action == sqlite3.SQLITE_DELETE
                replaced = change.action != sqlite3.SQLITE_DELETE and change.replacing
                if moved or gone or replaced:
                    return table
        return None
