"""A ledger's durable store: tables of ours in a database that is no tenant's."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Hashable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from sqlalchemy import bindparam, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.access import Access
from automigrator.backends.contract.backend import Backend
from automigrator.backends.contract.values import Place
from automigrator.backends.registry import backend_for
from automigrator.errors import ConfigurationError, RefusedError
from automigrator.fleet.ledger import Before, Row
from automigrator.support.backoff import Backoff
from automigrator.support.concurrency import in_thread
from automigrator.support.owned_files import Owners
from automigrator.support.redaction import hide_secrets
from automigrator.target import Database, Target, passwords_of

T = TypeVar("T")

TRIES = 6
"""How often a write is tried that other replicas' writes are in the way of."""

_MOST = 8000
"""Characters that are read of a row's text."""


def store_of(control: Database, fleet: str) -> Control:
    """The store in a control database, of the fleet of that name. Raises ConfigurationError."""
    # a Target wants a configuration, which nothing here reads
    target = Target(control, Path(__file__).parent, name="control", create=False)
    kinds = {"postgresql": OnServer, "sqlite": InFile}
    kind = kinds.get(target.application_url.get_backend_name())
    if kind is None:
        raise ConfigurationError(
            f"control= is {target.url}, and should be PostgreSQL or a SQLite file"
        )
    return kind(target, fleet)


class Control(ABC):
    """Rows in two tables; see `Store`."""

    durable = True
    kind: ClassVar[str]
    """SQLAlchemy's name of the dialect."""
    prefix = ""

    def __init__(self, target: Target, fleet: str) -> None:
        self.target, self.fleet, self.where = target, fleet, target.url
        self._backend: Backend = backend_for(Access(target))
        self._turn = asyncio.Lock()

    @abstractmethod
    async def open(self, first: Before) -> None:
        """See `Store`."""

    @abstractmethod
    async def identity(self) -> Hashable:
        """Which database it is, for `is_same`."""

    async def rows(self) -> Sequence[Row]:
        found = await self._asked(
            f"select tenant, plan, state, at, substr(told, 1, {_MOST}) "
            f"from {self.prefix}fleet_tenant where fleet = :fleet and length(tenant) < 1000"
        )
        return [tuple(each) for each in found]

    async def write(self, rows: Sequence[Row]) -> None:
        names = ("tenant", "plan", "state", "at", "told")
        values = [dict(zip(names, row, strict=True)) | {"fleet": self.fleet} for row in rows]
        statement = text(
            f"insert into {self.prefix}fleet_tenant (fleet, tenant, plan, state, at, told) "
            "values (:fleet, :tenant, :plan, :state, :at, :told) "
            "on conflict (fleet, tenant, plan) do update set "
            "state = excluded.state, at = excluded.at, told = excluded.told"
        )

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(statement, values)

        await self._transacted(work)

    async def forget(self, tenant: str, state: str) -> bool:
        async def work(connection: AsyncConnection) -> bool:
            sql = (
                f"delete from {self.prefix}fleet_tenant "
                "where fleet = :fleet and tenant = :tenant and state = :state"
            )
            told = {"fleet": self.fleet, "tenant": tenant, "state": state}
            return bool((await connection.execute(text(sql), told)).rowcount)

        return await self._transacted(work)

    async def paused(self) -> bool:
        sql = f"select paused from {self.prefix}fleet_state where fleet = :fleet"
        return any(row[0] == 1 for row in await self._asked(sql))

    async def pause(self, paused: bool) -> None:
        async def work(connection: AsyncConnection) -> None:
            sql = (
                f"insert into {self.prefix}fleet_state (fleet, paused) values (:fleet, :paused) "
                "on conflict (fleet) do update set paused = excluded.paused"
            )
            await connection.execute(text(sql), {"fleet": self.fleet, "paused": int(paused)})

        await self._transacted(work)

    async def prune(self, plans: Collection[str], before: float) -> None:
        async def work(connection: AsyncConnection) -> None:
            sql = (
                f"delete from {self.prefix}fleet_tenant "
                "where fleet = :fleet and at < :before and plan not in :plans"
            )
            told = {"fleet": self.fleet, "before": before, "plans": list(plans)}
            statement = text(sql).bindparams(bindparam("plans", expanding=True))
            await connection.execute(statement, told)

        await self._transacted(work)

    @asynccontextmanager
    async def sharing(self) -> AsyncIterator[None]:
        async with self._backend.access.sharing():
            yield

    async def _asked(self, sql: str) -> Sequence[Any]:
        told = {"fleet": self.fleet} if ":fleet" in sql else {}
        async with self._connection() as connection:
            return (await connection.execute(text(sql), told)).all()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        """Context manager: the one connection, in AUTOCOMMIT; errors tell no secret."""
        try:
            async with self._turn, self._backend.access.shared() as connection:
                yield connection
        except BaseException as error:
            hide_secrets(error, passwords_of(self.target))
            raise

    async def _transacted(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Do the work in one transaction; again, where another replica's was in its way."""
        pauses = Backoff(0.02, 1.0)
        for left in range(TRIES - 1, -1, -1):
            try:
                async with self._connection() as connection:
                    await connection.execute(text(self.begin))
                    try:
                        done = await work(connection)
                        await connection.execute(text("COMMIT"))
                    except BaseException:
                        await connection.invalidate()
                        raise
                    return done
            except DBAPIError as error:
                if not left or not self.passes(error):
                    raise
            await pauses.sleep()
        raise AssertionError

    begin = "BEGIN"

    @abstractmethod
    def passes(self, error: DBAPIError) -> bool:
        """Whether the next try may succeed."""


class OnServer(Control):
    """In a schema of ours on PostgreSQL, which counts by its owner."""

    kind, prefix = "postgresql", "automigrator."

    _WHOSE = """
        with trusted as (select r.oid from pg_roles r
            where r.rolsuper or r.rolname = current_user
                  or r.oid = (select datdba from pg_database where datname = current_database()))
        select what, pg_get_userbyid(owner)::text, owner in (select oid from trusted) from (
            select 'schema automigrator', nspowner from pg_namespace where nspname = 'automigrator'
            union all
            select 'relation automigrator.' || relname, relowner from pg_class
            where relname in ('fleet_tenant', 'fleet_state')
                  and relnamespace = (select oid from pg_namespace where nspname = 'automigrator')
        ) as found (what, owner)
    """

    async def open(self, first: Before) -> None:
        pauses = Backoff(0.02, 1.0)
        for left in range(TRIES - 1, -1, -1):
            found = await self._asked(self._WHOSE)
            for what, owner, trusted in found:
                if not trusted:
                    raise RefusedError(
                        f"{what} in {self.where} belongs to role {owner!r}, which is not trusted "
                        "with that database: the fleet's ledger is not read from there, and "
                        "nothing was changed. Drop it, or give it to the database's owner"
                    )
            if len(found) == 3:
                return
            await first()
            try:
                await self._transacted(self._make)
            except DBAPIError:  # another replica makes it at the same moment
                if not left:
                    raise
                await pauses.sleep()

    async def _make(self, connection: AsyncConnection) -> None:
        for each in ("create schema if not exists automigrator", *_tables(self.prefix)):
            await connection.execute(text(each))

    async def identity(self) -> Hashable:
        return await _identity(self._backend)

    def passes(self, error: DBAPIError) -> bool:
        # a deadlock, a conflict of transactions, a table made at the same moment
        return getattr(error.orig, "sqlstate", None) in ("40P01", "40001", "23505", "42P07")


class InFile(Control):
    """In a SQLite file of the owner of its folder."""

    kind, begin = "sqlite", "BEGIN IMMEDIATE"

    async def open(self, first: Before) -> None:
        if not await in_thread(self._is_there):
            await first()
        await in_thread(self._ensure_ours)
        await self._transacted(self._make)

    def _is_there(self) -> bool:
        return self._path.is_file() and self._path.stat().st_size > 0

    def _ensure_ours(self) -> None:
        path = self._path
        owners = Owners.of_folder(path.resolve().parent)
        if not os.path.lexists(path):
            try:
                os.close(owners.create(path))
            except RefusedError:  # another replica has made it just now
                if not path.exists():
                    raise
        if not owners.owns(path):
            raise owners.refusal(path)

    @property
    def _path(self) -> Path:
        database = self.target.application_url.database
        if not database or database.startswith((":", "file:")):
            raise ConfigurationError(
                f"control= is {self.target.url}, and should name a SQLite file by its path"
            )
        return Path(database)

    async def _make(self, connection: AsyncConnection) -> None:
        for each in _tables(""):
            await connection.execute(text(each))

    async def identity(self) -> Hashable:
        return await in_thread(partial(_file, self.target))

    def passes(self, error: DBAPIError) -> bool:
        return getattr(error.orig, "sqlite_errorname", "").startswith("SQLITE_BUSY")


def _tables(prefix: str) -> tuple[str, str]:
    return (
        f"create table if not exists {prefix}fleet_tenant (fleet text not null, "
        "tenant text not null, plan text not null, state text not null, "
        "at double precision not null, told text not null, primary key (fleet, tenant, plan))",
        f"create table if not exists {prefix}fleet_state (fleet text primary key, "
        "paused integer not null)",
    )


async def identity_of(target: Target) -> Hashable:
    """Which database a target is, observed; equal to that of a control database only if it is."""
    if target.application_url.get_backend_name() == "sqlite":
        return await in_thread(partial(_file, target))
    return await _identity(backend_for(Access(target), target.maintenance_database))


async def _identity(backend: Backend) -> Hashable:
    engine = backend.engine()
    try:
        return await backend.identity(Place(engine, backend.access.url, backend.in_place))
    finally:
        await backend.release(engine)


def _file(target: Target) -> Hashable:
    try:
        found = os.stat((target.application_url.database or "").removeprefix("file:"))
    except OSError:
        return None
    return found.st_dev, found.st_ino
