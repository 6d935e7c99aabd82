"""Looks at a target: on a connection of our own, or on an idle one of the application's."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.access import Access, idle_connection
from automigrator.backends.contract.values import Sight, VersionTable
from automigrator.backends.postgresql import reader
from automigrator.backends.postgresql.names import among
from automigrator.errors import NoAnswerError
from automigrator.support.concurrency import within

if TYPE_CHECKING:
    from automigrator.backends.postgresql.lock_session import SessionHold

_places: weakref.WeakKeyDictionary[Engine, dict[VersionTable, str]] = weakref.WeakKeyDictionary()

"""The schemas in which version tables were found, for each engine of the application."""

_LOOK_PAUSES_S = (0.05, 0.25, 1.0)


class Sights:
    """Looks at one target, and the search path that the last one found."""

    def __init__(
        self,
        access: Access,
        database: str,
        admin: Callable[[], AbstractAsyncContextManager[AsyncConnection]],
    ) -> None:
        self.access, self.database, self._admin = access, database, admin
        self.search_path: tuple[str, ...] | None = None

    async def look(self, tables: Sequence[VersionTable], held: SessionHold | None) -> Sight:
        """See `Backend`; where the lock is held, it must be of the server that is looked at."""
        limit = self.access.connect_timeout
        silent = NoAnswerError(f"no answer from the database within {limit:g} s")
        async with within(limit, lambda: silent):
            return await self._look(tables, held)

    async def _look(self, tables: Sequence[VersionTable], held: SessionHold | None) -> Sight:
        from automigrator.backends.postgresql.errors import NO_DATABASE, code_of, with_code

        for pause in (*_LOOK_PAUSES_S, None):
            try:
                async with self.access.shared(reading=True) as connection:
                    view = await reader.look(connection, tables, reading=True)
                    if held is not None and view.server is not None and not held.lost:
                        held.rule(view.server)
                    self.search_path = view.search_path
                    return self._seen(view)
            except Exception as error:
                await with_code(error, self.access, self.database)
                if code_of(error) != NO_DATABASE:
                    raise
                if not await self._is_listed(error):
                    return Sight(False, dict.fromkeys(tables))
                if pause is None:
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def glimpse(self, table: VersionTable) -> Sight:
        """Look on an idle connection of the application's, once an own one has found the table.

        The idle one may look for tables elsewhere than a fresh one, so it is told the schema.
        """
        # half: the connection that lies idle may be the only one that is dead
        limit = min(reader.BUSY_S, self.access.connect_timeout / 2)
        async with asyncio.timeout(limit), self._idle(table) as (connection, schema):
            if connection is not None and schema is not None:
                view = await reader.glimpse(connection, schema, table.name)
            else:
                async with self.access.shared(reading=True) as own:
                    view = await reader.look(own, [table], heads_only=True, reading=True)
        return self._seen(view)

    @asynccontextmanager
    async def _idle(
        self, table: VersionTable
    ) -> AsyncIterator[tuple[AsyncConnection | None, str | None]]:
        application = self.access.application
        schema = None
        if application is not None and application is self.access.given_engine:
            schema = _places.get(application.sync_engine, {}).get(table)
        if application is None or schema is None:
            yield None, None
            return
        async with idle_connection(application) as connection:
            yield connection, schema

    def _seen(self, view: reader.View) -> Sight:
        unfinished = view.dump_open or bool(among(view.opened, self.database))
        application = self.access.application
        if application is not None and application is self.access.given_engine:
            _places.setdefault(application.sync_engine, {}).update(view.schemas)
        return view.sight._replace(unfinished=unfinished)

    async def _is_listed(self, refused: Exception) -> bool:
        """Ask the catalog: during a swap a connection may be told that there is no database."""
        from automigrator.backends.postgresql import databases
        from automigrator.backends.postgresql.errors import ServerError

        async with AsyncExitStack() as stack:
            try:
                admin = await stack.enter_async_context(self._admin())
            except ServerError:
                raise refused from None
            return await databases.exists(admin, self.database)
