"""Replays a plan on one tenant, under its lock, and checks the version row it starts from."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import groupby
from typing import NamedTuple

from sqlalchemy import ColumnClause, column, select
from sqlalchemy import table as table_of
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.access import connected
from automigrator.backends.contract.values import StatementProgress
from automigrator.errors import JudgedError
from automigrator.fleet.replay.plan import Part, Plan, Statement
from automigrator.migrations.attachment import adopt, make_interruptible
from automigrator.migrations.execution import Execution, Migration
from automigrator.migrations.watchdog import Watch
from automigrator.report import heads_text

Batch = tuple[Statement, ...]

_RUN_AGAIN = (None, "revision", "auth")
"""Kinds of an error after which it is worth asking which statement it is of."""


def _nothing(*_: object) -> None:
    pass


class Told(NamedTuple):
    """Whom a replay tells: as a `Command` does."""

    started: Callable[[str, int, int], None] = _nothing
    done: Callable[[str, float], None] = _nothing
    """The seconds are a revision's share of what was sent at once."""
    progress: Callable[[StatementProgress], None] = _nothing


NOBODY = Told()


class Player:
    """One replay; `execution` is filled in as env.py's is."""

    def __init__(
        self, migration: Migration, plan: Plan, execution: Execution, told: Told = NOBODY
    ) -> None:
        self.migration, self.plan, self.execution, self.told = migration, plan, execution, told
        target, backend, hold = migration.target, migration.backend, migration.hold
        self.sessions = backend.sessions
        self.watch = Watch(target, backend, hold, execution, progress=told.progress)
        self._left = Counter(each.revision for part in plan.parts for each in part.statements)
        """How many statements of each revision have not run yet."""
        self._seconds: dict[str, float] = {}

    async def play(self) -> None:
        """Run the plan on a connection of ours.

        Raises what a statement raises, LockLostError, and JudgedError where a limit is reached or
        the database is not at the heads that the plan starts from.
        """
        await self.watch.await_end(self._played(), cancellable=True)

    async def _played(self) -> None:
        target, place = self.migration.target, self.migration.place
        async with connected(place.engine, target.connect_timeout) as connection:
            undo = ExitStack()
            try:
                await connection.run_sync(self._attach, undo)
                await self._confirm()
                for part in self.plan.parts:
                    await self._run(connection, part)
                if self.sessions.sends_scripts:
                    await connection.close()  # its settings end with it, and cost no round trip
            finally:
                if connection.closed:
                    undo.close()
                else:
                    await connection.run_sync(lambda _: undo.close())

    def _attach(self, connection: Connection, undo: ExitStack) -> None:
        """As a migration's connection is; what is committed on it is known here without marks."""
        seconds = self.migration.target.statement_timeout
        adopt(self.migration, connection, undo, True)
        make_interruptible(self.migration.backend, self.execution, connection)
        if seconds is not None and (limit := self.sessions.limit_statements(connection, seconds)):
            undo.callback(limit)
            self.watch.limited_by_server = True

    async def _confirm(self) -> None:
        if self.migration.hold is not None:
            await self.migration.hold.confirm(self.execution.position)

    async def _committing(self) -> None:
        """Confirm the lock, and note in an open journal that something is about to commit."""
        self.watch.check()
        await self._confirm()
        if (hold := self.migration.hold) is not None and hold.untouched:
            assert hold.snapshots is not None
            await hold.snapshots.committing()

    async def _run(self, connection: AsyncConnection, part: Part) -> None:
        """Run one part; where the driver cannot tell which statement failed, run it once more."""
        if not part.transactional:
            return await self._run_alone(connection, part.statements)
        try:
            return await self._transaction(connection, part, self._batches(part.statements))
        except DBAPIError as error:
            kind = self.migration.backend.classify(error).kind
            lost = connection.invalidated or error.connection_invalidated
            if not self.sessions.sends_scripts or lost or kind not in _RUN_AGAIN:
                raise
        # nothing of the transaction is left; now each statement gets an answer of its own
        self.execution.begin_anew()
        self._left += Counter(each.revision for each in part.statements) - self._left
        await self._transaction(connection, part, [(each,) for each in part.statements])

    async def _run_alone(self, connection: AsyncConnection, batch: Batch) -> None:
        for each in batch:
            if each.revision is not None:
                self.execution.observed.torn.add(each.revision)
        await self._committing()
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        try:
            await self._sent(connection, batch)
            await connection.commit()
        finally:
            if not connection.invalidated:
                await connection.rollback()
                usual = connection.dialect.default_isolation_level
                await connection.execution_options(isolation_level=usual)

    async def _transaction(
        self, connection: AsyncConnection, part: Part, batches: Sequence[Batch]
    ) -> None:
        first = next((n for n, each in enumerate(batches) if each[0].revision), len(batches))
        transaction = await connection.begin()
        try:
            for batch in batches[:first]:  # of env.py: a search_path, say
                await self._sent(connection, batch)
            if self.plan.heads is not None or part is not self.plan.parts[0]:
                await connection.run_sync(self._ensure_at, part.heads)
            await self._begun(connection)
            for batch in batches[first:]:
                await self._sent(connection, batch)
            await self._committing()
        except BaseException:
            if not connection.invalidated:
                await transaction.rollback()
            raise
        whole = [each for each in part.revisions if each in self.execution.done]
        try:
            await transaction.commit()
        except BaseException:
            if connection.invalidated:  # its answer was lost: it counts as done
                self.execution.observed.committed += whole
            raise
        self.execution.observed.committed += whole

    async def _begun(self, connection: AsyncConnection) -> None:
        """Note in an open journal the transaction in which the revisions run."""
        if (hold := self.migration.hold) is not None and hold.untouched:
            assert hold.snapshots is not None
            if name := await connection.run_sync(self.sessions.transaction):
                await hold.snapshots.began(name)

    def _ensure_at(self, connection: Connection, heads: tuple[str, ...]) -> None:
        """Lock the version rows, and raise JudgedError where they are not `heads`."""
        version = self.plan.table
        number: ColumnClause[str] = column("version_num")
        asked = select(number).select_from(table_of(version.name, schema=version.schema))
        found = tuple(sorted(connection.execute(asked.with_for_update()).scalars()))
        if found != tuple(sorted(heads)):
            raise JudgedError(
                "lock-timeout",  # it passes: the next attempt looks anew
                f"the database is at {heads_text(found)} by now, not at {heads_text(heads)}: "
                "somebody migrates it without the migration lock; nothing of this was committed",
                "end what migrates it besides, an `alembic upgrade` say, then start again",
            )

    def _batches(self, statements: Sequence[Statement]) -> list[Batch]:
        """What is sent at once: all, or one revision where that has a limit, or one statement."""
        if not self.sessions.sends_scripts:
            return [(each,) for each in statements]
        alone = self.migration.target.revision_timeout is not None

        def together(each: Statement) -> object:
            return each.revision if alone else each.revision is None

        return [tuple(group) for _, group in groupby(statements, together)]

    async def _sent(self, connection: AsyncConnection, batch: Batch) -> None:
        execution, began = self.execution, time.monotonic()
        run = Counter(each.revision for each in batch if each.revision is not None)
        for revision in run:
            if revision not in self._seconds:
                index = self.plan.revisions.index(revision) + 1
                execution.position = f"{index}/{len(self.plan.revisions)} {revision}"
                self.told.started(revision, index, len(self.plan.revisions))
        self.watch.check()
        execution.current = next(iter(run), execution.current)
        execution.statement, execution.statement_since = batch[0].sql, began
        execution.began = execution.began or began
        try:
            await connection.run_sync(self.sessions.run_script, [each.sql for each in batch])
        except Exception as error:
            self._failed(error)
            raise
        finally:
            execution.statement_since = None
        seconds = time.monotonic() - began
        for revision, count in run.items():
            spent = self._seconds.get(revision, 0.0) + seconds * count / len(batch)
            self._seconds[revision] = spent
            self._left[revision] -= count
            if not self._left[revision]:
                execution.done[revision], execution.began = spent, None
                self.told.done(revision, spent)

    def _failed(self, error: Exception) -> None:
        observed, verdict = self.execution.observed, self.migration.backend.classify(error)
        self.execution.error = observed.first_error = error
        (observed.of_data if verdict.of_data else observed.others).append(error)
