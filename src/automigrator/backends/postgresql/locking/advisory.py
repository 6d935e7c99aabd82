"""Advisory keys of a PostgreSQL server: which are a target's, and how one is tried for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql.names import OURS
from automigrator.backends.postgresql.sql import rows_of

PROTOCOL = "automigrator migration lock 1"
"""Not a version of the library: two releases meet in a rolling deployment."""

LEASE_S = 300.0
"""Seconds after which the server ends the session of a leader that is silent, frozen say."""


def keys(database: str, tables: Sequence[VersionTable]) -> list[int]:
    """Return the advisory keys of a target, in the order in which every process takes them."""
    return sorted({key_of(database, table.schema or "public", table.name) for table in tables})


def key_of(*of: str) -> int:
    """Return an advisory key; the leaders of all targets in a database share that of its name."""
    digest = hashlib.blake2b("\0".join((PROTOCOL, *of)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


async def only_leader(admin: AsyncConnection, live: str, names: Iterable[str]) -> bool:
    """Whether no other target in the database `live` of these names has its lock held by us."""
    query = f"""
        select count(*) = 0 from {_HOLDERS} and l.pid <> pg_backend_pid()
        and exists (select from pg_stat_activity a where a.pid = l.pid and a.usesysid in {OURS})
    """
    found = [await rows_of(admin, query, key=key_of(name), live=live) for name in names]
    return all(alone for ((alone,),) in found)


@dataclass(slots=True, eq=False, repr=False)
class Turns:
    """Tries for keys that others may hold in another database: advisory locks are per database.

    A process that reaches another maintenance database, or none, takes the same key there. Each
    takes its key first and looks then, so of two processes at least one sees the other. The one
    that sees a holder in a database with a lower oid gives way, so that one of them gets on.
    """

    admin: AsyncConnection
    key: int | None = None
    """The key that is held here, while somebody elsewhere still has to let go of it."""
    _suffix: str = ""

    async def mine(self, key: int, *, shared: bool = False) -> bool:
        """Try for a key; a `shared` one keeps out only those that want it for themselves."""
        if self.key != key:
            lease, suffix = f"{LEASE_S * 1000:.0f}", "_shared" if shared else ""
            take = _TAKE.format(suffix=suffix)
            ((taken, _, found),) = await rows_of(self.admin, take, key=key, lease=lease)
            if not taken:
                return False
            self.key, self._suffix = key, suffix
        else:
            ((found,),) = await rows_of(self.admin, _ELSEWHERE, key=key)
        if found == "lower":
            await self.let_go()
        return not found

    async def let_go(self) -> None:
        if self.key is not None:
            query = f"select pg_advisory_unlock{self._suffix}(cast(:key as bigint))"
            await rows_of(self.admin, query, key=self.key)
            self.key = None


_HOLDERS = """
    pg_locks l join pg_database d on d.datname = current_database()
    where l.locktype = 'advisory' and l.granted and l.objsubid = 1
      and (l.classid::bigint << 32 | l.objid::bigint) = cast(:key as bigint)
"""

# text: asyncpg must ask the server about each other type of an array, by four round trips
_ELSEWHERE = f"""
    select case when count(*) = 0 then '' when bool_or(l.database < d.oid) then 'lower'
           else 'higher' end
    from {_HOLDERS} and l.database <> d.oid
"""


# the lease comes with the key: a process frozen right then must lose it, too; CASE: those who
# hold it elsewhere are looked for when it is held here
_TAKE = f"""
    with lock as materialized (select pg_try_advisory_lock{{suffix}}(cast(:key as bigint)) as taken)
    select taken, case when taken then (
        select count(set_config(name, :lease, false)) from pg_settings
        where name = 'idle_session_timeout'  -- from PostgreSQL 14 on
    ) end, case when taken then ({_ELSEWHERE}) end
    from lock
"""


async def holder(connection: AsyncConnection, key: int) -> str | None:
    """Describe the session that holds a key in any database of the server; None without one."""
    rows = await rows_of(
        connection,
        f"""
        select 'PostgreSQL session ' || h.pid || coalesce(' (' || nullif(concat_ws(', ',
                   'role ' || a.usename, nullif(a.application_name, ''),
                   'from ' || host(a.client_addr),
                   'since ' || to_char(a.backend_start at time zone 'UTC', 'HH24:MI:SS "UTC"')
               ), '') || ')', '')
        from (select l.pid from {_HOLDERS} and l.pid <> pg_backend_pid()) h
        left join pg_stat_activity a on a.pid = h.pid
        """,
        key=key,
    )
    return rows[0][0] if rows else None
