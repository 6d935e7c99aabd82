"""Connections of our own, made the way the application makes its own."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import URL, Dialect, NullPool, event
from sqlalchemy.exc import ArgumentError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import greenlet_spawn

from automigrator.backends.model_engine import arguments_of, connect_as_given, engine_like
from automigrator.backends.pools import CLOSE_S, emptied
from automigrator.errors import ConfigurationError, NoAnswerError
from automigrator.support import urls
from automigrator.support.concurrency import shielded, within
from automigrator.target import Target

if TYPE_CHECKING:
    from collections.abc import Hashable

    from automigrator.backends.common_connections import CommonConnections
    from automigrator.backends.shared_connection import SharedConnection

_KEPT: dict[str, Any] = {"pool_size": 1, "max_overflow": -1}
"""A pool that keeps one connection, and opens more where several are wanted at the same time."""

_COMMON: dict[str, Any] = {"pool_size": 0, "pool_use_lifo": True}
"""A pool that keeps as many connections as were wanted at the same time."""

_NO_SUCH_SETTING = "42704"
"""The SQLSTATE for a setting that a server does not know."""

_acquainted: weakref.WeakSet[Dialect] = weakref.WeakSet()

_Meetings = weakref.WeakKeyDictionary[Dialect, asyncio.Lock]

_meetings: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Meetings]

_meetings = weakref.WeakKeyDictionary()


class Settling(Protocol):
    """What a backend does to connections of our own, and never to one that an env.py is given."""

    def connected(self, connection: Any, record: Any) -> None:
        """Listen to the pool's event `connect`."""

    def used(
        self, connection: AsyncConnection, *, autocommit: bool, acting: bool
    ) -> AbstractAsyncContextManager[None]:
        """Context manager: one use of a connection."""


class Access:
    """How to reach one database server: the application's engine's creator, or a URL.

    Nothing that others might wait for is taken out of the application's pool. `application` is
    None when the target was given as a URL.
    """

    def __init__(self, target: Target) -> None:
        given = target.migrate_with or target.database
        assert not isinstance(given, str)
        self.application = target.database if isinstance(target.database, AsyncEngine) else None
        self.given_engine = given if isinstance(given, AsyncEngine) else None
        """The engine that is the model for migrations' connections, None for a URL."""
        # an AsyncEngine's driver is async, whatever its URL alone says (psycopg's is both)
        named = given.url if isinstance(given, AsyncEngine) else given
        self.url = urls.settled(named) if named is not given else urls.with_async_driver(named)
        self._connect_args = urls.connect_args(named, self.url.drivername)
        self.driver = named.drivername.partition("+")[2]
        """The driver's name in the URL as given; empty where the URL names none."""
        self.connect_timeout = target.connect_timeout
        self.check_room = target.check_room
        self.allow_links = target.allow_links
        """Whether a file may have several names."""
        self.opened: weakref.WeakSet[AsyncConnection] = weakref.WeakSet()
        """Connections of our own, those that are closed by now among them."""
        self.rewritten = self.url.drivername != target.application_url.drivername
        self.settling: Settling | None = None
        self.common: CommonConnections | None = None
        """Where connections are that other targets use as well; None where there are none."""
        self.alike: Hashable = None
        """Equal for targets whose `common` connections are made alike; None for such as are not."""
        self.common_url = self.url
        """By which those are made; what differs from target to target is left out."""
        self._one: bool | None = None
        self._sharing = False
        self._shared: dict[str | None, SharedConnection] = {}
        """By database, None for the target's."""

    async def arguments(self) -> Mapping[str, Any] | None:
        """Return the driver's arguments to connect now, listeners asked; one may be a password.

        None where a creator of the application's own makes the connections.
        """
        engine = self.given_engine or self._engine(self.url, poolclass=NullPool)
        return await greenlet_spawn(arguments_of, engine)

    async def leads_to_one(self) -> bool:
        """Whether a creator of the application's makes the connections: to the target alone."""
        if self._one is None:
            self._one = self.given_engine is not None and await self.arguments() is None
        return self._one

    def engine(
        self, database: str | None = None, *, prepared: bool = False, kept: bool = False
    ) -> AsyncEngine:
        """Make a new engine of our own to the target, or to another database of its server.

        What the application's listeners do to a connection, to register a function say, is done
        to another database's only when it is to be `prepared`. With `kept`, one connection stays
        in the engine's pool.
        """
        if self.given_engine is not None and database is None:
            return engine_like(self.given_engine)
        pool: dict[str, Any] = _KEPT if kept else {"poolclass": NullPool}
        return self._other(self.url, database, pool, prepared=prepared)

    def _other(
        self, url: URL, database: str | None, pool: dict[str, Any], *, prepared: bool = False
    ) -> AsyncEngine:
        given = self.given_engine
        made = self._engine(url.set(database=database), **pool)
        if given is not None:
            event.listen(made.sync_engine, "do_connect", partial(connect_as_given, given))
            if prepared:
                connect = given.sync_engine.pool.dispatch.connect
                event.listen(made.sync_engine, "connect", lambda *connected: connect(*connected))
        return made

    def _engine(self, url: URL, **options: Any) -> AsyncEngine:
        return create_async_engine(url, connect_args=self._connect_args, **options)

    @asynccontextmanager
    async def connection(
        self, database: str | None = None, *, autocommit: bool = False, acting: bool = False
    ) -> AsyncIterator[AsyncConnection]:
        """Context manager: a connection of our own, for this use alone; not for an env.py.

        `acting`: no statement may be in a transaction.
        """
        once = self._new(database)
        try:
            isolation = "AUTOCOMMIT" if autocommit else None
            async with self._connected(once, isolation, acting=acting) as connection:
                yield connection
        finally:
            await emptied(once.engine)

    def shared(
        self, database: str | None = None, *, reading: bool = False, acting: bool = False
    ) -> AbstractAsyncContextManager[AsyncConnection]:
        """Context manager: a connection that serves the next use as well, within `sharing`.

        Leave nothing set on it. It is in AUTOCOMMIT, or for `reading` in one transaction.
        """
        if not self._sharing:
            return self.connection(database, autocommit=not reading, acting=acting)
        shared = self._of(database)
        shared.freshen()
        isolation = "READ COMMITTED" if reading else "AUTOCOMMIT"
        return self._connected(shared, isolation, acting=acting)

    @asynccontextmanager
    async def sharing(self) -> AsyncIterator[None]:
        """Context manager: keep one `shared` connection a database; all are closed at the end."""
        self._sharing = True
        try:
            if self.common is None or self.alike is None:
                yield
            else:
                async with self.common.used(self._key(None)):
                    yield
        finally:
            if self._shared:
                await shielded(self.let_go())
            self._sharing = False
            self._shared.clear()

    async def let_go(self) -> None:
        """Close the `shared` connections that lie idle."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                common = () if self.common is None else self.common.of(self.alike)
                for shared in (*self._shared.values(), *common):
                    await emptied(shared.engine)

    def prove(self, age_s: float) -> None:
        """Note that a connection opened `age_s` seconds ago led to the server known before."""
        if self._sharing:
            self._of(None).prove(age_s)

    def _of(self, database: str | None) -> SharedConnection:
        if self.common is not None and self.alike is not None:
            key = self._key(database)
            return self.common.shared(key, lambda: self._in_common(database))
        if database not in self._shared:
            self._shared[database] = self._new(database, kept=True)
        return self._shared[database]

    def _key(self, database: str | None) -> tuple[Hashable, str | None]:
        return self.alike, database or self.common_url.database

    def _in_common(self, database: str | None) -> SharedConnection:
        # local: only many targets at once have any
        from automigrator.backends.shared_connection import SharedConnection

        if database is None and self.given_engine is not None:
            return self._settled(SharedConnection(self.given_engine, beside=True, most=0))
        return self._settled(SharedConnection(self._other(self.common_url, database, _COMMON)))

    def _new(self, database: str | None, *, kept: bool = False) -> SharedConnection:
        # local: a start with nothing to do on SQLite needs none
        from automigrator.backends.shared_connection import SharedConnection

        if database is None and self.given_engine is not None:
            return self._settled(SharedConnection(self.given_engine, beside=True))
        return self._settled(SharedConnection(self.engine(database, kept=kept)))

    def _settled(self, made: SharedConnection) -> SharedConnection:
        if self.settling is not None:  # first of all, and after what the application's engine does
            pool = made.engine.sync_engine.pool
            event.listen(pool, "connect", self.settling.connected, insert=True)
        return made

    @asynccontextmanager
    async def _connected(
        self, shared: SharedConnection, isolation: str | None, *, acting: bool
    ) -> AsyncIterator[AsyncConnection]:
        engine = shared.isolated(isolation)
        async with AsyncExitStack() as stack:
            async with self._turn():
                making = connected(engine, self.connect_timeout)
                connection = await stack.enter_async_context(making)
            self.opened.add(connection)
            if self.settling is not None:
                autocommit = isolation == "AUTOCOMMIT"
                use = self.settling.used(connection, autocommit=autocommit, acting=acting)
                await stack.enter_async_context(use)
            yield connection

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Context manager: connect one at a time while the application's dialect is new.

        A dialect asks the server once, and connections of the same pool wait for that. One of
        another pool would go on with a dialect that does not know the server yet.
        """
        dialect = self.given_engine.dialect if self.given_engine is not None else None
        if dialect is None or dialect in _acquainted:
            yield
            return
        meetings = _meetings.setdefault(asyncio.get_running_loop(), weakref.WeakKeyDictionary())
        async with meetings.setdefault(dialect, asyncio.Lock()):
            yield
        _acquainted.add(dialect)


@asynccontextmanager
async def connected(engine: AsyncEngine, limit_s: float) -> AsyncIterator[AsyncConnection]:
    """Context manager: a connection of an engine. Raises NoAnswerError where none comes in time.

    Raises ConfigurationError where the driver does not take what it is given to connect with.
    """
    silent = NoAnswerError(
        f"no answer from the database server within {limit_s:g} s to a new connection"
    )
    async with AsyncExitStack() as stack:
        async with within(limit_s, lambda: silent):
            try:
                connection = await stack.enter_async_context(engine.connect())
            except (TypeError, ArgumentError, ProgrammingError) as error:
                raise _not_taken(error, engine) from error
        yield connection


def _not_taken(error: Exception, engine: AsyncEngine) -> Exception:
    """What to raise for an error while connecting that no server gave as its reason."""
    origin = getattr(error, "orig", None) or error
    if getattr(origin, "sqlstate", None) not in (None, _NO_SUCH_SETTING):
        return error
    refusal = ConfigurationError(
        f"the driver {engine.dialect.driver} cannot connect with what it is given: "
        f"{type(origin).__name__}: {str(origin).strip()}; nothing was changed"
    )
    refusal.advice = "correct the options of the target's URL, or its engine's connect_args"
    return refusal


@asynccontextmanager
async def idle_connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection | None]:
    """Context manager: an idle connection of an engine's pool; None when there is none."""
    idle = getattr(engine.sync_engine.pool, "checkedin", lambda: 0)
    if idle() == 0:
        yield None
        return
    async with engine.connect() as connection:
        yield connection
