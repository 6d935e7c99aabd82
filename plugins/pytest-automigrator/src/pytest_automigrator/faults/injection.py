"""Makes a migration fail at its n-th step; used in a process made for that alone.

A step is a statement of a revision that changes something, or the commit after it.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Any, Literal

from sqlalchemy import Engine, event

Kind = Literal["fail", "kill", "disconnect", "full", "lock"]

_READS = re.compile(r"\s*(?:select|with|show|pragma\s+[^=]*$)", re.IGNORECASE)
_ABSENT = "DELETE FROM automigrator_injected_fault"
_GONE = "SELECT pg_terminate_backend(pg_backend_pid())"
_LENGTH = 100


class Injection:
    """Counts steps from 1 and keeps their texts; the fault is made once, at step `at`."""

    def __init__(self, kind: Kind | None, at: int) -> None:
        self._kind, self._at = kind, at
        self.steps: list[str] = []
        self._connections: list[Any] = []

    def watch(self) -> None:
        """From now on; there is no way back."""
        event.listen(Engine, "before_cursor_execute", self._executed, retval=True)
        event.listen(Engine, "commit", self._committed)

    def _executed(
        self,
        connection: Any,
        cursor: Any,
        statement: str,
        parameters: Any,
        context: Any,
        executemany: bool,
    ) -> tuple[str, Any]:
        if _READS.match(statement) or not _in_a_revision():
            return statement, parameters
        if connection not in self._connections:
            self._connections.append(connection)
        if not self._reached(statement):
            return statement, parameters
        if self._kind == "full":
            cursor.execute("PRAGMA page_count")
            (pages,) = cursor.fetchone()
            cursor.execute(f"PRAGMA max_page_count = {pages}")
            return statement, parameters
        nothing: Any = {} if connection.dialect.positional is False else ()
        wrong = _GONE if self._kind == "disconnect" else _ABSENT
        return wrong, [nothing] if executemany else nothing

    def _committed(self, connection: Any) -> None:
        if connection in self._connections:
            self._connections.clear()
            self._reached("COMMIT")

    def _reached(self, statement: str) -> bool:
        """Whether the fault is made here; a kill is made at once."""
        self.steps.append(" ".join(statement.split())[:_LENGTH])
        if self._kind in (None, "lock") or len(self.steps) != self._at:
            return False
        if self._kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return True


def _in_a_revision() -> bool:
    """Whether Alembic runs a revision, or notes that it has, in the calls that led here."""
    frame = sys._getframe(2)
    while frame is not None:
        name, code = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        if name == "alembic.runtime.migration" and code == "run_migrations":
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def migrate(
    tell: Callable[[Any], None],
    application: Any,
    url: str,
    revision: str,
    kind: Kind | None,
    at: int,
    environment: dict[str, str],
) -> None:
    """In a process of its own: migrate, and tell the steps, the outcome and the failure."""
    from sqlalchemy import make_url

    from automigrator import AutomigratorError, MigrationError

    os.environ.update(environment)
    logging.disable()  # the report says what happened
    injection = Injection(kind, at)
    injection.watch()
    outcome, failure = "failed", ""
    try:
        outcome = application.migrate(make_url(url), revision, recovery=True).outcome
    except MigrationError as error:
        last = error.report.targets[0].failures[-1:]
        failure = "".join(f"{each.kind}, {each.state}" for each in last) or str(error)
    except AutomigratorError as error:
        failure = str(error)
    tell((injection.steps, outcome, failure))
