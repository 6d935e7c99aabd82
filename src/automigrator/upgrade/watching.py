"""The statements of a revision, watched: which one runs for how long, and when none may begin."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection

from automigrator.diagnosis import JudgedError
from automigrator.upgrade.environment import Execution, Stopped

TICK_S = 0.05
_ADVICE = "raise the limit that the message names, or split the revision"


@dataclass(slots=True)
class Watch:
    """One drive of an env.py: whether it is to stop, and its limits in seconds."""

    execution: Execution
    statement_s: float | None = None
    """None where there is no limit, or the server itself keeps it."""
    revision_s: float | None = None
    what: str = "revision"
    """What is watched, before its name; bootstrap has none besides."""
    stopping: threading.Event = field(default_factory=threading.Event)
    reached: BaseException | None = None
    """The limit that was reached, or the cancellation: why it was told to stop."""

    def check(self) -> None:
        """Raise Stopped when nothing more may run; what cleans up after that is let through."""
        execution = self.execution
        if execution.current is None or execution.stopped:
            return
        if self.stopping.is_set() or self._revision_overdue():
            execution.stopped = True
            self.reached = self.reached or self.overdue()
            raise Stopped

    def overdue(self) -> JudgedError | None:
        """The limit that has been reached, and in which statement of which revision."""
        execution = self.execution
        if self._revision_overdue():
            name, limit, what = "revision_timeout", self.revision_s, f"{self._named} ran"
        elif (
            self.statement_s is not None
            and execution.statement_since is not None
            and time.monotonic() - execution.statement_since > self.statement_s
        ):
            name, limit = "statement_timeout", self.statement_s
            what = f"{self._named}: a statement ran"
        else:
            return None
        where = "in a statement" if execution.statement_since is not None else "between statements"
        return JudgedError(
            "timeout",
            f"{what} for longer than {name}={limit:g} s, and was stopped {where}",
            _ADVICE,
            execution.statement,
        )

    async def until_overdue(self) -> None:
        """Wait until a limit is reached. Raises what `overdue` returns then."""
        while True:
            await asyncio.sleep(TICK_S)
            if (error := self.overdue()) is not None:
                self.reached = error
                raise error

    def follow(self, connection: Connection) -> Callable[[], None]:
        """Watch the statements of a connection; returns the undoing."""
        execution = self.execution

        def before(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
            self.check()
            execution.statement, execution.statement_since = statement, time.monotonic()

        def after(*_: Any) -> None:
            execution.statement_since = None

        # one that failed is followed by neither, but a rollback
        endings = ("after_cursor_execute", "rollback", "rollback_savepoint")
        listeners = [("before_cursor_execute", before), *((name, after) for name in endings)]
        for name, listener in listeners:
            event.listen(connection, name, listener)

        def undo() -> None:
            for name, listener in listeners:
                event.remove(connection, name, listener)

        return undo

    @property
    def _named(self) -> str:
        current = self.execution.current
        return self.what if current == self.what else f"{self.what} {current}"

    def _revision_overdue(self) -> bool:
        began = self.execution.began
        return (
            self.revision_s is not None
            and self.execution.current is not None
            and began is not None
            and time.monotonic() - began > self.revision_s
        )
