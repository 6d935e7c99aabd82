"""The migration lock of a PostgreSQL database: advisory locks of one session.

They are tried for again and again, never queued for: the server could not see that a queue for
one and a revision wait for each other.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.access import Access
from automigrator.backends.contract.backend import Waiting
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.lock_wait import poll
from automigrator.backends.postgresql import neighbours, watchdog
from automigrator.backends.postgresql.errors import DIRECT, TOO_MANY, ServerError, code_of, listed
from automigrator.backends.postgresql.locking import advisory
from automigrator.backends.postgresql.locking.session import SessionHold
from automigrator.backends.postgresql.looks import Sights
from automigrator.backends.postgresql.maintenance import Maintenance
from automigrator.backends.postgresql.sql import SERVER, OwnPath, handed_on, rows_of, told_pid
from automigrator.errors import LockTimeoutError
from automigrator.support.backoff import Deadline
from automigrator.support.concurrency import background, error_of, shielded
from automigrator.support.loggers import logger_of
from automigrator.support.redaction import first_line

H = TypeVar("H", bound=SessionHold)

logger = logger_of(__name__)

Able = Callable[[Collection[str]], Awaitable[Collection[str]]]
"""Tells which of some roles could have migrated the target."""

PREDECESSOR_LIMIT_S = 30.0
"""Seconds for what earlier holders still run to end, once it was told to."""

_POLL_S, _TELL_S = 0.05, 1.0

_SECOND_S = 3.0
"""Seconds to wait for a second session behind a pooler; up to three times as long, at random."""

_TRIES = 12
"""A connection may get the same session again by chance, mostly where many compete for few."""

_PAUSE_S = 0.01

_SETTINGS = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "transaction_timeout": "0",
    "default_transaction_read_only": "off",
    "synchronous_commit": "local",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}


@asynccontextmanager
async def lock(
    make: Callable[[Access, AsyncConnection, bool, str, int, float], H],
    maintenance: Maintenance,
    sights: Sights,
    tables: Sequence[VersionTable],
    timeout_s: float,
    waiting: Waiting,
) -> AsyncIterator[H]:
    """Context manager: hold the lock of every version table; `make` makes the hold.

    What a dead holder still ran has been ended by then. Raises LockTimeoutError after `timeout_s`
    seconds, and ServerError on a standby and behind a pooler that hands the session to others.
    """
    name = maintenance.name
    async with AsyncExitStack() as stack:
        async with background(_let_go(maintenance.access)):
            admin, why_inside = await _proven_session(maintenance, stack, timeout_s)
        live = name.own
        own, old = advisory.keys(live, tables), advisory.keys(name.spelled, tables)
        old = [key for key in old if key not in own]
        todo = sorted({*own, *old})
        silence_s = min(watchdog.SILENT_S, advisory.LEASE_S)
        hold = make(maintenance.access, admin, not why_inside, live, own[0], silence_s)
        hold.names, hold.old_keys = name.all, tuple(old)
        if isinstance(path := maintenance.access.settling, OwnPath):
            await hold.in_time(path.proves(admin))
        await _prepare(hold, live, why_inside)
        turns = advisory.Turns(admin)

        async def acquire() -> bool:
            while todo:
                if not await hold.in_time(turns.mine(todo[0], shared=todo[0] in old)):
                    await maintenance.access.let_go()  # one connection is enough to wait
                    return False
                del todo[0]
            return True

        async def leader() -> str:
            who = await hold.in_time(advisory.holder(admin, todo[0]))
            return who or "somebody who has let go of it since"

        hold.waited_s = await poll(acquire, timeout_s, waiting, leader, f"database {live!r}")
        able = partial(sights.able, tables=tables)
        await _end_predecessors(hold, able, timeout_s - hold.waited_s, waiting)
        full = _Full(live, "beside the lock's session", maintenance.access.connect_timeout)
        while True:
            try:
                hold.found(await sights.claims_of(hold.all_keys, tables))
                break
            except Exception as refusal:  # noqa: BLE001 - raised again, unless room may come
                full.note(refusal)
            await asyncio.sleep(random.uniform(0, 1))
        hold.notes += neighbours.notes(each for each in hold.claims if not each.refused)
        # every holder takes this key shared, so nobody waits
        shared = "select pg_try_advisory_lock_shared(cast(:key as bigint))"
        for each in name.all:
            await hold.in_time(rows_of(admin, shared, key=advisory.key_of(each)))
        # or the session would be silent for longer than its lease
        try:
            async with background(hold.until_lost()) as beating:
                yield hold
            if (error := error_of(beating)) is not None:
                logger.warning("%s", error)
        finally:
            # at once, and not when the server notices that the connection was closed; a server
            # that does not answer is told nothing more
            with suppress(Exception):
                await shielded(hold.in_time(rows_of(admin, "select pg_advisory_unlock_all()")))


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
    full = _Full(live, "for the lock", min(timeout_s, access.connect_timeout))
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


class _Full:
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


async def _prepare(hold: SessionHold, live: str, why_inside: str) -> None:
    found = rows_of(
        hold.admin,
        f"""
        select pg_is_in_recovery(), pg_backend_pid(),
               extract(epoch from clock_timestamp())::float8, {SERVER}, current_database()::text,
               count(set_config(s.name, v.value, false))
        from pg_settings s
        join unnest(cast(:names as text[]), cast(:values as text[])) as v(name, value)
             on v.name = s.name
        """,
        names=list(_SETTINGS),
        values=list(_SETTINGS.values()),
    )
    (row,) = await hold.in_time(found)
    if row[0]:
        raise ServerError(
            "read-only",
            f"the server of database {live!r} is a standby, which only replays what its primary "
            "does; nothing was changed. Point the target at the primary",
        )
    hold.pid, hold.since, hold.server, where = row[1:5]
    if hold.apart and where == live:
        hold.apart, why_inside = (
            False,
            f"a pooler leads from {hold.admin.engine.url.database!r} there",
        )
    if why_inside:
        hold.notes = (
            f"the migration lock is held in database {live!r} itself, and whole databases are "
            f"neither copied nor swapped: no maintenance database can be reached ({why_inside}); "
            "Target(maintenance_database=...) names one",
        )
    await hold.confirm()


async def _end_predecessors(
    hold: SessionHold, able: Able, limit_s: float, waiting: Waiting
) -> None:
    """End what earlier holders of the lock still run: a kill does not stop a statement.

    The session of another role may not be ended by this one, and is waited for, `limit_s`
    seconds at most. Raises LockTimeoutError when one stays. Anybody may name a session like that:
    one counts whose role is ours, or could migrate the database.
    """
    mine, theirs = Deadline(PREDECESSOR_LIMIT_S), Deadline(limit_s)
    told = Deadline(0)
    roles: dict[str, bool] = {}
    while True:
        found = await hold.predecessors()
        strange = {role for *_, role, ours in found if not ours} - roles.keys()
        migrating = await able(strange)
        roles.update((role, role in migrating) for role in strange)
        left = []
        for pid, name, role, ours in found:
            if ours or roles[role]:
                left.append(await hold.end(pid, name, role))
        if not left:
            pids: dict[str, list[str]] = {}
            for pid, _, role, _ in found:
                pids.setdefault(role, []).append(str(pid))
            hold.notes += tuple(
                f"sessions of role {role!r} (pid {listed(each)}) call themselves earlier "
                "migrations of this database, which that role cannot migrate: they were neither "
                "ended nor waited for"
                for role, each in pids.items()
            )
            return
        refused = [session for session, ended in left if not ended]
        who = f"an earlier migration of database {hold.database!r}"
        if refused and theirs.is_over():
            raise LockTimeoutError(
                f"{who} still runs in {refused[0]}, which this role may not end, after "
                f"{theirs.elapsed():.0f} s; nothing was changed. Let it finish, or end it as "
                "its role, or as one that is a member of pg_signal_backend"
            )
        if not refused and mine.is_over():
            raise LockTimeoutError(
                f"{who} was told to end and still runs after {PREDECESSOR_LIMIT_S:.0f} s: "
                f"{left[0][0]}; nothing was changed"
            )
        if refused and told.is_over():
            told = Deadline(_TELL_S)
            waiting(theirs.elapsed(), f"{refused[0]}, which this role may not end")
        await asyncio.sleep(_POLL_S)
