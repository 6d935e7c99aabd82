"""Measures each statement of a rehearsed revision: its time, its locks, what it wrote and read."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection

from automigrator.backends.contract.meter import Look, Meter, Watched
from automigrator.backends.contract.sessions import OURS, in_autocommit
from automigrator.measurement import LockHeld, RevisionMeasured, StatementMeasured, Waits
from automigrator.migrations.runs.inside import replaced
from automigrator.support.redaction import STATEMENT_LIMIT
from automigrator.support.secrets import scrubbed

WATCHED = 3
"""How often the same statement outside a transaction is watched, of all its repetitions."""


@dataclass(slots=True, eq=False)
class _Taken:
    """A lock, from the beginning of the statement that took it to the end of its transaction."""

    relation: str
    mode: str
    blocks: tuple[Waits, ...]
    since: float
    until: float = math.inf

    def held_s(self, end: float) -> float:
        return max(min(self.until, end) - self.since, 0.0)


@dataclass(slots=True, eq=False)
class _Statement:
    sql: str
    began: float
    line: int | None
    autocommit: bool = False
    seconds: float = 0.0
    times: int = 0
    rows: int = 0
    log_bytes: int = 0
    rewritten: set[str] = field(default_factory=set)
    scanned: set[str] = field(default_factory=set)
    taken: list[_Taken] = field(default_factory=list)
    observed: bool = True
    lock_timeout_s: float = 0.0


@dataclass(slots=True, eq=False)
class _Revision:
    id: str
    file: str | None
    began: float
    ended: float = math.inf
    size: int = 0
    statements: list[_Statement] = field(default_factory=list)


class StatementMeter:
    """The measurements of one execution of an env.py; times are without those of the looks."""

    def __init__(self, meter: Meter, secrets: Sequence[str] = ()) -> None:
        self.meter, self._secrets = meter, secrets
        self.spent_s = 0.0
        """Seconds that the looks took."""
        self.log_bytes = meter.log_bytes
        self.final_size = 0
        """Bytes of the database once all has run, where the looks did not tell."""
        self.revisions: list[_Revision] = []
        self.current: _Revision | None = None
        """The revision whose own code runs."""
        self.version_tables: set[str] = set()
        """Their names; what locks them and writes to them is no revision's."""
        self._sessions: list[_Session] = []

    def begin_anew(self) -> None:
        """Forget what was rolled back."""
        self.revisions.clear()
        self._sessions.clear()
        self.current = None

    def now(self) -> float:
        """Seconds on a clock that stands still while it is looked."""
        return time.perf_counter() - self.spent_s

    def is_version_table(self, relation: str) -> bool:
        """Whether a relation is one that Alembic keeps the heads in."""
        return relation.rpartition(".")[2] in self.version_tables

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Context manager: stop the clock."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.spent_s += time.perf_counter() - began

    @contextmanager
    def measured(self, revision: str, file: str | None) -> Iterator[None]:
        """Context manager: the revision's own code runs; its version row is written after it."""
        self.current = current = _Revision(revision, file, self.now())
        self.revisions.append(current)
        try:
            yield
            current.size = max((s.look(whole=True) for s in self._sessions), default=0)
            current.ended = self.now()
        finally:
            self.current = None

    def follow(self, connection: Connection) -> Callable[[], None]:
        """Measure what runs on a connection, until the returned call is made."""
        session, undo = _Session(self, connection), ExitStack()
        self._sessions.append(session)
        undo.callback(session.left)
        listeners = {"before_cursor_execute": session.before, "after_cursor_execute": session.after}
        for name, listener in listeners.items():
            event.listen(connection, name, listener)
            undo.callback(event.remove, connection, name, listener)
        for name in ("_commit_impl", "_commit_twophase_impl", "_rollback_impl"):
            impl = partial(session.end, getattr(connection, name), name == "_rollback_impl")
            undo.enter_context(replaced(connection, name, impl))
        return undo.close

    def result(self) -> tuple[RevisionMeasured, ...]:
        """What was measured, once env.py has returned."""
        end = self.now()
        taken = [t for r in self.revisions for s in r.statements for t in s.taken]
        for lock in taken:
            lock.until = min(lock.until, end)
        found, size = [], self.meter.size
        ends = [later.began for _, later in pairwise(self.revisions)]
        for each, ended in zip(self.revisions, [*ends, end], strict=True):
            last = each is self.revisions[-1]
            size = max(size, each.size, self.final_size if last else 0)
            found.append(
                RevisionMeasured(
                    each.id,
                    min(each.ended, ended) - self.revisions[0].began,
                    max((t.held_s(ended) for t in taken if t.blocks), default=0.0),
                    size - self.meter.size,
                    tuple(self._told(each, s) for s in each.statements),
                )
            )
        return tuple(found)

    def _told(self, revision: _Revision, statement: _Statement) -> StatementMeasured:
        return StatementMeasured(
            revision.id,
            scrubbed(statement.sql.strip()[:STATEMENT_LIMIT], *self._secrets),
            statement.seconds,
            times=statement.times,
            rows=statement.rows,
            log_bytes=statement.log_bytes,
            rewritten=tuple(sorted(statement.rewritten)),
            scanned=tuple(sorted(statement.scanned)),
            locks=tuple(
                LockHeld(each.relation, each.mode, each.blocks, each.held_s(math.inf))
                for each in statement.taken
            ),
            file=revision.file,
            line=statement.line,
            autocommit=statement.autocommit,
            observed=statement.observed,
            lock_timeout_s=statement.lock_timeout_s,
        )


class _Session:
    """What is measured on one connection.

    It is looked once after a statement, before another one: the locks of a transaction stay. The
    same statement again and again, as of a step row by row, is looked at once.
    """

    def __init__(self, measuring: StatementMeter, connection: Connection) -> None:
        self.measuring, self.connection = measuring, connection
        self.statement: _Statement | None = None
        """The last one of the current revision; None where all is looked at."""
        self.seen = Look()
        self.taken: list[_Taken] = []
        """What the open transaction holds."""
        self.watched: Callable[[int], Watched] | None = None
        self.runs = False
        """Whether a statement was sent and has not returned: it runs, or has failed."""

    def before(
        self, conn: Connection, cursor: Any, sql: str, parameters: Any, context: Any, *_: Any
    ) -> None:
        measuring, revision = self.measuring, self.measuring.current
        if revision is None or _is_ours(context):
            return
        self._unwatched()
        if self.runs:
            self.statement = None  # it failed: a server may answer nothing before a rollback
        autocommit = in_autocommit(conn)
        last = revision.statements[-1] if revision.statements else None
        again = last is not None and (last.sql, last.autocommit) == (sql, autocommit)
        if not again:
            self.look()
        if again and (autocommit or self.statement is last):
            self.statement = last
        else:
            line = _line(revision.file)
            self.statement = _Statement(sql, measuring.now(), line, autocommit)
            revision.statements.append(self.statement)
        if autocommit and self.statement is not None and self.statement.times < WATCHED:
            with measuring.looking():
                self.watched = measuring.meter.watch(conn)
        self.runs = True
        self._began = measuring.now()

    def after(
        self, conn: Connection, cursor: Any, sql: str, parameters: Any, context: Any, *_: Any
    ) -> None:
        statement = self.statement
        if statement is None or self.measuring.current is None or _is_ours(context):
            return
        end, self.runs = self.measuring.now(), False
        statement.seconds += end - self._began
        statement.times += 1
        statement.rows += max(cursor.rowcount or 0, 0)  # unless the look knows better
        if not statement.autocommit:
            return
        if self.watched is not None:
            with self.measuring.looking():
                watched, self.watched = self.watched(max(cursor.rowcount or 0, 0)), None
            statement.observed &= watched.looks > 0
            statement.rewritten |= watched.rewritten
            statement.lock_timeout_s = watched.lock_timeout_s
            known = {each.relation for each in statement.taken}
            statement.taken += [
                _Taken(relation, mode, blocks, end, end)
                for relation, (mode, blocks) in watched.locks.items()
                if relation not in known
            ]
        for each in statement.taken:  # the longest counts
            if end - self._began > each.until - each.since:
                each.since, each.until = self._began, end
        self.statement = None

    def look(self, *, whole: bool = False) -> int:
        """Look into the open transaction, for what the last statement did; return the size."""
        statement, self.statement = self.statement, None
        connection, measuring = self.connection, self.measuring
        if connection.closed or connection.invalidated or self.runs:
            return 0
        autocommit = in_autocommit(connection)
        if not (connection.in_transaction() or autocommit) or not (statement or whole):
            return 0
        with measuring.looking():
            look = measuring.meter.look(connection, whole=whole)
        before = self.seen if look.transaction == self.seen.transaction else Look()
        grown = look.log_bytes - measuring.log_bytes
        self.seen, measuring.log_bytes = look, look.log_bytes
        if statement is not None and not autocommit:
            if before.transaction is None:
                self._released(statement.began)  # by a COMMIT that nobody saw
            self._note(statement, before, look)
            statement.log_bytes = grown
        return look.size or 0

    def _note(self, statement: _Statement, before: Look, look: Look) -> None:
        statement.lock_timeout_s = look.lock_timeout_s
        statement.rewritten |= look.rewritten
        apart = self.measuring.is_version_table
        if look.rows is not None:
            earlier = before.rows or {}
            rows = ((name, n - earlier.get(name, 0)) for name, n in look.rows.items())
            statement.rows = sum(n for name, n in rows if not apart(name))
        scans = ((name, n - before.scans.get(name, 0)) for name, n in look.scans.items())
        statement.scanned |= {name for name, n in scans if n > 0 and not apart(name)}
        for relation, (mode, blocks) in look.locks.items():
            if apart(relation):
                continue
            if before.locks.get(relation) != (mode, blocks):
                taken = _Taken(relation, mode, blocks, statement.began)
                statement.taken.append(taken)
                self.taken.append(taken)

    def end(self, send: Callable[..., None], undone: bool, *arguments: Any) -> None:
        """Commit or roll back, and note when the locks were released."""
        if self.statement is not None and not undone:
            self.look()
        self.statement, self.runs = None, False
        try:
            send(*arguments)
        finally:
            self.left()

    def _unwatched(self) -> None:
        """End the watching of a statement that failed."""
        watched, self.watched = self.watched, None
        if watched is not None:
            with self.measuring.looking():
                watched(0)

    def left(self) -> None:
        """Note that the transaction has ended."""
        self._unwatched()
        self._released(self.measuring.now())
        self.seen = Look()

    def _released(self, at: float) -> None:
        for each in self.taken:
            each.until = at
        self.taken.clear()


def _is_ours(context: Any) -> bool:
    """Whether a statement is no revision's."""
    return OURS in getattr(context, "execution_options", ())


def _line(file: str | None) -> int | None:
    """The line of a file that is being run, in the innermost call of it."""
    frame = sys._getframe(1)
    while frame is not None and file is not None:
        if frame.f_code.co_filename == file:
            return frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]  # None at the end
    return None
