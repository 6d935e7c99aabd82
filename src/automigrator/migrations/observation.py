"""Observes the connections of a migration: what was committed on them, and the first error."""

from __future__ import annotations

import asyncio
import sys
import weakref
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import PendingRollbackError

from automigrator.backends.contract.backend import Backend
from automigrator.backends.contract.sessions import in_autocommit
from automigrator.migrations.runs.inside import Patches, inside_env, replaced
from automigrator.support.concurrency import running_loop
from automigrator.support.error_chain import chain


@dataclass(slots=True, eq=False, repr=False)
class Observation:
    """The record of one execution of an env.py."""

    current: str | None = None
    """The revision that runs; None once its version row is written."""
    whole: list[str] = field(default_factory=list)
    """Revisions whose version row is written, and not yet committed."""
    committed: list[str] = field(default_factory=list)
    """Revisions whose version row was committed."""
    torn: set[str] = field(default_factory=set)
    """Revisions of which something was, or may have been, committed without their version row."""
    unsettled: bool = False
    """Whether a connection with something of a revision was lost before it could be asked."""
    first_error: BaseException | None = None
    """The last database error that did not merely follow from another one."""
    of_data: list[BaseException] = field(default_factory=list)
    """Database errors that are about data or schema; see `Verdict.of_data`."""
    others: list[BaseException] = field(default_factory=list)
    """Database errors that are not, in order."""
    _followed: weakref.WeakSet[Connection] = field(default_factory=weakref.WeakSet)
    _handled: list[tuple[BaseException, BaseException]] = field(default_factory=list)
    """Errors, and what was being handled when their statements were sent. The chain of an error
    that came through an event loop has lost that."""
    _followers: list[BaseException] = field(default_factory=list)

    def forget_errors(self) -> None:
        """Forget the errors of what is run anew."""
        self.first_error = None
        for errors in (self.of_data, self.others, self._followers):
            errors.clear()
        self._handled.clear()

    def begins(self, revision: str) -> None:
        """Note that a revision begins."""
        self.current = revision

    def versioned(self) -> None:
        """Note that the version row of the current revision is written."""
        if self.current is not None:
            self.whole.append(self.current)
        self.current = None

    @property
    def may_stay(self) -> bool:
        """Whether something of the revisions was, or may have been, committed."""
        return bool(self.committed or self.torn or self.unsettled)

    def committed_all(self, revisions: Collection[str]) -> bool:
        """Whether the commit of each of these was seen, or sent and its answer lost."""
        return set(revisions) <= {*self.committed}

    def told(self, error: BaseException, backend: Backend) -> BaseException:
        """Return the error that is to be told: `error`, or the one that it only follows from."""
        follows = (
            isinstance(error, PendingRollbackError)
            or any(each is error for each in self._followers)
            or backend.classify(error).follows
        )
        if follows and self.first_error is not None:
            return self.first_error
        if not self.saw(error):
            return error
        # the clean-up after an error fails with one of its own, and hides it
        handled = [each for later, each in self._handled if later is error]
        behind = {id(each) for start in (error, *handled) for each in chain(start)}
        return next((each for each in self.others if id(each) in behind), error)

    def saw(self, error: BaseException) -> bool:
        """Whether it is an error of the database, met on a connection of the migration."""
        return any(each is error for each in (*self.of_data, *self.others))

    def blames_data(self, error: BaseException) -> bool:
        """Whether `error` is the database's word on data or schema, and none before it was not."""
        return not self.others and any(each is error for each in self.of_data)

    def follow(self, backend: Backend, connection: Connection) -> Callable[[], None]:
        """Observe a connection until the returned call is made, before it is closed."""
        seen, undo = _Seen(self, backend, connection), ExitStack()
        self._followed.add(connection)
        undo.callback(seen.settle)
        listeners: list[tuple[Any, str, Callable[..., Any]]] = [
            (connection, "rollback", seen.rollback),
            (connection, "before_cursor_execute", seen.before),
            (connection, "after_cursor_execute", seen.after),
            (connection.dialect, "handle_error", seen.failed),
        ]
        for place, name, listener in listeners:
            event.listen(place, name, listener)
            undo.callback(event.remove, place, name, listener)
        begin = connection._begin_impl

        def begun(transaction: Any) -> None:
            begin(transaction)  # only in a transaction that is real a mark can be taken back
            seen.begin()

        # a transaction that is prepared takes another way to its COMMIT
        names = ("_commit_impl", "_commit_twophase_impl")
        impls = {name: partial(seen.commit, getattr(connection, name)) for name in names}
        for name, impl in {"_begin_impl": begun, **impls}.items():
            undo.enter_context(replaced(connection, name, impl))
        if connection.in_transaction():
            seen.begin()
        return undo.close

    @contextmanager
    def beside(
        self,
        loop: asyncio.AbstractEventLoop,
        leads: Callable[[Connection], bool],
        committing: Callable[[], None],
    ) -> Iterator[None]:
        """Context manager: see what a revision commits on connections of its own making.

        Nothing undoes that. `loop` is the application's; `leads` asks a connection whether it
        leads to the target's database; `committing` is called before something may be committed.
        """
        beside = _Beside(self, loop, leads, committing)
        token = _own.set(beside)
        try:
            with _patches.needed():
                yield
        finally:
            _own.reset(token)
            for connection in list(beside.unsettled):
                beside.settle(connection)  # it was never closed


class _Beside:
    """What a run commits on connections of its revisions' own making."""

    def __init__(
        self,
        record: Observation,
        loop: asyncio.AbstractEventLoop,
        leads: Callable[[Connection], bool],
        committing: Callable[[], None],
    ) -> None:
        self.record, self.committing = record, committing
        self._loop, self._leads = loop, leads
        self.unsettled: dict[Connection, str] = {}

    def apart(self, connection: Connection) -> bool:
        if self.record.current is None or running_loop() is self._loop:
            return False
        return connection not in self.record._followed

    def asked(self, connection: Connection, otherwise: bool) -> bool:
        try:
            return self._leads(connection)
        except Exception:  # noqa: BLE001 - it does not answer
            return otherwise

    def settle(self, connection: Connection) -> None:
        revision = self.unsettled.pop(connection, None)
        if revision is not None and self.asked(connection, True):
            self.record.torn.add(revision)


_own: ContextVar[_Beside | None] = ContextVar("automigrator_beside", default=None)


@contextmanager
def _every_connection() -> Iterator[None]:
    begin, commit = Connection._begin_impl, Connection._commit_impl
    rollback = Connection._rollback_impl

    def called() -> _Beside | None:
        return _own.get() if inside_env.get() else None

    def begun(connection: Connection, transaction: Any) -> None:
        begin(connection, transaction)
        beside = called()
        if beside is not None and beside.apart(connection) and in_autocommit(connection):
            beside.unsettled[connection] = beside.record.current or ""
            beside.committing()

    def committed(connection: Connection) -> None:
        if (beside := called()) is None:
            commit(connection)
            return
        beside.settle(connection)
        # a COMMIT of what has failed is a ROLLBACK
        counts = beside.apart(connection) and beside.asked(connection, False)
        if counts:
            beside.committing()
        commit(connection)
        if counts and beside.record.current is not None:
            beside.record.torn.add(beside.record.current)

    def rolled_back(connection: Connection) -> None:
        if (beside := called()) is not None:
            beside.settle(connection)
        rollback(connection)

    with (
        replaced(Connection, "_begin_impl", begun),
        replaced(Connection, "_commit_impl", committed),
        replaced(Connection, "_rollback_impl", rolled_back),
    ):
        yield


_patches = Patches(_every_connection)


class _Seen:
    """What is seen on one connection.

    Each transaction carries a mark that its rollback takes back. So a commit that SQLAlchemy does
    not know of is seen as well: the driver's own, one in a script, a driver that commits by itself.
    """

    def __init__(self, record: Observation, backend: Backend, connection: Connection) -> None:
        self.record, self.backend, self.connection = record, backend, connection
        self.dirty: str | None = None
        """The last revision of which the open transaction has something."""
        self.number = 0
        """Of the last transaction begun."""
        self.known = {0}
        """The numbers of transactions whose commit was seen."""
        self.handling: BaseException | None = None
        """The error that was being handled when the statement was sent that runs."""
        self.ended = False
        """Whether the database ended the transaction before the statement that runs."""
        self.untouched: tuple[str, Hashable] | None = None
        """The revision of which nothing stays unless the statement writes; and what was written."""

    def begin(self) -> None:
        self.dirty = None
        if not in_autocommit(self.connection):
            self.number += 1
            with suppress(Exception):  # the next statement fails as well, and is told
                self.backend.sessions.mark(self.connection, self.number)

    def before(self, *_: Any) -> None:
        record, sessions = self.record, self.backend.sessions
        self.handling = sys.exc_info()[1]
        begun = not in_autocommit(self.connection)
        self.ended = begun and sessions.ended(self.connection)
        if record.current is None:
            return
        if begun and not self.ended:
            self.dirty = record.current
        elif record.current not in record.torn:
            self.untouched = None
            with suppress(Exception):
                if (written := sessions.written(self.connection)) is not None:
                    self.untouched = record.current, written
            record.torn.add(record.current)

    def after(self, _: Any, cursor: Any, *__: Any) -> None:
        if cursor.description is None:
            self.untouched = None  # it may have changed what is not asked about
        self._ask()

    def _ask(self) -> None:
        """Ask whether the statement has written, where it would be the first of its revision."""
        if self.untouched is None:
            return
        (revision, before), self.untouched = self.untouched, None
        with suppress(Exception):  # then it counts as written
            if self.backend.sessions.written(self.connection) == before:
                self.record.torn.discard(revision)

    def commit(self, send: Callable[..., None], *arguments: Any) -> None:
        """Commit, and note what that makes whole, and what it tears."""
        try:
            send(*arguments)
        except BaseException:
            if self.connection.invalidated:
                self._committed()  # its answer was lost: it counts as done
            else:
                # SQLAlchemy takes the transaction for ended where a listener refuses its COMMIT
                with suppress(Exception):
                    self.connection.connection.rollback()
                self.dirty = None
            raise
        self._committed()

    def _committed(self) -> None:
        record = self.record
        self.known.add(self.number)
        if record.current is not None and self.dirty == record.current:
            record.torn.add(record.current)
        record.committed += [each for each in record.whole if each not in record.committed]
        record.whole.clear()
        self.dirty = None

    def rollback(self, _: Connection) -> None:
        self.dirty = None

    def failed(self, context: Any) -> None:
        if context.connection is not self.connection:
            return
        self._ask()
        record, original = self.record, context.original_exception
        error = context.sqlalchemy_exception or original
        verdict = self.backend.classify(original)
        if record.first_error is not None and (self.ended or verdict.follows):
            record._followers.append(error)
        else:
            record.first_error = error
            (record.of_data if verdict.of_data else record.others).append(error)
            if self.handling is not None:
                record._handled.append((error, self.handling))

    def settle(self) -> None:
        """Ask the connection, where something is not known to be committed."""
        record, connection = self.record, self.connection
        unsure = [*record.whole, *([record.current] if record.current is not None else [])]
        if not unsure:
            return
        if connection.closed or connection.invalidated:
            record.unsettled = True
            return
        mark: int | None = None
        with suppress(Exception):  # it may be lost; its server rolls back
            if connection.in_transaction():
                connection.rollback()
            connection.connection.rollback()  # one that the driver was told to begin
            mark = self.backend.sessions.marked(connection)
            if mark is not None and mark not in self.known:
                record.torn.update(unsure)
        record.unsettled = record.unsettled or mark is None
