"""The engines that an env.py makes, or borrows from the application: how they connect.

It runs on another thread, and mostly on another loop, than the application. A connection that an
async driver made for one loop is of no use on another; none enters the application's pools.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

from alembic.config import Config
from sqlalchemy import Dialect, Engine, NullPool, Pool, StaticPool, event, make_url
from sqlalchemy.event.registry import _EventKey
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.util import greenlet_spawn
from sqlalchemy.util.concurrency import in_greenlet

from automigrator.backends.contract.backend import Backend, Weaker
from automigrator.backends.model_engine import as_arguments, recipe_of
from automigrator.errors import EnvError
from automigrator.migrations.runs.inside import Patches, inside_env, replaced
from automigrator.support.concurrency import running_loop
from automigrator.support.postgresql_urls import PLACE, PROOF, named

T = TypeVar("T")

AS_OURS = "automigrator_as_the_application"
"""Notes in a connection's `info` that it was made as the application makes its own."""

_WHO = (
    PLACE
    | PROOF
    | named("user username password database dbname dsn conninfo ssl direct_tls async_creator_fn")
)
"""What says who is reached, as whom, and how that is proved."""


@contextmanager
def engines_apart(
    backend: Backend,
    loop: asyncio.AbstractEventLoop,
    ours: Pool | None,
    config: Config,
    weaker: Weaker,
) -> Iterator[None]:
    """Context manager: keep the engines of env.py apart from the application's pools.

    `loop` is the application's. `ours`: the pool of the connection that env.py is offered; then
    an engine that it makes from `config` connects as the application does, too. One that would
    take the password of `config` to a server that proves less of itself does not connect.
    """
    engines = _Engines(loop, ours, [_as_strong(backend, config, weaker)])
    if ours is not None and backend.access.given_engine is not None:
        engines.listeners.insert(0, _as_ours(backend, config))
    token = _own.set(engines)
    try:
        with _patches.needed():
            yield
    finally:
        _own.reset(token)


class _Engines:
    """The engines of one run."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ours: Pool | None,
        listeners: list[Callable[..., Any]],
    ) -> None:
        self.loop, self.ours, self.listeners = loop, ours, listeners
        self.made: weakref.WeakSet[Pool] = weakref.WeakSet()
        self.instead: dict[Pool, Pool] = {}

    def are_applications(self, pool: Pool) -> bool:
        is_async = getattr(getattr(pool, "_dialect", None), "is_async", False)
        return is_async and pool is not self.ours and pool not in self.made


_own: ContextVar[_Engines | None] = ContextVar("automigrator_engines", default=None)


def _called() -> _Engines | None:
    """The engines of the run that calls."""
    return _own.get() if inside_env.get() else None


def _elsewhere() -> _Engines | None:
    """The engines of the run that calls, on another loop than the application's."""
    engines = _called()
    return engines if engines is not None and running_loop() is not engines.loop else None


@contextmanager
def _every_engine() -> Iterator[None]:
    connect, dispose, original = Pool.connect, Engine.dispose, asyncio.run
    listen = _EventKey.listen

    def created(kind: type[Dialect], engine: Engine) -> None:
        if (engines := _elsewhere()) is not None:
            engines.made.add(engine.pool)

    def connected(pool: Pool) -> Any:
        if (engines := _elsewhere()) is None:
            return connect(pool)
        dialect = getattr(pool, "_dialect", None)
        if engines.ours is None and getattr(dialect, "is_async", False):
            _ensure_awaitable(dialect)
        if not engines.are_applications(pool) or isinstance(pool, NullPool | StaticPool):
            return connect(pool)
        if pool not in engines.instead:
            engines.instead[pool] = _emptied_at_once(pool)
        return connect(engines.instead[pool])

    def disposed(engine: Engine, close: bool = True) -> None:
        engines = _elsewhere()
        if engines is None or not engines.are_applications(engine.pool):
            dispose(engine, close)

    def run(main: Coroutine[Any, Any, T], **options: Any) -> T:
        if (engines := _elsewhere()) is None:
            return original(main, **options)
        try:
            return original(_then_closed(main, engines.made), **options)
        finally:
            if engines.ours is not None:
                # it left none; drivers of ours want the loop's
                asyncio.set_event_loop(engines.loop)

    def connects(*arguments: Any) -> Any:
        engines = _called()
        answers = (each(*arguments) for each in (engines.listeners if engines else ()))
        return next((each for each in answers if each is not None), None)

    def listened(key: Any, *arguments: Any, **options: Any) -> None:
        _ensure_own(key.target, key.fn)
        listen(key, *arguments, **options)

    with ExitStack() as stack:
        event.listen(Engine, "do_connect", connects)
        stack.callback(event.remove, Engine, "do_connect", connects)
        for owner, name, by in (
            (Dialect, "engine_created", classmethod(created)),
            (Pool, "connect", connected),
            (Engine, "dispose", disposed),
            (asyncio, "run", run),
            (_EventKey, "listen", listened),
        ):
            stack.enter_context(replaced(owner, name, by))
        yield


_patches = Patches(_every_engine)


def _ensure_own(target: Any, listener: Any) -> None:
    """Note where env.py listens to every engine, session or mapper: those of other runs, too."""
    inside = inside_env.get()
    if not inside or not isinstance(target, type) or not target.__module__.startswith("sqlalchemy"):
        return
    # a module of the application's is imported, and listens, once in a process
    if inside.shares or getattr(listener, "__module__", None) not in sys.modules:
        inside.must_be_alone(f"it listens to events of every {target.__name__}")


def _ensure_awaitable(dialect: Any) -> None:
    """Raise before the driver makes a coroutine that nobody would await."""
    if not in_greenlet():
        raise MissingGreenlet(f"env.py connects without a loop, and its driver is {dialect.driver}")


def _emptied_at_once(pool: Pool) -> Pool:
    """A pool that connects as another one does, and keeps nothing."""
    return NullPool(
        pool._creator,
        reset_on_return=pool._reset_on_return,
        dialect=pool._dialect,
        _dispatch=pool.dispatch,
    )


async def _then_closed(main: Coroutine[Any, Any, T], made: weakref.WeakSet[Pool]) -> T:
    """Close what is idle in pools of env.py's own before their loop is."""
    try:
        return await main
    finally:
        for pool in list(made):
            if getattr(pool._dialect, "is_async", False):
                with suppress(Exception):
                    await greenlet_spawn(pool.dispose)


def _as_ours(backend: Backend, config: Config) -> Callable[..., Any]:
    """What lets an engine that env.py made from `config` connect as the application's does."""
    given = backend.access.given_engine
    assert given is not None
    url = make_url(config.get_main_option("sqlalchemy.url") or "")

    def connect(dialect: Any, record: Any, cargs: list[Any], cparams: dict[str, Any]) -> Any:
        alike = (dialect.name, dialect.driver) == (given.dialect.name, given.dialect.driver)
        if dialect is given.dialect or not alike or not inside_env.get():
            return None
        usual, named = dialect.create_connect_args(url)
        more = {key: value for key, value in cparams.items() if named.get(key) != value}
        if list(usual) != cargs or any(key in _WHO and key in named for key in more):
            return None  # it leads elsewhere; that is found out by what it connected to
        recipe = recipe_of(given)
        if proves := sorted(_WHO.intersection(more)):
            raise EnvError(
                "env.py's engine connects with arguments of its own "
                f"({', '.join(proves)}), which would replace what the "
                "application's proves; let env.py take config.attributes['connection']"
            )
        lost, statements = backend.sessions.given_later(more)
        if lost and recipe is None:
            raise EnvError(
                "env.py's engine connects with arguments of its own "
                f"({', '.join(sorted(lost))}), which the application's creator would not take; "
                "let env.py take config.attributes['connection']"
            )
        record.info[AS_OURS] = True
        pool = given.sync_engine.pool
        if recipe is None:
            fairy = pool.recreate().connect()
            made = fairy.dbapi_connection
            fairy.detach()
            _executed(made, statements)
            return made
        own = {key: named[key] for key in ("database", "dbname") if key in named}
        made = dialect.connect(*cargs, **{**more, **recipe[1], **own})
        pool.dispatch.connect(made, record)  # what the application's listeners add
        _executed(made, statements)
        return made

    return connect


def _as_strong(backend: Backend, config: Config, weaker: Weaker) -> Callable[..., None]:
    """What stops an engine of env.py's that would give the password in `config` to any server."""
    engines = (backend.access.given_engine, backend.access.application)
    applications = [each.dialect for each in engines if each is not None]
    url = make_url(config.get_main_option("sqlalchemy.url") or "sqlite://")

    def connect(dialect: Any, record: Any, cargs: list[Any], cparams: dict[str, Any]) -> None:
        if not inside_env.get() or dialect in applications or dialect.name != backend.name:
            return
        _, named = dialect.create_connect_args(url)
        whom = ("host", "port", "user", "password")
        if url.password and all(cparams.get(name) == named.get(name) for name in whom):
            ensure_as_strong(weaker, as_arguments(cargs, cparams), dialect.driver)

    return connect


def ensure_as_strong(weaker: Weaker, arguments: Mapping[str, Any] | None, driver: str) -> None:
    """Raise EnvError where a connection of env.py's own proves less than the application's."""
    if less := weaker(arguments, driver):
        raise EnvError(
            "env.py's own connection proves less of the server than the application's, and was not "
            f"used: {less}. Give the URL or the engine of env.py what the application's has, or "
            "take config.attributes['connection']"
        )


def _executed(connection: Any, statements: Sequence[str]) -> None:
    """Run statements on a driver's connection that SQLAlchemy does not know yet."""
    if statements:
        with closing(connection.cursor()) as cursor:
            for each in statements:
                cursor.execute(each)
                cursor.fetchall()
        connection.commit()
