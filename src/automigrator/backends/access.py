"""Connections of our own, made the way the application makes its own."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from sqlalchemy import Dialect, Engine, NullPool, Pool, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import greenlet_spawn

from automigrator.errors import NoAnswerError
from automigrator.support import urls
from automigrator.target import Target

_acquainted: weakref.WeakSet[Dialect] = weakref.WeakSet()

_Meetings = weakref.WeakKeyDictionary[Dialect, asyncio.Lock]

_meetings: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Meetings]

_meetings = weakref.WeakKeyDictionary()


class _Recipe(Exception):
    """Carries the final connect arguments out of the application's own creator."""

    def __init__(self, cargs: list[Any], cparams: dict[str, Any]) -> None:
        super().__init__()
        self.cargs = cargs
        self.cparams = cparams


class Access:
    """How to reach one database server: the application's engine's creator, or a URL.

    Nothing that others might wait for is taken out of the application's pool. `application` is
    None when the target was given as a URL.
    """

    def __init__(self, target: Target) -> None:
        given = target.migrate_with or target.database
        assert not isinstance(given, str)
        self.application = target.database if isinstance(target.database, AsyncEngine) else None
        self._engine = given if isinstance(given, AsyncEngine) else None
        # an AsyncEngine's driver is async, whatever its URL alone says (psycopg's is both)
        self.url = given.url if isinstance(given, AsyncEngine) else urls.with_async_driver(given)
        named = given.url if isinstance(given, AsyncEngine) else given
        self.driver = named.drivername.partition("+")[2]
        """The driver's name in the URL as given; empty where the URL names none."""
        self.connect_timeout = target.connect_timeout
        self.opened: weakref.WeakSet[AsyncConnection] = weakref.WeakSet()
        """Connections of our own, those that are closed by now among them."""
        self.rewritten = self.url.drivername != target.application_url.drivername

    @property
    def given_engine(self) -> AsyncEngine | None:
        """The engine that migrations connect like, None for a URL."""
        return self._engine

    async def arguments(self) -> Mapping[str, Any] | None:
        """What the driver is given to connect now, listeners asked; it may hold a password.

        None where a creator of the application's own makes the connections.
        """
        engine = self._engine or create_async_engine(self.url, poolclass=NullPool)
        recipe = await greenlet_spawn(_recipe_of, engine)
        if recipe is None:
            return None
        words = {"conninfo": recipe.cargs[0]} if recipe.cargs and recipe.cargs[0] else {}
        return {**words, **recipe.cparams}

    def engine(self, database: str | None = None, *, prepared: bool = False) -> AsyncEngine:
        """A new engine of our own to the target, or to another database of its server.

        What the application's listeners do to a connection, to register a function say, is done
        to another database's only when it is to be `prepared`.
        """
        if self._engine is None:
            url = self.url if database is None else self.url.set(database=database)
            return create_async_engine(url, poolclass=NullPool)
        if database is None:
            # recreate() is a fresh, empty pool with the same creator, arguments and listeners
            return create_async_engine(self.url, pool=self._engine.sync_engine.pool.recreate())
        other = self._elsewhere(self._engine, database)
        if prepared:
            connect = self._engine.sync_engine.pool.dispatch.connect
            event.listen(other.sync_engine, "connect", lambda *connected: connect(*connected))
        return other

    def _twin(self) -> AsyncEngine:
        """The application's engine with an empty pool: a new dialect would ask the server anew.

        An env.py may change the dialect of its connection, and never gets this one.
        """
        assert self._engine is not None
        sync = self._engine.sync_engine
        return AsyncEngine(Engine(sync.pool.recreate(), sync.dialect, sync.url))

    def _elsewhere(self, engine: AsyncEngine, database: str) -> AsyncEngine:
        other = create_async_engine(self.url.set(database=database), poolclass=NullPool)

        @event.listens_for(other.sync_engine, "do_connect")
        def _as_the_application(
            dialect: Any, record: Any, cargs: list[Any], cparams: dict[str, Any]
        ) -> None:
            recipe = _recipe_of(engine)
            if recipe is not None:
                names = ("database", "dbname")  # asyncpg's word for it, and psycopg's
                own: dict[str, Any] = {name: cparams[name] for name in names if name in cparams}
                cparams.clear()
                cparams.update({**recipe.cparams, **own})

        return other

    @asynccontextmanager
    async def connection(
        self, database: str | None = None, *, autocommit: bool = False
    ) -> AsyncIterator[AsyncConnection]:
        """One connection of our own, with its engine disposed afterwards; not for an env.py."""
        engine = self.engine(database) if database or self._engine is None else self._twin()
        if autocommit:
            engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        try:
            async with AsyncExitStack() as stack:
                async with self._turn():
                    making = connected(engine, self.connect_timeout)
                    connection = await stack.enter_async_context(making)
                self.opened.add(connection)
                yield connection
        finally:
            await emptied(engine)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One connects at a time until the application's dialect has got to know its server.

        SQLAlchemy asks the server once a dialect, and has others wait for that in one pool only:
        a connection of a second pool would go on with a dialect that does not know it yet.
        """
        dialect = self._engine.dialect if self._engine is not None else None
        if dialect is None or dialect in _acquainted:
            yield
            return
        meetings = _meetings.setdefault(asyncio.get_running_loop(), weakref.WeakKeyDictionary())
        async with meetings.setdefault(dialect, asyncio.Lock()):
            yield
        _acquainted.add(dialect)


@asynccontextmanager
async def connected(engine: AsyncEngine, limit_s: float) -> AsyncIterator[AsyncConnection]:
    """A connection of an engine. Raises NoAnswerError when there is none in time."""
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(limit_s) as limit:
                connection = await stack.enter_async_context(engine.connect())
        except Exception as error:
            if not limit.expired():
                raise
            raise NoAnswerError(
                f"no answer from the database server within {limit_s:g} s to a new connection"
            ) from error
        yield connection


async def emptied(engine: AsyncEngine, *, close: bool = True) -> None:
    """Close what lies idle in an engine's pool, and what is out now when it comes back.

    It may be on its way: whoever is cancelled while closing leaves that to a task of its own.
    """
    pool = engine.sync_engine.pool
    await engine.dispose(close=close)
    # not before: the engine's next pool takes over what listens to this one
    keep_none_idle(pool)


def keep_none_idle(pool: Pool) -> None:
    """Close each connection of a pool when it is given back."""
    event.listen(pool, "checkin", lambda _, record: record.invalidate())


@asynccontextmanager
async def idle_connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection | None]:
    """A connection that lies idle in an engine's pool; None when none does."""
    idle = getattr(engine.sync_engine.pool, "checkedin", lambda: 0)
    if idle() == 0:
        yield None
        return
    async with engine.connect() as connection:
        yield connection


def _recipe_of(engine: AsyncEngine) -> _Recipe | None:
    """The arguments the application's engine would connect with now, listeners included."""

    def capture(dialect: Any, record: Any, cargs: list[Any], cparams: dict[str, Any]) -> None:
        raise _Recipe(list(cargs), dict(cparams))

    event.listen(engine.sync_engine, "do_connect", capture)
    try:
        engine.sync_engine.pool.recreate().connect().close()
    except _Recipe as recipe:
        return recipe
    finally:
        event.remove(engine.sync_engine, "do_connect", capture)
    return None  # a creator= of the application's: only its own database can be reached that way
