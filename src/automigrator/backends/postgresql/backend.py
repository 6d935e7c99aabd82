"""The backend of PostgreSQL: a database of a server."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import cached_property, partial

# what only an act needs is imported there: a start with nothing to do comes here, too
from typing import TYPE_CHECKING

from automigrator.backends.access import Access
from automigrator.backends.contract.backend import Backend
from automigrator.backends.contract.values import Place, Sight, Verdict, VersionTable
from automigrator.backends.pools import CLOSE_S, emptied
from automigrator.backends.postgresql.looks import Sights
from automigrator.backends.postgresql.names import TargetName
from automigrator.backends.postgresql.sql import OwnPath
from automigrator.support.concurrency import in_thread

if TYPE_CHECKING:
    from collections.abc import Hashable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import AsyncEngine

    from automigrator.backends.contract.backend import Waiting, Weaker
    from automigrator.backends.contract.checksums import Checksums
    from automigrator.backends.contract.meter import Meter, Relations, Usage
    from automigrator.backends.contract.sessions import Sessions
    from automigrator.backends.contract.snapshots import Snapshot
    from automigrator.backends.postgresql.copying.templates import ServerTemplates
    from automigrator.backends.postgresql.doctor import ServerExaminer
    from automigrator.backends.postgresql.hold import ServerHold
    from automigrator.backends.postgresql.maintenance import Maintenance


class PostgreSQL(Backend):
    """See `Backend`."""

    name = "postgresql"
    offers = frozenset({"snapshots", "sides", "examiner"})

    def __init__(self, access: Access, maintenance_database: str | None) -> None:
        super().__init__(access)
        access.settling = OwnPath(_alike(access) if access.common is not None else None)
        self.database = TargetName(access)
        self._maintenance_database = maintenance_database
        self._weaker: Weaker | None = None
        self._engines: weakref.WeakSet[AsyncEngine] = weakref.WeakSet()
        self._sights = Sights(access, self.database, lambda: self._maintenance.connection())

    @cached_property
    def sessions(self) -> Sessions:  # type: ignore[override]  # made when first asked for
        from automigrator.backends.postgresql.connections import ServerSessions

        return ServerSessions(lambda: self._sights.search_path)

    @cached_property
    def _maintenance(self) -> Maintenance:
        from automigrator.backends.postgresql.maintenance import Maintenance

        return Maintenance(self.access, self.database, self._maintenance_database)

    async def look(self, tables: Sequence[VersionTable], *, heads_only: bool = False) -> Sight:
        if heads_only:
            (table,) = tables
            return await self._sights.glimpse(table)
        await in_thread(_load)
        return await self._sights.look(tables, None)

    @property
    def together(self) -> Hashable:
        if self.access.alike is None:
            return None
        return self.access.alike, self.access.common_url.database

    async def heads_of(
        self, targets: Sequence[tuple[Backend, VersionTable]]
    ) -> list[tuple[str, ...] | None]:
        from automigrator.backends.postgresql import roster, watchdog

        asked = [
            roster.Asked(table, settling.path if isinstance(settling, OwnPath) else None)
            for settling, table in ((each.access.settling, table) for each, table in targets)
        ]
        limit = self.access.connect_timeout
        async with (
            watchdog.answering(limit, "the question for many heads"),
            self.access.shared() as connection,
        ):
            return await roster.heads_of(connection, asked)

    async def create(self) -> bool:
        from sqlalchemy.exc import DBAPIError

        from automigrator.backends import advice
        from automigrator.backends.postgresql import databases, errors, names, watchdog
        from automigrator.errors import JudgedError
        from automigrator.support.redaction import first_line

        name = self.database.own
        async with self._maintenance.connection(acting=True) as admin:
            if kept := await names.copies_of_missing(admin, name):
                raise advice.missing_beside_its_copies(
                    f"database {name!r}",
                    [f"{copy} (of role {owner!r})" for copy, owner in kept],
                    f'ALTER DATABASE "{kept[-1][0]}" RENAME TO "{name}", or rename another of '
                    "them, if you trust its owner",
                    f'make it yourself: CREATE DATABASE "{name}"',
                )
            limit = max(watchdog.SILENT_S, self.access.connect_timeout)
            what = f"CREATE DATABASE {name!r}"
            try:
                async with watchdog.answering(limit, what):
                    return await databases.create(admin, name)
            except DBAPIError as error:
                if errors.code_of(error) != errors.NO_PRIVILEGE:
                    if hint := await databases.why_no_template(admin, "template1"):
                        raise JudgedError("unreachable", first_line(error), hint) from error
                    raise
                raise errors.ServerError(
                    "auth",
                    f"this role may not create database {name!r}; nothing was changed. "
                    "Create it by hand, give the role CREATEDB, or name a role that has it with "
                    "Target(migrate_with=...)",
                ) from error

    def engine(self) -> AsyncEngine:
        engine = self.access.engine()
        self._engines.add(engine)
        return engine

    def url_for(self, url: URL, drivername: str, own: URL | None = None) -> URL:
        from automigrator.support.postgresql_urls import translated

        return translated(url, drivername, own)

    async def proving(self) -> Weaker:
        from automigrator.backends.postgresql import proof

        if self._weaker is None:
            given = self.access.given_engine
            driver = given.dialect.driver if given else self.access.url.get_dialect().driver
            application = proof.proof_of(await self.access.arguments(), driver)
            self._weaker = partial(proof.weaker, application)
        return self._weaker

    async def identity(self, place: Place) -> Hashable:
        if place.url != self.access.url:
            return await super().identity(place)
        if self._sights.identity is not None:
            return self._sights.identity
        async with self.access.shared() as connection:
            return await connection.run_sync(self.sessions.identity)

    def lock(
        self, tables: Sequence[VersionTable], timeout_s: float, waiting: Waiting
    ) -> AbstractAsyncContextManager[ServerHold]:
        from automigrator.backends.postgresql.hold import ServerHold
        from automigrator.backends.postgresql.locking import lock

        make = partial(
            ServerHold,
            sights=self._sights,
            maintenance=self._maintenance,
            empty_pools=self._empty_pools,
        )
        return lock.lock(make, self._maintenance, self._sights, tables, timeout_s, waiting)

    def classify(self, error: BaseException) -> Verdict:
        from automigrator.backends.postgresql import errors

        return errors.classify(error)

    async def checksums(self, tables: Sequence[VersionTable]) -> Checksums | None:
        from automigrator.backends.contract import checksums
        from automigrator.backends.postgresql import notes
        from automigrator.backends.postgresql.locking import advisory

        key, *_ = advisory.keys(await self.database.asked(), tables)
        return checksums.loaded(await notes.read_note(self.access, "checksums", key))

    async def debris(self) -> tuple[str, ...]:
        from automigrator.backends.postgresql import doctor, watchdog

        limit = self.access.connect_timeout
        async with (
            watchdog.answering(limit, "the search for invalid indexes"),
            self.access.shared() as connection,
        ):
            return await doctor.failed_builds(connection)

    async def snapshots(
        self, tables: Sequence[VersionTable], folders: Sequence[Path] = ()
    ) -> tuple[Snapshot, ...]:
        from automigrator.backends.postgresql.copying.kept_copies import snapshots_of

        return await snapshots_of(self._maintenance, tables, folders)

    def examiner(self, tables: Sequence[VersionTable]) -> ServerExaminer:
        from automigrator.backends.postgresql.doctor import ServerExaminer

        return ServerExaminer(self._maintenance, tables)

    def templates(self) -> ServerTemplates:
        from automigrator.backends.postgresql.copying.templates import ServerTemplates

        return ServerTemplates(self._maintenance)

    def metering(self, place: Place) -> AbstractAsyncContextManager[Meter | None]:
        from automigrator.backends.postgresql.meters.meter import metering

        return metering(self.access, place.url.database)

    async def usage(self, tables: Relations = None) -> Usage | None:
        from automigrator.backends.postgresql.meters.usage import usage

        async with self.access.shared() as connection:
            return await usage(connection, tables)

    async def refresh(self) -> None:
        """Plans that asyncpg has prepared fail once a connection after a migration."""
        if self.access.application is not None:
            await emptied(self.access.application, CLOSE_S)

    async def _empty_pools(self) -> None:
        """Close idle sessions of ours and of the application's, which would be in our way."""
        await self.access.let_go()
        for engine in list(self._engines):
            await emptied(engine)
        await self.refresh()


def _alike(access: Access) -> str | None:
    """See to it that connections are shared with targets that connect alike, to any database.

    Returns the search path that is this target's own, and left out there; None where it has none.
    """
    if access.given_engine is not None:
        access.alike = access.given_engine
        return None
    from automigrator.support.postgresql_urls import apart_from_path

    access.common_url, path = apart_from_path(access.url)
    server = access.common_url.set(database="")
    access.alike = server.render_as_string(hide_password=False), path is not None
    return path


def _load() -> None:
    """Import the rest while it can be read: a failure may be that no file can be opened."""
    from automigrator.backends.postgresql import databases, doctor, hold, watchdog  # noqa: F401
    from automigrator.backends.postgresql.locking import lock  # noqa: F401
