"""What SQLite itself says about each statement of a connection, when it compiles it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from automigrator.backends import advice
from automigrator.backends.sqlite.connections import BEFORE_COMMIT, in_driver, rows_of
from automigrator.errors import AutomigratorError

# the only ones that SQLite passes over in silence inside a transaction; others fail by themselves
_PASSED_OVER = ("foreign_keys", "journal_mode")

_SWITCH = {"on": "1", "yes": "1", "true": "1", "off": "0", "no": "0", "false": "0"}

_CHANGES = frozenset({sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE})


class IgnoredPragmaError(AutomigratorError):
    """Raised for a pragma that does nothing inside a transaction, which is rolled back."""

    advice = advice.OUTSIDE


@dataclass(slots=True)
class Statements:
    """Observes the statements of one connection, from whichever cursor they come.

    An authorizer is asked by SQLite itself, which has parsed the statement; nothing is guessed.
    `info` is the connection's. `in_force`: what counts as a pragma's value instead of what SQLite
    says.
    """

    dbapi: Any
    info: Mapping[Any, Any] = field(default_factory=dict)
    in_force: dict[str, str] = field(default_factory=dict)
    changes: set[tuple[str, str | None]] = field(default_factory=set)
    """Tables of which transactions changed a column, or with None took rows; in lower case."""
    statement: str | None = None
    """The one that SQLAlchemy is executing; None for what reaches the driver directly."""
    recreating: bool = False
    """Whether it drops a table whose copy is there already."""
    _asked: list[tuple[str, str]] = field(default_factory=list)
    _ignored: str | None = None

    def observe(self) -> Callable[[], None]:
        """Begin to observe; returns the call that ends it."""

        def begin(raw: Any) -> None:
            raw.set_authorizer(lambda *what: self._compiled(raw, *what))

        in_driver(self.dbapi, begin)
        return lambda: in_driver(self.dbapi, lambda raw: raw.set_authorizer(None))

    def _compiled(
        self, raw: Any, action: int, name: Any, value: Any, schema: Any, inner: Any
    ) -> int:
        if action == sqlite3.SQLITE_PRAGMA:
            if value is not None and str(name).lower() in _PASSED_OVER and raw.in_transaction:
                self._asked.append((str(name).lower(), str(value).lower()))
        elif action == sqlite3.SQLITE_TRANSACTION:
            if name == "COMMIT" and (call := self.info.get(BEFORE_COMMIT)) is not None:
                call()
        elif action in _CHANGES and raw.in_transaction and not self.recreating:
            text = self.statement
            # an INSERT or UPDATE may delete rows that are in its way
            replacing = text is None or inner is not None or "replace" in text.lower()
            if action == sqlite3.SQLITE_DELETE or replacing:
                self.changes.add((str(name).lower(), None))
            if action == sqlite3.SQLITE_UPDATE:
                self.changes.add((str(name).lower(), str(value or "").lower()))
        return sqlite3.SQLITE_OK

    def ensure_none_ignored(self) -> None:
        """Raise IgnoredPragmaError where SQLite passed over a pragma; again until the rollback."""
        asked, self._asked = self._asked, []
        for name, value in asked:
            found = self.in_force.get(name) or rows_of(self.dbapi, f"PRAGMA {name}")[0][0]
            if _SWITCH.get(value, value) != str(found).lower():
                self._ignored = f"PRAGMA {name}={value}"
        if self._ignored is not None:
            raise IgnoredPragmaError(
                f"{self._ignored} does nothing inside a transaction, and the revision runs in one; "
                "the transaction is rolled back. Put it into op.get_context().autocommit_block()"
            )

    def rolled_back(self) -> None:
        self._asked.clear()
        self._ignored = self.statement = None

    def changed(self, parents: Mapping[str, set[str]]) -> str | None:
        """Name a parent table whose rows may have gone, or have got another key.

        `parents`: tables and the columns that others refer to.
        """
        for table, key in parents.items():
            if not self.changes.isdisjoint((table, column) for column in (None, *key)):
                return table
        return None
