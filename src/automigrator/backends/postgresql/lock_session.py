"""The session that holds a PostgreSQL lock: its lease, its predecessors, and its last record."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import time
from collections.abc import Awaitable, Coroutine, Sequence
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
from automigrator.backends.postgresql.watchdog import answered, silent
from automigrator.errors import LockLostError, LockTimeoutError, NoAnswerError
from automigrator.support.concurrency import to_the_end

T = TypeVar("T")

PREDECESSOR_LIMIT_S = 30.0

HURRY_S = 2.0

"""Seconds for a silent server where whoever waits for the run has asked for its end."""

_CUT_S = 0.5

_POLL_S = 0.05

_NAME_LIMIT = 63  # bytes: NAMEDATALEN - 1


@dataclass(slots=True, eq=False)
class SessionHold:
    """See `Hold`. `apart` is whether the session is not connected to the target.

    It alone runs what changes databases: a killed client does not stop its statement, and the
    lock is held until that has ended. A statement of it is never cancelled: see `to_the_end`.
    """

    leader: str
    admin: AsyncConnection
    apart: bool
    access: Access
    key: int
    lease_s: float
    pid: int = 0
    waited_s: float = 0.0
    since: float = 0.0
    server: int = 0
    """The server that holds the lock, as in `sessions.SERVER`."""
    lost: str = ""
    """Why the lock can no longer be relied upon."""
    silence_s: float = 0.0
    """Seconds after which a server is given up that does not answer this session."""
    acts: int = 0
    """How many acts are under way that may keep the session busy for long."""
    _progress: str = field(default="")

    @property
    def tag(self) -> str:
        """What the sessions that migrate under this lock are called, whoever opened them."""
        return f"{self.tag_of_all}{socket.gethostname()[:20]}:{os.getpid()}"

    @property
    def tag_of_all(self) -> str:
        """What the tags of every holder of this lock begin with."""
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
            pid = (await to_the_end(self.in_time(asked)))[0][1]
        except (SQLAlchemyError, OSError) as error:
            if isinstance(error, DBAPIError) and sqlstate(error) == FAILED_TRANSACTION:
                return  # the session lives: a rename has just failed in it, and is rolled back
            what = f"is gone ({type(error).__name__})"
            if isinstance(error, NoAnswerError):
                what = f"is no longer answered by the server ({error})"
            self.lost = (
                f"the session that held the migration lock {what}; "
                "another process may migrate by now. What was not committed is rolled back"
            )
            raise LockLostError(self.lost) from error
        if pid != self.pid:
            self.lost = (
                "the session that held the migration lock is another one by now, as behind a "
                "pooler in transaction mode (PgBouncer, say), where no lock can be held. What was "
                "not committed is rolled back. Give migrations a direct URL of the server: "
                "Target(migrate_with='postgresql+asyncpg://...')"
            )
            raise LockLostError(self.lost)

    def rule(self, server: int) -> None:
        """Raise LockLostError where `server` is not the one that this lock keeps others out of.

        After a fail-over the session may live on at the old primary, while every new connection
        leads to the promoted one, which knows nothing of this lock.
        """
        if server != self.server:
            self.lost = (
                "the database's address leads to another server by now than the one that holds "
                "the migration lock of this process, as after a fail-over; nothing more was "
                "changed on either. Start again"
            )
            raise LockLostError(self.lost)

    async def until_lost(self) -> None:
        """See `Hold`; meanwhile nothing that takes long may run in the lock's session."""
        while True:
            await asyncio.sleep(self.silence_s / 4)
            await self.confirm()

    def hurry(self) -> None:
        self.silence_s = min(self.silence_s, HURRY_S)

    async def in_time(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work in the lock's session; a server that is silent for too long is given up.

        Raises NoAnswerError then.
        """
        task = asyncio.ensure_future(work)
        task.add_done_callback(_retrieved)
        severed = False
        await asyncio.wait({task}, timeout=self.silence_s)
        while not task.done():
            if not self.acts:  # else the work has only to wait for its turn
                severed = True
                session.cut(self.admin)
            await asyncio.wait({task}, timeout=_CUT_S)
        if severed and not task.cancelled() and (error := task.exception()) is not None:
            raise silent(self.silence_s, "the session of the migration lock") from error
        return await task

    async def last(self) -> Record | None:
        name = server_notes.record_name(self.key)
        what = "what asks how the last leader ended"
        return loaded(await self._answered(server_notes.kept(self.access, name), what))

    async def leave(self, record: Record | None) -> None:
        await self.confirm()
        name = server_notes.record_name(self.key)

        def dumped_at(now: float) -> str:
            assert record is not None
            return dataclasses.replace(record, at=record.at or now).dumped()

        text = dumped_at if record is not None else None
        await self._answered(
            server_notes.keep(self.access, name, text), "what this run leaves word of"
        )

    async def declare(self, declared: Sequence[Declaration]) -> None:
        await self.confirm()
        text = dumped(declared)
        name = server_notes.declarations_name(self.key)
        work = server_notes.keep(self.access, name, (lambda _: text) if declared else None)
        await self._answered(work, "what the database is to declare")

    async def _answered(self, work: Awaitable[T], what: str) -> T:
        return await answered(work, min(self.silence_s, self.access.connect_timeout), what)


def _retrieved(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()  # or asyncio complains about it where nobody awaits any more


async def end_predecessors(admin: AsyncConnection, hold: SessionHold, live: str) -> None:
    """End what earlier holders of the lock still run: a killed client does not stop its statement.

    Raises LockTimeoutError when one stays.
    """
    deadline = time.monotonic() + PREDECESSOR_LIMIT_S
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
        if time.monotonic() > deadline:
            raise LockTimeoutError(
                f"an earlier migration of database {live!r} was told to end and still runs after "
                f"{PREDECESSOR_LIMIT_S:.0f} s: session {rows[0][0]} ({rows[0][1]}); "
                "nothing was changed"
            )
        await asyncio.sleep(_POLL_S)
