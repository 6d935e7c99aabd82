"""The claims of replicas, in a schema of ours of the control database; leases on its clock."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import URL, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from automigrator.backends.model_engine import engine_like
from automigrator.backends.pools import emptied
from automigrator.errors import ConfigurationError, ExecutorError
from automigrator.support import urls
from automigrator.support.backoff import Backoff, Deadline
from automigrator.support.loggers import logger_of
from automigrator.support.redaction import said

logger = logger_of("automigrator.fleet")

T = TypeVar("T")

SCHEMA = "automigrator"

_TRIES = 3
"""How often an act is tried at least, however long that takes."""

_LOCK = int.from_bytes(b"amclaims", signed=True)
"""The advisory key under which replicas join and leave."""

_TRUSTED = """
    (select oid from pg_roles where rolsuper or rolname = current_user
     union select datdba from pg_database where datname = current_database())
"""
"""Whose schema and tables are ours: this role's, the database's owner's, a superuser's."""

_FOREIGN = f"""
    select '{SCHEMA}', pg_get_userbyid(nspowner)::text from pg_namespace
    where nspname = '{SCHEMA}' and nspowner not in {_TRUSTED}
    union all
    select '{SCHEMA}.' || relname, pg_get_userbyid(relowner)::text from pg_class
    where relnamespace = (select oid from pg_namespace where nspname = '{SCHEMA}')
      and relname in ('fleet_replicas', 'fleet_claims') and relowner not in {_TRUSTED}
"""

_IS_THERE = f"""
    select exists (select from pg_namespace where nspname = '{SCHEMA}'),
           to_regclass('{SCHEMA}.fleet_replicas') is not null
           and to_regclass('{SCHEMA}.fleet_claims') is not null
"""

_TABLES = (
    f"""
    create table if not exists {SCHEMA}.fleet_replicas (
        replica uuid primary key, round uuid not null, key text not null,
        until timestamptz not null)
    """,
    f"""
    create table if not exists {SCHEMA}.fleet_claims (
        round uuid, tenant text, replica uuid not null, report text, primary key (round, tenant))
    """,
)

_TIDY = (
    f"delete from {SCHEMA}.fleet_replicas where until < clock_timestamp()",
    f"""
    delete from {SCHEMA}.fleet_claims
    where round not in (select round from {SCHEMA}.fleet_replicas)
    """,
)

_RENEW = f"""
    insert into {SCHEMA}.fleet_replicas (replica, round, key, until)
    values (:replica, :round, :key, clock_timestamp() + make_interval(secs => :lease))
    on conflict (replica) do update set until = excluded.until
"""

_LIVES = f"""
    exists (select from {SCHEMA}.fleet_replicas r
            where r.replica = c.replica and r.until > clock_timestamp())
"""

_CLAIM = f"""
    with fresh as (
        insert into {SCHEMA}.fleet_claims (round, tenant, replica)
        values (:round, :tenant, :replica) on conflict do nothing returning tenant),
    lost as (
        select c.tenant from {SCHEMA}.fleet_claims c
        where c.round = :round and c.tenant = :tenant and c.report is null
          and (c.replica = :replica or not {_LIVES})
        for update of c skip locked),
    taken as (
        update {SCHEMA}.fleet_claims c set replica = :replica from lost
        where c.round = :round and c.tenant = lost.tenant returning c.tenant)
    select tenant from fresh union all select tenant from taken
"""

_FINISH = f"""
    update {SCHEMA}.fleet_claims set report = :report
    where round = :round and tenant = :tenant and replica = :replica and report is null
    returning tenant
"""

_LOOK = f"""
    select o.tenant, c.report
    from unnest(cast(:tenants as text[])) as o(tenant)
    left join {SCHEMA}.fleet_claims c on c.round = :round and c.tenant = o.tenant
    where c.report is not null or not {_LIVES}
"""


class ClaimTable:
    """The tables of rounds, on PostgreSQL; every act is one short transaction, tried again.

    `control`: where they are. `lease_s`: how long a replica that does not renew is taken for
    alive, and how long the database may be out of reach. Raises ConfigurationError.
    """

    def __init__(self, control: str | URL | AsyncEngine, lease_s: float) -> None:
        self._control = control if isinstance(control, AsyncEngine) else urls.parse(control)
        url = control.url if isinstance(control, AsyncEngine) else self._control
        assert isinstance(url, URL)
        if url.get_backend_name() != "postgresql":
            raise ConfigurationError(
                f"claims need a control database on PostgreSQL, and {url.get_backend_name()} was "
                "given; nothing was changed. Name one that every replica reaches; on one machine "
                "the executor `processes` needs no control database"
            )
        self._secrets = tuple(urls.secrets_of(url))
        self.lease_s = lease_s
        self._engine: AsyncEngine | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Context manager: connections of our own to the control database, two at most."""
        if isinstance(self._control, AsyncEngine):
            self._engine = engine_like(self._control)
        else:
            url = urls.with_async_driver(self._control)
            arguments = urls.connect_args(self._control, url.drivername)
            self._engine = create_async_engine(
                url, connect_args=arguments, pool_size=2, max_overflow=0, pool_pre_ping=True
            )
        try:
            yield
        finally:
            await emptied(self._engine, 10)

    async def join(self, key: str, replica: str) -> str:
        """Join the round of `key` that is under way, or begin one; return its name."""

        async def joined(connection: AsyncConnection) -> str:
            await _prepare(connection)
            for tidy in _TIDY:
                await connection.execute(text(tidy))
            query = f"select round::text from {SCHEMA}.fleet_replicas where key = :key limit 1"
            found = (await connection.execute(text(query), {"key": key})).scalar()
            name = str(found or uuid.uuid4())
            values = {"key": key, "round": name, "replica": replica, "lease": self.lease_s}
            await connection.execute(text(_RENEW), values)
            return name

        return await self._tried(joined)

    async def renew(self, round: str, key: str, replica: str) -> None:
        """Renew the lease, or take one again."""
        await self._rows(_RENEW, key=key, round=round, replica=replica, lease=self.lease_s)

    async def claim(self, round: str, tenant: str, replica: str) -> bool:
        """Claim a tenant that nobody has, or only a replica that is lost."""
        return bool(await self._rows(_CLAIM, round=round, tenant=tenant, replica=replica))

    async def finish(self, round: str, tenant: str, replica: str, report: str) -> bool:
        """Leave the report of a tenant; False where another replica has claimed it meanwhile."""
        values = {"round": round, "tenant": tenant, "replica": replica, "report": report}
        return bool(await self._rows(_FINISH, **values))

    async def look(
        self, round: str, tenants: Sequence[str]
    ) -> tuple[list[tuple[str, str]], list[str]]:
        """Of `tenants`, those that are reported, with their reports, and those that are free."""
        rows = await self._rows(_LOOK, round=round, tenants=list(tenants)) if tenants else []
        reports = [(tenant, report) for tenant, report in rows if report is not None]
        return reports, [tenant for tenant, report in rows if report is None]

    async def leave(self, round: str, replica: str) -> None:
        """Give up the lease; the last one to leave a round deletes its claims."""

        async def left(connection: AsyncConnection) -> None:
            await _lock(connection)
            query = f"delete from {SCHEMA}.fleet_replicas where replica = :replica"
            await connection.execute(text(query), {"replica": replica})
            for tidy in _TIDY:
                await connection.execute(text(tidy))

        await self._tried(left)

    async def _rows(self, sql: str, **values: Any) -> Sequence[Any]:
        async def read(connection: AsyncConnection) -> Sequence[Any]:
            result = await connection.execute(text(sql), values)
            return result.all() if result.returns_rows else ()

        return await self._tried(read)

    async def _tried(self, act: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Do an act in a transaction, again where the database is out of reach for a while."""
        assert self._engine is not None
        limit, pauses = Deadline(self.lease_s), Backoff(0.1, self.lease_s / 4)
        for tries in itertools.count(1):  # a process that was frozen finds its time over
            try:
                async with asyncio.timeout(self.lease_s / 3), self._engine.begin() as connection:
                    await connection.execute(_PATH)
                    return await act(connection)
            except (SQLAlchemyError, OSError) as error:
                why = said(error, self._secrets)
                if (limit.is_over() and tries >= _TRIES) or not _passes(error):
                    raise ExecutorError(
                        "the control database cannot be used: "
                        f"{why}. Tenants that were reported are done; what "
                        "this replica had begun was stopped, and other replicas take it over. "
                        "Make the database reachable for this role, and run the fleet again"
                    ) from error
                logger.warning("the control database: %s; it is tried again", why)
            await pauses.sleep()
        raise AssertionError("it was tried for ever")


def _passes(error: Exception) -> bool:
    """Whether the same may succeed a little later: the server is out of reach, or busy."""
    if isinstance(error, OSError):
        return True
    state = str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")
    return getattr(error, "connection_invalidated", False) or state[:2] in _PASSING


_PASSING = ("08", "40", "53", "55", "57")
"""Classes of SQLSTATE: connection, rollback, resources, object in use, operator intervention."""

_PATH = text("select pg_catalog.set_config('search_path', 'pg_catalog', true)")


async def _lock(connection: AsyncConnection) -> None:
    await connection.execute(text(f"select pg_advisory_xact_lock({_LOCK})"))


async def _prepare(connection: AsyncConnection) -> None:
    """Make what is missing, and see whose it is, under the lock of joining.

    Raises ConfigurationError where it is not ours.
    """
    await _lock(connection)
    ((schema, tables),) = (await connection.execute(text(_IS_THERE))).all()
    if not schema:
        await connection.execute(text(f"create schema {SCHEMA}"))
    foreign = (await connection.execute(text(_FOREIGN))).all()
    if foreign:
        what, owner = foreign[0]
        raise ConfigurationError(
            f"{what} in the control database belongs to {owner}, who is neither this role, nor "
            "the database's owner, nor a superuser, and could make up reports; nothing was "
            "changed. Drop it, or connect as its owner"
        )
    if not tables:
        for table in _TABLES:
            await connection.execute(text(table))
