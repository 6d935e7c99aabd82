"""The session that holds a PostgreSQL lock: its lease, its predecessors, and its last record."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.access import Access
from automigrator.backends.contract.declarations import Declaration, dumped
from automigrator.backends.contract.record import Record, loaded
from automigrator.backends.postgresql import server_notes, session
from automigrator.backends.postgresql.errors import FAILED_TRANSACTION
from automigrator.backends.postgresql.sql import rows_of, sqlstate
from automigrator.backends.postgresql.watchdog import CUT_S, answered, silent
from automigrator.errors import LockLostError, LockTimeoutError, NoAnswerError
from automigrator.support.backoff import Deadline
from automigrator.support.concurrency import beside, shielded

T = TypeVar("T")

PREDECESSOR_LIMIT_S = 30.0

HURRY_S = 2.0

"""Seconds to wait for a silent server once the end of the run has been asked for."""

_POLL_S = 0.05

_NAME_LIMIT = 63  # bytes: NAMEDATALEN - 1


@dataclass(slots=True, eq=False)
class SessionHold:
    """See `Hold`. `apart` says whether the session is connected to a database beside the target.

    Only this session runs statements that change whole databases: a killed client does not stop
    its statement, and the lock is held until the statement has ended. No statement of it is
    cancelled, except where the lock is given up.
    """

    leader: str
    admin: AsyncConnection
    apart: bool
    access: Access
    key: int
    pid: int = 0
    waited_s: float = 0.0
    since: float = 0.0
    server: int = 0
    """The server that holds the lock, as in `sql.SERVER`."""
    lost: str = ""
    """Why the lock can no longer be relied upon."""
    silence_s: float = 0.0
    """Seconds after which a server is given up that does not answer this session."""
    acts: int = 0
    """The number of acts under way that may keep the session busy for long."""
    _progress: str = field(default="")

    @property
    def tag(self) -> str:
        """The name of every session that migrates under this lock, whoever opened it."""
        return f"{self.tag_of_all}{socket.gethostname()[:20]}:{os.getpid()}"

    @property
    def tag_of_all(self) -> str:
        """The beginning of the tags of every holder of this lock."""
        return f"automigrator {self.key % 2**64:016x} "

    async def confirm(self, progress: str = "") -> None:
        if self.lost:
            raise LockLostError(self.lost)
        self._progress = progress or self._progress
        name = f"automigrator {socket.gethostname()[:24]}:{os.getpid()} {self._progress}"
        asked = rows_of(
            self.admin,
            "select set_config('application_name', :name, false), pg_backend_pid()",
            name=name.strip()[:_NAME_LIMIT],
        )
        try:
            pid = (await shielded(self.in_time(asked)))[0][1]
        except (SQLAlchemyError, OSError) as error:
            if isinstance(error, DBAPIError) and sqlstate(error) == FAILED_TRANSACTION:
                return  # the session lives: a rename has just failed in it, and is rolled back
            what = f"is gone ({type(error).__name__})"
            if isinstance(error, NoAnswerError):
                what = f"is no longer answered by the server ({error})"
            raise self._lose(
                f"the session that held the migration lock {what}; "
                "another process may migrate by now. What was not committed is rolled back"
            ) from error
        if pid != self.pid:
            raise self._lose(
                "the session that held the migration lock is another one by now, as behind a "
                "pooler in transaction mode (PgBouncer, say), where no lock can be held. What was "
                "not committed is rolled back. Give migrations a direct URL of the server: "
                "Target(migrate_with='postgresql+asyncpg://...')"
            )

    def rule(self, server: int, age_s: float | None = None) -> None:
        """Raise LockLostError where `server` is not the server that holds this lock.

        `age_s` is the age in seconds of the connection that leads to `server`, if it is known.

        After a fail-over the session may live on at the old primary, while every new connection
        leads to the promoted one, which knows nothing of this lock.
        """
        if server != self.server:
            raise self._lose(
                "the database's address leads to another server by now than the one that holds "
                "the migration lock of this process, as after a fail-over; nothing more was "
                "changed on either. Start again"
            )
        if age_s is not None:
            self.access.prove(age_s)

    def _lose(self, why: str) -> LockLostError:
        self.lost = why
        return LockLostError(why)

    async def blockers(self, query: str) -> Sequence[Any]:
        """Ask who blocks the sessions that migrate under this lock."""
        return await shielded(self.in_time(rows_of(self.admin, query, tag=self.tag)))

    async def until_lost(self) -> None:
        """See `Hold`; nothing that takes long may run in the lock's session meanwhile."""
        while True:
            await asyncio.sleep(self.silence_s / 4)
            await self.confirm()

    def hurry(self) -> None:
        self.silence_s = min(self.silence_s, HURRY_S)

    async def in_time(self, work: Awaitable[T]) -> T:
        """Await work in the lock's session; a cancellation ends the session, unless `shielded`.

        Raises NoAnswerError when the server is silent for `silence_s` seconds, and gives it up.
        """
        limit_s, severed = self.silence_s, False

        def cut(_: object) -> None:
            nonlocal severed
            if not self.acts:  # else the work only waits for its turn
                severed = True
                session.cut(self.admin)

        pauses = itertools.repeat(CUT_S)
        try:
            return await beside(work, asyncio.sleep(limit_s), end=cut, pauses=pauses)
        except Exception as error:
            if not severed:
                raise
            raise silent(limit_s, "the session of the migration lock") from error

    async def last(self) -> Record | None:
        kept = server_notes.kept(self.access, server_notes.record_name(self.key))
        return loaded(await self._answered(kept, "what asks how the last leader ended"))

    async def leave(self, record: Record | None) -> None:
        def dumped_at(now: float) -> str:
            assert record is not None
            return dataclasses.replace(record, at=record.at or now).dumped()

        await self._keep(
            server_notes.record_name(self.key),
            dumped_at if record is not None else None,
            "what writes down how this run ended",
        )

    async def declare(self, declared: Sequence[Declaration]) -> None:
        text = dumped(declared)
        name = server_notes.declarations_name(self.key)
        await self._keep(name, (lambda _: text) if declared else None, "what the database declares")

    async def _keep(self, name: str, text: Callable[[float], str] | None, what: str) -> None:
        await self.confirm()
        await self._answered(server_notes.keep(self.access, name, text), what)

    async def _answered(self, work: Awaitable[T], what: str) -> T:
        return await answered(work, min(self.silence_s, self.access.connect_timeout), what)


async def end_predecessors(admin: AsyncConnection, hold: SessionHold, live: str) -> None:
    """End what earlier holders of the lock still run: a killed client does not stop its statement.

    Raises LockTimeoutError when one stays.
    """
    deadline = Deadline(PREDECESSOR_LIMIT_S)
    query = """
        select pid, application_name, pg_terminate_backend(pid) from pg_stat_activity
        where starts_with(application_name, :tag) and pid <> pg_backend_pid()
    """
    while True:
        try:
            rows = await hold.in_time(rows_of(admin, query, tag=hold.tag_of_all))
        except DBAPIError as error:
            raise LockTimeoutError(
                f"an earlier migration of database {live!r} still runs, and this role may not "
                "end its session; nothing was changed"
            ) from error
        if not rows:
            return
        if deadline.is_over():
            raise LockTimeoutError(
                f"an earlier migration of database {live!r} was told to end and still runs after "
                f"{PREDECESSOR_LIMIT_S:.0f} s: session {rows[0][0]} ({rows[0][1]}); "
                "nothing was changed"
            )
        await asyncio.sleep(_POLL_S)
