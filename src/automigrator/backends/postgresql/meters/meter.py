"""Measures what statements do to a database: its locks, rows, scans and rewritten tables.

A transaction is looked into by its own session, which alone knows what it has counted; a statement
outside one by another session, again and again while it runs. That one is first in its way, for the
moment that it takes to see what it asks for.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.access import Access
from automigrator.backends.contract.meter import Locks, Look, Meter, Watched
from automigrator.backends.postgresql.meters.better_statements import advice
from automigrator.backends.postgresql.sql import rows_of, run, server_version
from automigrator.measurement import StatementMeasured, Waits
from automigrator.support.concurrency import shielded

MODES = (
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)
"""Of locks on relations, from weak to strong."""

BUSY_S = 0.2
"""Seconds for which a statement outside a transaction is looked at without a pause."""

PAUSE_S = 0.02

MOST_GATED, GATE_MS = 1000, 2000
"""Tables that are locked at most beside a statement, and how long each is waited for."""

UNSIZED, PART = 65536, 64
"""Bytes of the log before which a database's size is not asked for anew: that counts its files.

While the revisions run, that is this part of the size, where it is more."""

ENOUGH_LOOKS = 3
"""Looks after which a statement without a lock on a table is believed to take none."""

_BASE = """
    select c.oid::int8, coalesce(i.indrelid, c.oid)::int8, n.nspname::text, c.relname::text,
           c.relkind::text, c.relfilenode::int8, pg_relation_size(c.oid) > 0,
           case when c.relkind in ('r', 'm') then pg_total_relation_size(c.oid) end
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    left join pg_index i on i.indexrelid = c.oid
    where c.oid >= 16384 and c.relkind <> 't' and n.nspname !~ '^pg_'
"""

_START = """
    select pg_database_size(current_database()),
           pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::int8
"""

_NODES = "select oid::int8, relfilenode::int8 from pg_class where oid >= 16384"

_BESIDE = """
    select relation::int8, array_agg(mode), bool_and(granted) from pg_locks
    where pid = :pid and (locktype = 'relation' and relation >= 16384
                          or locktype = 'virtualxid' or not granted)
    group by relation
"""

_TABLES = """
    select format('%I.%I', n.nspname, c.relname)
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.oid >= 16384 and c.relkind in ('r', 'p') and n.nspname !~ '^pg_'
    order by c.oid
"""

_WITHIN = """
    select s.log_bytes, s.lock_timeout_s, l.transaction, l.relation, l.modes,
           c.relfilenode::pg_catalog.int8, c.relkind::pg_catalog.text,
           pg_catalog.pg_stat_get_xact_numscans(l.relation),
           pg_catalog.pg_stat_get_xact_tuples_inserted(l.relation),
           pg_catalog.pg_stat_get_xact_tuples_updated(l.relation)
               operator(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_deleted(l.relation)
    from (select {position} as log_bytes,
                 {lock_timeout} as lock_timeout_s,
                 {flush} as flushed) s
    cross join (select virtualtransaction as transaction, relation,
                       pg_catalog.array_agg(mode) as modes
                from pg_catalog.pg_locks
                where pid operator(pg_catalog.=) pg_catalog.pg_backend_pid() and granted
                  and ((locktype operator(pg_catalog.=) 'virtualxid')
                       or (locktype operator(pg_catalog.=) 'relation')
                       and (relation operator(pg_catalog.>=) 16384::pg_catalog.oid)
                       and (relation operator(pg_catalog.<=) {last}::pg_catalog.oid))
                group by virtualtransaction, relation) l
    left join pg_catalog.pg_class c on c.oid operator(pg_catalog.=) l.relation
"""
"""Safe under any path, as it is asked on env.py's connection."""

_LOCK_TIMEOUT = """extract(epoch from pg_catalog.current_setting('lock_timeout')
    ::pg_catalog.interval)::pg_catalog.float8"""
_POSITION = """pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), '0/0')
    ::pg_catalog.int8"""
_SIZE = """
    select case when pg_catalog.has_database_privilege(pg_catalog.current_database(), 'connect')
        then pg_catalog.pg_database_size(pg_catalog.current_database()) end
"""
"""A revision may have taken a role that must not ask."""
_FLUSH = "pg_catalog.pg_stat_force_next_flush()::pg_catalog.text"
"""Else what one transaction has counted is counted in the next as well; from PostgreSQL 15 on."""


class _Relation(NamedTuple):
    table: str
    """The name of it, or of the table that it is an index of."""
    kind: str
    filled: bool


def blocks(mode: str) -> tuple[Waits, ...]:
    """Who waits for a lock on a table in a mode."""
    if mode == "AccessExclusiveLock":
        return ("reads", "writes")
    return ("writes",) if MODES.index(mode) >= MODES.index("ShareLock") else ()


@asynccontextmanager
async def metering(access: Access, database: str | None) -> AsyncIterator[ServerMeter]:
    """Context manager: measure a database of the server, over a second connection to it."""
    async with access.connection(database, autocommit=True) as connection:
        meter = ServerMeter(connection)
        await meter.begin()
        yield meter


class ServerMeter(Meter):
    """See `Meter`; `connection` is another session's, of the same database."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self.sizes: dict[str, int] = {}
        self._base: dict[int, _Relation] = {}
        self._nodes: dict[int, int] = {}
        """The files of the relations when they were last looked at."""
        flush = _FLUSH if server_version(connection) >= (15,) else "null"
        self._options = {"flush": flush, "lock_timeout": _LOCK_TIMEOUT, "position": _POSITION}
        self._within = ""
        self._sized_at = 0
        """The position in the log when the size was last asked for."""

    async def begin(self) -> None:
        """Note the relations that are there."""
        ((self.size, self.log_bytes),) = await rows_of(self._connection, _START)
        self._sized_at = self.log_bytes
        rows = await rows_of(self._connection, _BASE)
        # what has a greater oid is new, and in nobody's way
        last = max((row[0] for row in rows), default=0)
        self._within = _WITHIN.format(last=last, **self._options)
        names = {row[0]: row[3] if row[2] == "public" else f"{row[2]}.{row[3]}" for row in rows}
        for oid, table, _, _, kind, filenode, filled, size in rows:
            name = names.get(table, names[oid])
            self._base[oid] = _Relation(name, kind, bool(filled))
            self._nodes[oid] = filenode
            if size is not None:
                self.sizes[name] = size

    def look(self, connection: Connection, *, whole: bool = False) -> Look:
        with contextlib.closing(connection.connection.cursor()) as cursor:
            cursor.execute(self._within)
            rows: Sequence[Sequence[Any]] = cursor.fetchall()
            log_bytes, timeout_s, transaction = rows[0][:3]
            size = None
            if whole and log_bytes - self._sized_at >= max(UNSIZED, self.size // PART):
                cursor.execute(_SIZE)
                ((size,),) = cursor.fetchall()
        if size is not None:
            self._sized_at = log_bytes
        written: dict[str, int] = {}
        changed: set[str] = set()
        scans: dict[str, int] = {}
        rewritten: set[str] = set()
        for *_, oid, _modes, filenode, kind, scanned, inserted, updated in rows:
            relation = self._base.get(oid)
            if relation is None:
                continue
            table = relation.table
            if self._is_rewritten(oid, filenode):
                rewritten.add(table)
            if kind in ("r", "m"):
                written[table] = (inserted or 0) + (updated or 0)
                scans[table] = scanned or 0
                if updated:
                    changed.add(table)
        locks = dict(self._locks((row[3], row[4]) for row in rows))
        for table in changed:
            mode, waiting = locks.get(table, ("RowExclusiveLock", ()))
            locks[table] = (mode, waiting or ("rows",))
        return Look(
            transaction,
            locks,
            written,
            scans,
            frozenset(rewritten),
            size,
            log_bytes,
            timeout_s,
        )

    async def final_size(self) -> int | None:
        ((size, log_bytes),) = await rows_of(self._connection, _START)
        return size if log_bytes - self._sized_at >= UNSIZED else None

    def _locks(self, found: Iterable[tuple[int | None, Sequence[str]]]) -> Locks:
        locks: dict[str, tuple[str, tuple[Waits, ...]]] = {}
        for oid, modes in found:
            relation = self._base.get(oid or 0)
            if relation is None:
                continue
            before = locks.get(relation.table, (MODES[0], ()))[0]
            mode = max(before, *(each for each in modes if each in MODES), key=MODES.index)
            locks[relation.table] = (mode, blocks(mode))
        return locks

    def _is_rewritten(self, oid: int, filenode: int | None) -> bool:
        """Whether a table that had rows has a new file; an index alone is no table."""
        relation = self._base[oid]
        if filenode is None or relation.kind not in ("r", "m") or not relation.filled:
            return False
        before, self._nodes[oid] = self._nodes[oid], filenode
        return before != filenode

    def watch(self, connection: Connection) -> Callable[[int], Watched]:
        with contextlib.closing(connection.connection.cursor()) as cursor:
            cursor.execute(f"select pg_catalog.pg_backend_pid(), {_LOCK_TIMEOUT}")
            ((pid, timeout_s),) = cursor.fetchall()
        began, ended = threading.Event(), threading.Event()
        work = self._watched(pid, began, ended)
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        began.wait(1)

        def seen(rows: int) -> Watched:
            ended.set()
            watched = future.result(60)
            locks = dict(watched.locks)
            for name, (mode, waits) in watched.locks.items():
                if rows and mode == "RowExclusiveLock":  # to which of the tables, nobody knows
                    locks[name] = (mode, waits or ("rows",))
            return watched._replace(locks=locks, lock_timeout_s=timeout_s)

        return seen

    async def _watched(self, pid: int, began: threading.Event, ended: threading.Event) -> Watched:
        found: dict[int | None, list[str]] = {}
        looks, clock = 0, self._loop.time
        until = clock() + BUSY_S
        gated = never_waited = await self._gate()
        began.set()
        try:
            while not ended.is_set():
                waits = False
                for oid, modes, granted in await rows_of(self._connection, _BESIDE, pid=pid):
                    looks, waits = looks + 1, waits or not granted
                    found.setdefault(oid, []).extend(modes)
                if gated and waits:
                    gated = never_waited = False
                    await run(self._connection, "COMMIT")
                await asyncio.sleep(0 if clock() < until else PAUSE_S)
        finally:
            if gated:
                await shielded(run(self._connection, "ROLLBACK"))
        locks = self._locks(found.items())
        nodes = dict(map(tuple, await rows_of(self._connection, _NODES)))
        rewritten = {
            self._base[oid].table
            for oid, filenode in nodes.items()
            if oid in self._base and self._is_rewritten(oid, filenode)
        }
        seen = bool(locks) or never_waited or looks >= ENOUGH_LOOKS
        return Watched(locks, max(looks, 1) if seen else 0, frozenset(rewritten))

    async def _gate(self) -> bool:
        """Lock every table in a mode that only a statement waits for whose lock is as strong.

        So a statement that does not wait took no such lock, however short it was. Returns whether
        the tables could be locked: it is tried, and nobody else is in the way for long.
        """
        tables = [row[0] for row in await rows_of(self._connection, _TABLES)]
        if not tables or len(tables) > MOST_GATED:
            return False
        await run(self._connection, "BEGIN")
        try:
            await run(self._connection, f"SET LOCAL lock_timeout = '{GATE_MS}ms'")
            lock = f"LOCK TABLE ONLY {', ONLY '.join(tables)} IN SHARE UPDATE EXCLUSIVE MODE"
            await run(self._connection, lock)
        except SQLAlchemyError:  # of somebody else, or an autovacuum is at work
            await run(self._connection, "ROLLBACK")
            return False
        return True

    def advice(self, kind: str, statement: StatementMeasured) -> str:
        return advice(kind, statement)
