"""The migration lock of a PostgreSQL database: advisory locks of one session.

They are tried for again and again, never queued for: the server could not see that a queue for
one and a revision wait for each other.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.access import Access
from automigrator.backends.contract.backend import Waiting
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.lock_wait import poll
from automigrator.backends.postgresql import neighbours, watchdog
from automigrator.backends.postgresql.errors import ServerError, listed
from automigrator.backends.postgresql.locking import advisory
from automigrator.backends.postgresql.locking.lock_session import Full, Known, lock_session
from automigrator.backends.postgresql.locking.session import SessionHold
from automigrator.backends.postgresql.looks import Sights
from automigrator.backends.postgresql.maintenance import Maintenance
from automigrator.backends.postgresql.sql import SERVER, OwnPath, rows_of
from automigrator.errors import LockTimeoutError
from automigrator.support.backoff import Deadline
from automigrator.support.concurrency import background, error_of, shielded
from automigrator.support.loggers import logger_of

H = TypeVar("H", bound=SessionHold)

logger = logger_of(__name__)

Able = Callable[[Collection[str]], Awaitable[Collection[str]]]
"""Tells which of some roles could have migrated the target."""

PREDECESSOR_LIMIT_S = 30.0
"""Seconds for what earlier holders still run to end, once it was told to."""

_POLL_S, _TELL_S = 0.05, 1.0

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
    async with lock_session(maintenance, timeout_s) as session:
        admin, why_inside = session.admin, session.why_inside
        live = name.own
        own, old = advisory.keys(live, tables), advisory.keys(name.spelled, tables)
        old = [key for key in old if key not in own]
        todo = sorted({*own, *old})
        silence_s = min(watchdog.SILENT_S, advisory.LEASE_S)
        hold = make(maintenance.access, admin, not why_inside, live, own[0], silence_s)
        hold.names, hold.old_keys = name.all, tuple(old)
        if isinstance(path := maintenance.access.settling, OwnPath):
            await hold.in_time(path.proves(admin))
        if session.since is None:
            session.kept.known = await _prepare(hold, live, why_inside)
        else:
            (hold.pid, hold.server, _), hold.since = session.known, session.since
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
        full = Full(live, "beside the lock's session", maintenance.access.connect_timeout)
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
                session.is_free = hold.apart and not (hold.lost or hold.acted)


async def _prepare(hold: SessionHold, live: str, why_inside: str) -> Known:
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
    return Known(hold.pid, hold.server, where)


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
