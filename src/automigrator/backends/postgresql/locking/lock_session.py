"""The opening of the session that holds a lock, and the proof that it stays the same session.

The runs of many targets take one after the other: to open it costs more than to lock.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.access import Access
from automigrator.backends.common_connections import KeptSession, closed
from automigrator.backends.postgresql.errors import DIRECT, TOO_MANY, ServerError, code_of
from automigrator.backends.postgresql.locking.session import process_name
from automigrator.backends.postgresql.maintenance import Maintenance
from automigrator.backends.postgresql.sql import handed_on, rows_of, told_pid
from automigrator.support.backoff import Deadline
from automigrator.support.concurrency import background
from automigrator.support.loggers import logger_of
from automigrator.support.redaction import first_line

logger = logger_of(__name__)

_SECOND_S = 3.0
"""Seconds to wait for a second session behind a pooler; up to three times as long, at random."""

_TRIES = 12
"""A connection may get the same session again by chance, mostly where many compete for few."""

_PAUSE_S = 0.01


class Known(NamedTuple):
    """What does not change while a session lasts: its process, its server, and its database."""

    pid: int
    server: int
    where: str


class LockSession:
    """A session for a lock.

    `why_inside`: why it is not apart from the target; empty where it is. `since`: the time of its
    server when it was taken, of one that held other targets' locks before; None for a new one.
    """

    is_free = False
    """Whether it holds nothing, and may hold the next lock."""

    def __init__(self, kept: KeptSession, why_inside: str = "", since: float | None = None) -> None:
        self.kept, self.why_inside, self.since = kept, why_inside, since

    @property
    def admin(self) -> AsyncConnection:
        admin: AsyncConnection = self.kept.connection
        return admin

    @property
    def known(self) -> Known:
        """What was learned of it by those that prepared it."""
        known: Known = self.kept.known
        return known


@asynccontextmanager
async def lock_session(maintenance: Maintenance, timeout_s: float) -> AsyncIterator[LockSession]:
    """Context manager: a session for a lock, one that other targets are done with if there is one.

    Raises what opening one raises.
    """
    access, key = maintenance.access, maintenance.key
    common = access.common if key is not None else None
    session = None
    if common is not None and key is not None:
        live = await maintenance.name.asked()
        while session is None and (kept := await common.take(key)) is not None:
            session = await _taken_over(kept, live, access.connect_timeout)
    if session is None:
        async with AsyncExitStack() as stack, background(_let_go(access)):
            admin, why_inside = await _proven_session(maintenance, stack, timeout_s)
            session = LockSession(KeptSession(admin, None, stack.pop_all()), why_inside)
    access.opened.add(session.admin)
    try:
        yield session
    finally:
        if session.is_free and common is not None and key is not None:
            common.give(key, session.kept)
        else:
            await session.kept.stack.aclose()


async def _taken_over(kept: KeptSession, live: str, limit_s: float) -> LockSession | None:
    """Go on with a session for a target in the database `live`; None where that cannot be."""
    known: Known = kept.known
    if known.where != live:  # else the lock would not be apart from the target
        name = process_name()
        try:
            async with asyncio.timeout(limit_s):
                ((pid, since, _),) = await rows_of(kept.connection, _TAKE_OVER, name=name)
            if pid == known.pid:
                return LockSession(kept, since=since)
        except Exception as error:  # noqa: BLE001 - a new one is opened
            logger.debug("the lock's session of before: %s", first_line(error))
        except BaseException:
            await closed(kept)
            raise
    await closed(kept)
    return None


_TAKE_OVER = """
    select pg_backend_pid(), extract(epoch from clock_timestamp())::float8,
           set_config('application_name', :name, false)
"""


async def _let_go(access: Access) -> None:
    """Hold nothing while a pooler has no session to give: the leader may wait for just that one."""
    await asyncio.sleep(_SECOND_S)
    await access.let_go()


async def _proven_session(
    maintenance: Maintenance, stack: AsyncExitStack, timeout_s: float
) -> tuple[AsyncConnection, str]:
    """As `_opened`, and it is proved that no pooler hands the session to others.

    Behind a pooler the proof takes a second session. A process that holds the first and gets no
    second gives the first back: the pooler may have too few for all that ask at once.
    """
    access, live = maintenance.access, maintenance.name.own
    waiting = Deadline(timeout_s)
    full = Full(live, "for the lock", min(timeout_s, access.connect_timeout))
    while True:
        try:
            async with AsyncExitStack() as trying:
                live = await maintenance.name.asked()
                admin, why_inside = await _opened(maintenance, trying)
                beside = None if why_inside else admin.engine.url.database
                try:
                    async with asyncio.timeout(_SECOND_S * random.uniform(1, 3)):
                        await _refuse_transaction_pooling(access, admin, beside, live)
                except TimeoutError as error:
                    if waiting.is_over():
                        how = (
                            f"that gave no second session in {timeout_s:g} s to learn how it pools"
                        )
                        raise _pooled(live, how) from error
                else:
                    await stack.enter_async_context(trying.pop_all())
                    return admin, why_inside
        except Exception as error:  # noqa: BLE001 - raised again, unless room may come
            full.note(error)
            await access.let_go()  # or those that wait would take the room of each other
        await asyncio.sleep(random.uniform(0, 1))


class Full:
    """A server that takes no more connections: told once, and endured for a while."""

    def __init__(self, live: str, what: str, limit_s: float) -> None:
        self._live, self._what, self._told = live, what, False
        self._limit = Deadline(limit_s)

    def note(self, error: Exception) -> None:
        """Note that it is full. Raises any other error, and ServerError where it stays so."""
        if code_of(error) != TOO_MANY:
            raise error
        if self._limit.is_over():
            raise ServerError(
                "unreachable",
                f"the server of database {self._live!r} is full: for {self._limit.seconds:g} s it "
                "has taken no more connections, and a migration needs about four; nothing was "
                "changed. Raise max_connections or the role's or the database's CONNECTION LIMIT, "
                "or let the application keep fewer open",
            ) from error
        if not self._told:
            self._told = True
            logger.info(
                "the server of database %r is full; waiting to be let in %s", self._live, self._what
            )


async def _opened(maintenance: Maintenance, stack: AsyncExitStack) -> tuple[AsyncConnection, str]:
    """Open an AUTOCOMMIT connection.

    Returns it, and why it is not apart from the target; an empty text where it is.
    """
    why_inside = "the target is itself the maintenance database"
    if maintenance.usual:
        try:
            return await maintenance.enter(stack, lasting=True), ""
        except ServerError as error:
            # the server may be gone altogether: then this says so
            why_inside = first_line(error.__cause__ or error)
    connection = maintenance.access.connection(autocommit=True, acting=True)
    return await stack.enter_async_context(connection), why_inside


async def _refuse_transaction_pooling(
    access: Access, admin: AsyncConnection, beside: str | None, live: str
) -> None:
    """Raise ServerError when the server's session changes under the connection.

    Behind such a pooler many processes would hold a session lock at once. A pooler invents the
    process id that a client is told at the start: where the id is the server's own, there is no
    pooler. Otherwise a second connection holds a transaction open: in transaction mode it has, or
    takes, the session that the first one has just used.
    """
    if not handed_on(admin) or await _told(admin) == await _pid(admin):
        return
    async with access.connection(beside) as other:
        for _ in range(_TRIES):
            before = await _pid(admin)
            taken = await _pid(other)  # inside a transaction, so it is kept
            if before == taken or await _pid(admin) != before:
                break
            await other.rollback()
            await asyncio.sleep(random.uniform(0, _PAUSE_S))  # many may try at the same moment
        else:
            return  # each connection keeps its session
    raise _pooled(live, "in transaction mode (PgBouncer, say), where no lock can be held")


def _pooled(live: str, how: str) -> ServerError:
    text = f"database {live!r} is reached through a pooler {how}; nothing was changed. {DIRECT}"
    return ServerError("unreachable", text)


async def _pid(connection: AsyncConnection) -> int:
    return int((await rows_of(connection, "select pg_catalog.pg_backend_pid()"))[0][0])


async def _told(connection: AsyncConnection) -> int | None:
    """Return the process id that the driver was told when it connected."""
    driver = (await connection.get_raw_connection()).driver_connection
    return told_pid(driver)
