"""The session that holds a PostgreSQL lock: its lease, its predecessors, and its last record."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.access import Access
from automigrator.backends.contract.declarations import Declaration, dumped
from automigrator.backends.contract.lock import Hold
from automigrator.backends.contract.record import Record, newest
from automigrator.backends.lock_wait import this_process
from automigrator.backends.postgresql import connections
from automigrator.backends.postgresql.connections import LOCK_TIMEOUT_MS
from automigrator.backends.postgresql.errors import (
    DIRECT,
    FAILED_TRANSACTION,
    NO_PRIVILEGE,
    Session,
    own_code,
)
from automigrator.backends.postgresql.names import OURS
from automigrator.backends.postgresql.neighbours import Claim
from automigrator.backends.postgresql.notes import Note, read_note, write_note
from automigrator.backends.postgresql.sql import rows_of
from automigrator.backends.postgresql.watchdog import answering, severing, silent, until_silent
from automigrator.errors import LockLostError
from automigrator.support.concurrency import background, shielded

T = TypeVar("T")

HURRY_S = 2.0
"""Seconds to wait for a silent server once the end of the run has been asked for."""

_NAME_LIMIT = 63  # bytes: NAMEDATALEN - 1

_WATCH_S = 0.1

_BLOCKERS = """
    select b.pid, coalesce(b.application_name, ''),
           case when b.usesysid is null then 'autovacuum' else coalesce(b.usename::text, '') end,
           b.state,
           extract(epoch from clock_timestamp() - coalesce(b.xact_start, b.query_start))::float8,
           -- a role that may not look is not told the type
           b.usesysid is null, current_setting('deadlock_timeout')::interval
    from pg_stat_activity a
    cross join lateral unnest(pg_blocking_pids(a.pid)) as blocking(pid)
    join pg_stat_activity b on b.pid = blocking.pid
    where starts_with(a.application_name, :tag) and a.wait_event_type = 'Lock'
"""


@dataclass(eq=False, repr=False)
class SessionHold(Hold):
    """See `Hold`. `apart` says whether the session is connected to a database beside the target.

    Only this session runs statements that change whole databases: a killed client does not stop
    its statement, and the lock is held until the statement has ended. No statement of it is
    cancelled, except where the lock is given up.
    """

    access: Access
    admin: AsyncConnection
    apart: bool
    database: str
    """What the target's database calls itself."""
    key: int
    silence_s: float
    """Seconds after which a server is given up that does not answer this session."""
    names: tuple[str, ...] = ()
    """`database`, and what older releases call it."""
    old_keys: tuple[int, ...] = ()
    """By which older releases lock and keep notes, where they call the database otherwise.

    They are held beside `key`, and shared: among those that know both, `key` decides.
    """
    pid: int = 0
    leader: str = field(default_factory=this_process)
    waited_s: float = 0.0
    since: float = 0.0
    server: int = 0
    """The server that holds the lock, as in `sql.SERVER`."""
    lost: str = ""
    """Why the lock can no longer be relied upon."""
    acts: int = 0
    """The number of acts under way that may keep the session busy for long."""
    lock_timeout_ms: int = LOCK_TIMEOUT_MS
    """The time that a statement which migrates waits for a lock; longer for an autovacuum's."""
    claims: tuple[Claim, ...] = ()
    """What had a name of ours when the lock was taken, whoever owns it."""
    bare: bool = False
    """Whether there is neither a note nor a copy of ours, and no act has begun that leaves one."""
    dump_key: int = field(init=False)
    """The key of the dump's journal: that of an older release's while it is followed."""
    acted: bool = False
    """Whether an act on whole databases was begun in the session, which may have changed it."""
    _progress: str = ""
    _silent: str = ""
    """What the server did not answer within its time; empty as long as it answers."""

    def __post_init__(self) -> None:
        self.dump_key = self.key

    @property
    def tag(self) -> str:
        """The name of every session that migrates under this lock, whoever opened it."""
        return f"{self.tag_of_all}{socket.gethostname()[:20]}:{os.getpid()}"

    @property
    def tag_of_all(self) -> str:
        """The beginning of the tags of every holder of this lock."""
        return tag_of(self.key)

    @property
    def all_keys(self) -> tuple[int, ...]:
        return self.key, *self.old_keys

    async def confirm(self, progress: str = "") -> None:
        if self.lost:
            raise LockLostError(self.lost)
        self._progress = progress or self._progress
        asked = rows_of(
            self.admin,
            "select pg_catalog.set_config('application_name', :name, false), "
            "pg_catalog.pg_backend_pid()",
            name=process_name(self._progress),
        )
        try:
            pid = (await shielded(self.in_time(asked)))[0][1]
        except (SQLAlchemyError, OSError) as error:
            if isinstance(error, DBAPIError) and own_code(error.orig) == FAILED_TRANSACTION:
                return  # the session lives: a rename has just failed in it, and is rolled back
            what = f"is gone ({type(error).__name__})"
            if self._silent:  # the error may only say that we have cut the session
                what = f"is no longer answered by the server ({self._silent})"
            raise self._lose(
                f"the session that held the migration lock {what}; "
                "another process may migrate by now. What was not committed is rolled back"
            ) from error
        if pid != self.pid:
            raise self._lose(
                "the session that held the migration lock is another one by now, as behind a "
                "pooler in transaction mode (PgBouncer, say), where no lock can be held. What was "
                f"not committed is rolled back. {DIRECT}"
            )

    def rule(self, server: int, age_s: float | None = None, *, database: str = "") -> None:
        """Raise LockLostError where `server` is not the server that holds this lock.

        `age_s` is the age in seconds of the connection that leads to `server`, if it is known, and
        `database` what the target's database called itself there.

        After a fail-over the session may live on at the old primary, while every new connection
        leads to the promoted one, which knows nothing of this lock.
        """
        if server != self.server:
            raise self._lose(
                "the database's address leads to another server by now than the one that holds "
                "the migration lock of this process, as after a fail-over; nothing more was "
                "changed on either. Start again"
            )
        if database and database != self.database:
            raise self._lose(
                f"the address leads to database {database!r} by now, and the migration lock of "
                f"this process is that of {self.database!r}; nothing more was changed. Start again"
            )
        if age_s is not None:
            self.access.prove(age_s)

    def found(self, claims: tuple[Claim, ...] | None) -> None:
        """Note what has a name of ours; None where the database is not there."""
        self.claims = claims or ()
        self.bare = claims is not None and all(c.kind == "schema" and c.ours for c in claims)

    def _lose(self, why: str) -> LockLostError:
        self.lost = why
        return LockLostError(why)

    def claim(self, connection: Connection) -> Callable[[], None]:
        """See that it leads to the lock's server, and name it so that the next holder finds it."""
        undo = ExitStack()
        undo.callback(connections.tagged(connection, self.tag, self.rule))
        # an older release does not know the tag, and must not begin while this session runs on
        for key in self.old_keys:
            undo.callback(connections.sharing(connection, key))
        undo.callback(connections.waiting_shortly(connection, lambda: self.lock_timeout_ms))
        return undo.close

    @asynccontextmanager
    async def blockers(self) -> AsyncIterator[Callable[[], tuple[str, ...]]]:
        """See `Hold`: the sessions that block those that migrate under this lock."""
        found: dict[int, Session] = {}

        async def watch() -> None:
            while True:
                asked = rows_of(self.admin, _BLOCKERS, tag=self.tag)
                rows = await shielded(self.in_time(asked))
                for row in rows:
                    found[row[0]] = Session(*row[:5])
                if rows:
                    # the server ends an autovacuum for who has waited as long as for a deadlock
                    alone = all(row[5] for row in rows)
                    longer_ms = round(rows[0][6].total_seconds() * 1000) + LOCK_TIMEOUT_MS
                    self.lock_timeout_ms = longer_ms if alone else LOCK_TIMEOUT_MS
                await asyncio.sleep(_WATCH_S)

        async with background(watch()):
            yield lambda: tuple(map(str, found.values()))

    async def until_lost(self) -> None:
        while True:
            await asyncio.sleep(self.silence_s / 4)
            if not self.acts:  # a session that is busy is not silent
                await self.confirm()

    def hurry(self) -> None:
        self.silence_s = min(self.silence_s, HURRY_S)

    async def in_time(self, work: Awaitable[T]) -> T:
        """Await work in the lock's session; a cancellation ends the session, unless `shielded`.

        Raises NoAnswerError when the server is silent for `silence_s` seconds, and gives it up.
        """
        limit_s = self.silence_s

        def cut() -> bool:
            alone = not self.acts  # else another act keeps the session busy
            if alone:
                self._silent = str(silent(limit_s, what))
                connections.cut(self.admin)
            return alone

        what = "the session of the migration lock"
        return await severing(work, asyncio.sleep(limit_s), cut, limit_s, what)

    async def heard(self, act: Awaitable[T], what: str) -> T:
        """Await an act of this session, which takes long, while the server answers others."""
        # never where a database is copied from, or swapped
        beside = self.admin.engine.url.database if self.apart else None

        async def ask() -> None:
            async with self.access.connection(beside, autocommit=True) as connection:
                await rows_of(connection, "select 1")

        def cut() -> bool:
            for connection in list(self.access.opened):
                connections.cut(connection)
            return True

        limit_s = self.silence_s
        self.acts += 1
        try:
            return await severing(act, until_silent(ask, limit_s), cut, limit_s, what)
        finally:
            self.acts -= 1

    async def last(self) -> Record | None:
        if self.bare:
            return None
        async with self._answering("the question how the last leader ended"):
            texts = [await read_note(self.access, "last", key) for key in self.all_keys]
        return newest(texts)

    async def leave(self, record: Record | None) -> None:
        def dumped_at(now: float) -> str | None:
            return record._replace(at=record.at or now).dumped() if record is not None else None

        await self._keep("last", dumped_at, "the record of how this run ended")

    async def declare(self, declared: Sequence[Declaration]) -> None:
        text = dumped(declared) if declared else None
        await self._keep(
            "works_with", lambda _: text, "the declaration of what works with the database"
        )

    async def _keep(self, kind: Note, text: Callable[[float], str | None], what: str) -> None:
        async with self._answering(what):
            for key in self.all_keys:
                await self.write_note(kind, key, text)

    async def write_note(self, kind: Note, key: int, text: Callable[[float], str | None]) -> None:
        """Replace a note in a session that the next holder of the lock would end first."""
        self.bare = False

        async def ready(server: int) -> None:
            self.rule(server)
            await self.confirm()  # once it can be found: this process may have been frozen

        async with self.access.shared() as connection:
            await write_note(connection, kind, key, text, self.tag, ready)

    async def predecessors(self) -> Sequence[Any]:
        """Return the sessions named as those of earlier holders are.

        Each with its pid, its name, its role, and whether that role is ours.
        """
        tags = [tag_of(key) for key in self.all_keys]
        found = """from pg_stat_activity where pid <> pg_backend_pid() and exists (
            select from unnest(cast(:tags as text[])) as t(tag)
            where starts_with(application_name, t.tag))"""
        there = rows_of(self.admin, f"select exists (select {found})", tags=tags)
        if not (await self.in_time(there))[0][0]:
            return ()  # mostly; whose they are takes longer to ask
        query = f"""
            select pid, application_name, coalesce(usename::text, ''),
                   usename is null or usesysid in {OURS}  -- a login may be dropped meanwhile
            {found} order by pid
        """
        return await self.in_time(rows_of(self.admin, query, tags=tags, live=self.database))

    async def end(self, pid: int, name: str, role: str) -> tuple[str, bool]:
        """Tell the server to end a session; return what it is, and whether this role may."""
        session = f"session {pid} of role {role!r} ({name})"
        # from the view again: the pid may be somebody else's by now
        query = """
            select pg_terminate_backend(pid) from pg_stat_activity
            where pid = :pid and application_name = :name and coalesce(usename::text, '') = :role
        """
        try:
            await self.in_time(rows_of(self.admin, query, pid=pid, name=name, role=role))
        except DBAPIError as error:
            if own_code(error.orig) != NO_PRIVILEGE:
                raise
            return session, False
        return session, True

    def _answering(self, what: str) -> AbstractAsyncContextManager[None]:
        return answering(min(self.silence_s, self.access.connect_timeout), what)


def process_name(progress: str = "") -> str:
    """The name of a lock's session: this process, and how far its migration is."""
    name = f"automigrator {socket.gethostname()[:24]}:{os.getpid()} {progress}"
    return name.strip()[:_NAME_LIMIT]


def tag_of(key: int) -> str:
    """The beginning of the name of every session that migrates under a lock."""
    return f"automigrator {key % 2**64:016x} "
